"""Sites that lie, fall silent, restart or come back from an old disk, over the real SuperLink and real TLS.

Checks 10, 11 and 14 of the page SECURE-AGGREGATION. `played` is a real `StudyRun`, an attack an attempt.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evil import (
    Evil,
    Nodes,
    Setup,
    Slot,
    Study,
    assert_exact,
    borrowed,
    caught,
    forgiven,
    mean,
    refused,
    restart,
    restore,
    site_here,
    with_damage,
    with_false_seed,
    with_false_share,
    with_false_vector,
)
from loopback import Loopback
from numpy.typing import NDArray

from fedward.client import node as node_module
from fedward.privacy.errors import RefusalError
from fedward.privacy.secagg import ProtocolError
from fedward.server import models as model_files
from fedward.server.app import SystemClock, _alone
from fedward.server.lifecycle import Launch
from fedward.server.running import StudyRun
from fedward.server.views import StudyView
from fedward.study.heart import SITES
from fedward.study.manifest import parse_sealed
from fedward.study.messages import Masked, Request, Step
from fedward.study.secure import secure_terms

pytestmark = pytest.mark.federation

CLEVELAND, HUNGARIAN, SWITZERLAND, LIAR = SITES
HONEST = SITES[:3]
STAGES = ("masked", "confirm", "unmask")


@pytest.fixture(autouse=True)
def _every_node_runs(loopback: Loopback) -> Iterator[None]:
    """A test that failed half-way must not take the others with it."""
    yield
    for site in set(loopback.sites) - set(loopback.nodes):
        loopback.start_node(site)
    loopback.await_connected()


@pytest.fixture(scope="module")
def evil(loopback: Loopback) -> Iterator[Evil]:
    evil = Evil(loopback)
    yield evil
    evil.close()


@pytest.fixture(scope="module")
def study(evil: Evil) -> Study:
    return evil.study("faulty", training={"rounds": 1}, privacy={"spare_attempts": 900})


@pytest.fixture
def setup(study: Study) -> Setup:
    return study.ready()


def updates(study: Study, seed: int) -> dict[str, NDArray[np.float32]]:
    draw = np.random.default_rng(seed)
    return {site: draw.normal(0, 0.05, len(study.base)).astype(np.float32) for site in SITES}


@pytest.fixture
def taught(study: Study, monkeypatch: pytest.MonkeyPatch) -> dict[str, NDArray[np.float32]]:
    """What each site's training yields."""
    given = updates(study, 10)
    monkeypatch.setattr("fedward.client.training.train", lambda *_: given[site_here()])
    return given


@pytest.fixture
def nodes(evil: Evil, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(monkeypatch, evil)


def lying_at(nodes: Nodes, kind: str, told: Callable[[bytes], bytes]) -> None:
    nodes.lie = lambda site, request, body: told(body) if (site, request.kind) == (LIAR, kind) else body


def random_vector(slot_bytes: int) -> bytes:
    return np.random.default_rng(3).bytes(slot_bytes)


# --- 10: corrupted shares and vectors -------------------------------------------------------------------------------------------


def test_a_corrupted_share_names_its_site_and_the_others_open_the_sum(
    evil: Evil, study: Study, setup: Setup, nodes: Nodes, taught: dict[str, NDArray[np.float32]]
) -> None:
    lying_at(nodes, "unmask", lambda body: with_false_share(body, evil.colluder(LIAR)))
    slot = setup.slot()
    delta, _ = slot.run()
    assert {site: (error.code, error.blamed) for site, error in slot.false.items()} == {LIAR: ("false-share", LIAR)}
    assert_exact(slot, delta, mean(study, taught, SITES))


def test_a_corrupted_vector_names_its_site_and_is_not_in_the_sum(
    evil: Evil, study: Study, setup: Setup, nodes: Nodes, taught: dict[str, NDArray[np.float32]]
) -> None:
    lying_at(nodes, "masked", with_damage)
    slot = setup.slot()
    delta, _ = slot.run()
    assert {site: (error.code, error.blamed) for site, error in slot.false.items()} == {LIAR: ("vector-damaged", LIAR)}
    assert slot.core.survivors == HONEST
    assert_exact(slot, delta, mean(study, taught, HONEST))


def test_a_commitment_to_a_false_seed_names_its_site_and_opens_nothing(evil: Evil, setup: Setup, nodes: Nodes) -> None:
    lying_at(nodes, "masked", lambda body: with_false_seed(body, evil.colluder(LIAR)))
    with pytest.raises(ProtocolError) as refusal:
        setup.slot().run()
    assert (refusal.value.code, refusal.value.blamed) == ("false-dealer", LIAR)


def test_a_false_vector_spoils_its_sum_which_is_refused_and_names_nobody(
    evil: Evil, setup: Setup, nodes: Nodes
) -> None:
    slot = setup.slot()
    false = random_vector(slot.terms.ring.byte_length)
    lying_at(nodes, "masked", lambda body: with_false_vector(body, evil.colluder(LIAR), false))
    with pytest.raises(ProtocolError) as refusal:
        slot.run()
    assert (refusal.value.code, refusal.value.blamed) == ("sum-out-of-bounds", "")


# --- 10 and 11 in a real run ----------------------------------------------------------------------------------------------------

(
    FALSE_VECTOR,
    FALSE_SHARE,
    DAMAGED,
    ONE_MASKED,
    ONE_CONFIRM,
    ONE_UNMASK,
    TWO_MASKED,
    TWO_CONFIRM,
    TWO_UNMASK,
    HONESTLY,
) = range(1, 11)
DROPPING = {
    ONE_MASKED: ("masked", {CLEVELAND}), ONE_CONFIRM: ("confirm", {HUNGARIAN}), ONE_UNMASK: ("unmask", {SWITZERLAND}),
    TWO_MASKED: ("masked", {CLEVELAND, LIAR}), TWO_CONFIRM: ("confirm", {HUNGARIAN, LIAR}),
    TWO_UNMASK: ("unmask", {HUNGARIAN, SWITZERLAND}),
}  # fmt: skip


@dataclass(frozen=True)
class Played:
    """A study that ended, and what the sites trained in each attempt."""

    view: StudyView
    study: Study
    evil: Evil

    def outcome(self, attempt: int) -> str | None:
        return self.view.attempts[attempt - 1].outcome

    def statuses(self, attempt: int) -> dict[str, tuple[str, str]]:
        return {row.site: (row.status, row.reason) for row in self.view.statuses if row.attempt == attempt}

    def contributors(self, attempt: int) -> tuple[str, ...]:
        return tuple(site for site in SITES if self.statuses(attempt)[site][0] == "contributed")

    def model(self, name: str | None) -> NDArray[np.float64]:
        assert name is not None
        return model_files.load_model(self.evil.home.models_folder, name).astype(np.float64)

    def assert_exact(self, attempt: int, sites: tuple[str, ...]) -> None:
        """The committed model is the base and the plain mean of these sites, to within the ring's grid."""
        row, sealed = self.view.attempts[attempt - 1], self.study.sealed
        assert row.outcome == "committed", row
        assert self.contributors(attempt) == sites
        base = self.model(row.base)
        terms = secure_terms(sealed, 4, dimension=len(base), train=True, evaluate=False)
        unit = terms.grid / sum(terms.weights[site] for site in sites)
        wanted = base + mean(self.study, updates(self.study, attempt), sites)
        assert np.abs(self.model(row.model) - wanted).max() <= len(sites) * unit + 1e-7  # float32
        others = [one for one in (SITES, HONEST) if one != sites]
        for one in others:  # else this would say nothing
            assert (
                np.abs(self.model(row.model) - base - mean(self.study, updates(self.study, attempt), one)).max() > 1e-4
            )


@pytest.fixture(scope="module")
def played(loopback: Loopback, evil: Evil) -> Played:
    """A study of six rounds and ten attempts, in each of which its sites do what its number says."""
    file = loopback.study(
        "played",
        training={"rounds": 6, "server_momentum": 0.0},
        evaluation={"every": 100},
        federation={"deadline": "5s", "grace": "1s", "max_attempts": 6},
        privacy={"spare_attempts": 20},
    )
    digest = loopback.propose(file)
    loopback.approve(digest)
    store = evil.home.open_store()
    row = store.find(digest)
    assert row.sealed is not None
    study = Study(evil, parse_sealed(row.sealed))
    attempts: dict[str, int] = dict.fromkeys(SITES, 0)

    def scripted(site: str, request: Request) -> bool:
        """Whether the site drops out here."""
        if not isinstance(request, (Masked, Step)) or request.study != digest:
            return False
        attempts[site] = request.attempt if isinstance(request, Masked) else attempts[site]
        stage, sites = DROPPING.get(attempts[site], ("", set()))
        return request.kind == stage and site in sites

    def lied(site: str, request: Request, body: bytes) -> bytes:
        if site != LIAR or not isinstance(request, (Masked, Step)) or request.study != digest:
            return body
        what, key = (attempts[site], request.kind), evil.colluder(LIAR)
        if what == (FALSE_VECTOR, "masked"):
            return with_false_vector(body, key, random_vector(4 * len(study.base)))
        if what == (FALSE_SHARE, "unmask"):
            return with_false_share(body, key)
        return with_damage(body) if what == (DAMAGED, "masked") else body

    with pytest.MonkeyPatch.context() as patch:
        nodes = Nodes(patch, evil)
        nodes.lie = lied
        # A site whose handler fails is asked again until the deadline; one that refuses is out at once. Both are dropouts.
        nodes.silent = lambda site, request: scripted(site, request) and attempts[site] not in (TWO_CONFIRM, TWO_UNMASK)
        step = node_module.SiteNode._step

        def refusing(node: Any, request: Step, body: bytes) -> bytes:
            if scripted(node._kit.site, request):
                raise RefusalError("not now", code="scripted")
            return step(node, request, body)

        patch.setattr(node_module.SiteNode, "_step", refusing)
        patch.setattr("fedward.client.training.train", lambda *_: updates(study, attempts[site_here()])[site_here()])
        with _alone(evil.home, row.key):  # the service's own run of it finds nothing to do afterwards
            store.happened(row.key, Launch(), SystemClock().unix())
            StudyRun(evil.home, store, evil.transport, SystemClock(), lambda _: None).run(row.key)
    store.close()
    return Played(loopback.view(digest), study, evil)


def test_a_run_whose_sum_was_spoilt_keeps_its_model_and_tries_again(played: Played) -> None:
    first, second = played.view.attempts[:2]
    assert first.outcome == "sum-refused"
    assert "nobody can be named" in first.reason or "hide which" in first.reason
    assert first.model is None
    assert (second.round, second.base) == (first.round, first.base)


def test_a_run_names_a_corrupted_share_and_commits_the_exact_sum_of_all(played: Played) -> None:
    played.assert_exact(FALSE_SHARE, SITES)
    assert "false-share" in played.statuses(FALSE_SHARE)[LIAR][1]


def test_a_run_names_a_corrupted_vector_and_commits_the_exact_sum_of_the_others(played: Played) -> None:
    played.assert_exact(DAMAGED, HONEST)
    status, reason = played.statuses(DAMAGED)[LIAR]
    assert status == "refused"
    assert "vector-damaged" in reason


def test_a_run_that_loses_one_of_four_sites_at_any_stage_commits_the_exact_sum_of_the_survivors(played: Played) -> None:
    played.assert_exact(ONE_MASKED, SITES[1:])
    played.assert_exact(ONE_CONFIRM, SITES)
    played.assert_exact(ONE_UNMASK, SITES)
    assert played.statuses(ONE_MASKED)[CLEVELAND][0] == "dropped"
    assert "confirm" in played.statuses(ONE_CONFIRM)[HUNGARIAN][1]
    assert "unmask" in played.statuses(ONE_UNMASK)[SWITZERLAND][1]


def test_a_run_that_loses_two_of_four_sites_at_any_stage_aborts_cleanly_and_goes_on(played: Played) -> None:
    base = played.view.attempts[TWO_MASKED - 1].base
    for attempt in (TWO_MASKED, TWO_CONFIRM, TWO_UNMASK):
        row = played.view.attempts[attempt - 1]
        assert (row.outcome, row.model, row.base) == ("quorum-missed", None, base)
        for site in DROPPING[attempt][1]:
            assert site in row.reason
    assert played.view.attempts[HONESTLY - 1].base == base
    played.assert_exact(HONESTLY, SITES)
    assert (played.view.state, played.view.version) == ("completed", 6), played.view.reason


# --- 11: dropouts, one by one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_one_of_four_sites_dropping_out_leaves_the_exact_sum_of_the_survivors(
    study: Study, setup: Setup, nodes: Nodes, taught: dict[str, NDArray[np.float32]], stage: str
) -> None:
    for silent in (CLEVELAND, LIAR):  # who adds all its pairwise masks, and who subtracts them all
        nodes.silent = lambda site, request, silent=silent: (site, request.kind) == (silent, stage)  # type: ignore[misc]
        slot = setup.slot()
        delta, _ = slot.run()
        assert slot.said[stage][silent].code == "handler-failed"
        survivors = tuple(site for site in SITES if stage != "masked" or site != silent)
        assert slot.core.survivors == survivors
        assert_exact(slot, delta, mean(study, taught, survivors))


def aborted(slot: Slot, stage: str) -> None:
    """The slot's exchange, and where it ends: at the next step that the coordinator's half would take."""
    with pytest.raises(ProtocolError) as refusal:
        slot.run()
    assert (refusal.value.code, refusal.value.lie) == ("survivors-too-few", False)
    done = [name for name in STAGES if slot.said[name]]
    assert done == list(STAGES[: STAGES.index(stage) + 1])


@pytest.mark.parametrize(("stage", "count"), [("masked", 2), ("confirm", 2), ("unmask", 2), ("unmask", 4)])
def test_more_dropouts_than_a_cohort_of_four_bears_end_in_a_clean_abort(
    evil: Evil, setup: Setup, nodes: Nodes, stage: str, count: int
) -> None:
    """And the survivors give nothing to a coordinator that goes on all the same."""
    silent, left = SITES[:count], SITES[count:]
    nodes.silent = lambda site, request: request.kind == stage and site in silent
    slot = setup.slot()
    aborted(slot, stage)
    if stage == "masked":
        for said in evil.tell({site: setup.packed("confirm", slot.survivors(left)) for site in left}).values():
            caught(evil, said, "survivors-too-few")
    elif stage == "confirm":
        shown = setup.packed("unmask", slot.confirmed(SITES, slot.signatures(left)))
        for said in evil.tell(dict.fromkeys(left, shown)).values():
            caught(evil, said, "confirmations-too-few")


def test_a_cohort_of_three_bears_no_dropout_at_any_stage(study: Study, nodes: Nodes, taught: dict[str, Any]) -> None:
    setup = study.set_up(cohort=SITES[1:])
    for stage in STAGES:
        nodes.silent = lambda site, request, stage=stage: (site, request.kind) == (LIAR, stage)  # type: ignore[misc]
        aborted(setup.slot(), stage)
    nodes.silent = lambda _site, _request: False
    slot = setup.slot()
    delta, _ = slot.run()
    assert_exact(slot, delta, mean(study, taught, SITES[1:]))


# --- 14: slots and attempts, used once ------------------------------------------------------------------------------------------


def test_a_second_survivor_set_is_not_signed_in_one_slot(evil: Evil, setup: Setup) -> None:
    slot = setup.slot()
    slot.masked()
    slot.confirm()
    without = {
        site: tuple(name for name in SITES if name != other) for site, other in zip(SITES, SITES[::-1], strict=True)
    }
    second = {site: setup.packed("confirm", slot.survivors(without[site])) for site in SITES}
    for said in evil.tell(second).values():
        caught(evil, said, "second-survivor-set")
    slot.unmask()
    caught(evil, evil.tell_one(LIAR, second[LIAR]), "second-survivor-set")
    forgiven(evil, evil.tell_one(CLEVELAND, slot.said["confirm"][CLEVELAND].sent), "repeated")  # it may have been lost
    slot.open()


def test_a_used_slot_or_attempt_is_refused_and_costs_nothing(evil: Evil, study: Study) -> None:
    setup = study.set_up(slots=4)
    setup.slot(0).masked()
    used = setup.slot(2)
    used.masked()
    before, done = study.all_charges(), used.request.attempt
    body = study.base.tobytes()
    cases: dict[str, tuple[dict[str, object], str]] = {
        "the slot, a new attempt": ({"slot": 2, "attempt": done + 1}, "slot-used"),
        "an earlier slot": ({"slot": 0, "attempt": done + 1}, "slot-used"),
        "a slot that was left out": ({"slot": 1, "attempt": done + 1}, "slot-used"),
        "a slot beyond the batch": ({"slot": 4, "attempt": done + 1}, "slot-used"),
        "the attempt, a new slot": ({"slot": 3, "attempt": done}, "attempt-replayed"),
        "an earlier attempt": ({"slot": 3, "attempt": 1}, "attempt-replayed"),
    }
    said = evil.spread({name: evil.raw(used.header(**changes), body) for name, (changes, _) in cases.items()})
    for name, (_, code) in cases.items():
        caught(evil, said[name], code)
    other = study.another_base()
    odd = setup.slot(2, attempt=done, base=other)  # the same attempt on another model
    caught(evil, evil.tell_one(CLEVELAND, odd.packed()), "slot-used")
    assert study.all_charges() == before
    assert {one.code for one in setup.slot(3).masked().values()} == {""}


def test_an_attempt_at_or_below_one_seen_is_refused_in_a_new_batch(evil: Evil, study: Study) -> None:
    study.next_attempt()
    slot = study.ready().slot()
    slot.masked()
    setup, before = study.set_up(), study.all_charges()
    numbers = (slot.request.attempt, slot.request.attempt - 1, 1)
    again = {str(number): setup.slot(0, attempt=number).packed() for number in numbers}
    for said in evil.spread(again, HONEST).values():
        caught(evil, said, "attempt-replayed")
    assert study.all_charges() == before
    assert {one.code for one in setup.slot(0).masked().values()} == {""}


def confirmed(study: Study) -> Slot:
    """A slot in a fresh batch that lacks only its unmasking."""
    return study.set_up().slot(1).until_confirmed()


def after(evil: Evil, study: Study, slot: Slot, site: str, used: str) -> None:
    """Whatever became of the site: no second vector, no second signature, and no charge.

    Args:
        used: how it refuses a slot of the old batch.
    """
    before, gone = study.charges(site), used == "unknown-batch"
    say = forgiven if gone else caught
    offers: list[dict[str, object]] = [{"attempt": study.next_attempt()}, {"slot": 0, "attempt": study.next_attempt()}]
    for changes in [*offers, {}] if gone else offers:
        say(evil, evil.tell_one(site, evil.raw(slot.header(**changes), study.base.tobytes())), used)
    without = [name for name in SITES if name != (CLEVELAND if site == LIAR else LIAR)]
    code = "unknown-batch" if gone else "second-survivor-set"
    say(evil, slot.step("confirm", site, slot.survivors(without)), code)
    assert study.charges(site) == before


def test_a_used_slot_is_refused_after_a_restart(evil: Evil, loopback: Loopback, study: Study) -> None:
    slot = confirmed(study)
    restart(loopback, LIAR)
    study.now = None
    after(evil, study, slot, LIAR, "unknown-batch")
    shown = slot.confirmed(SITES, slot.signatures(SITES))
    forgiven(evil, slot.step("unmask", LIAR, shown), "unknown-batch")  # nor can it reveal what it has forgotten
    fresh = study.set_up()
    again = fresh.slot(0, attempt=slot.request.attempt)
    caught(evil, evil.tell_one(LIAR, again.packed()), "attempt-replayed")  # the ledger remembers
    assert fresh.slot(0).masked([LIAR])[LIAR].code == ""


def test_a_used_slot_is_refused_after_the_disk_was_restored_while_the_node_ran(
    evil: Evil, loopback: Loopback, study: Study, tmp_path: Path
) -> None:
    with borrowed(loopback, LIAR, tmp_path / "home") as home:
        backup = Path(shutil.copytree(home, tmp_path / "backup"))
        slot = confirmed(study)
        slot.unmask()
        slot = slot.setup.slot(2).until_confirmed()
        restore(backup, home)
        after(evil, study, slot, LIAR, "slot-used")
        slot.unmask()
        slot.open()
        again = slot.confirmed(SITES, slot.signatures(SITES)[1:])
        caught(evil, slot.step("unmask", LIAR, again), "second-unmask")
        fresh = study.set_up()
        again_ = fresh.slot(0, attempt=slot.request.attempt)
        caught(evil, evil.tell_one(LIAR, again_.packed()), "attempt-replayed")  # the ledger forgot, the node did not
        refused(evil.tell_one(LIAR, fresh.slot(0).packed()), "ledger-broken")  # and nothing new without a whole ledger
    study.now = None


def test_a_used_slot_is_refused_after_the_disk_was_restored_and_the_node_restarted(
    evil: Evil, loopback: Loopback, study: Study, tmp_path: Path
) -> None:
    with borrowed(loopback, LIAR, tmp_path / "home") as home:
        backup = Path(shutil.copytree(home, tmp_path / "backup"))
        slot = confirmed(study)
        loopback.stop_node(LIAR)
        restore(backup, home)
        loopback.start_node(LIAR)
        loopback.await_connected()
        after(evil, study, slot, LIAR, "unknown-batch")
        shown = slot.confirmed(SITES, slot.signatures(SITES))
        forgiven(evil, slot.step("unmask", LIAR, shown), "unknown-batch")
    study.now = None
