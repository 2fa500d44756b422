"""A study's run under secure aggregation: exact sums or a named abort whatever drops out or dies; only sums are kept."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import enrol
from federation import Federation, allow_plain, heart_manifest
from numpy.typing import NDArray
from observed import charges, committed, outcomes, run, state, statuses
from sampling import sample
from secured import (
    SETUP,
    SLOT,
    WITHOUT,
    KilledError,
    Mortal,
    Said,
    Truth,
    Wire,
    check_slots,
    check_sums,
    context_of,
    decide,
    draw_with,
    given_updates,
    known_as_approved,
    leaving,
    make_quick,
    ready,
    secure_study,
    stage_fault,
    undecide,
    vector_of,
)

from fedward.client import datasets
from fedward.privacy.draws import Draws
from fedward.privacy.errors import InputError, RefusalError
from fedward.privacy.secagg.contexts import least_threshold
from fedward.privacy.secagg.site import SiteParty
from fedward.privacy.signing import Identity
from fedward.server import batches as batches_module
from fedward.server.aggregation import step
from fedward.server.app import RunLog
from fedward.server.exchanges import Gathered, PlainExchange, SecureExchange
from fedward.server.lifecycle import Stop
from fedward.server.models import load_model
from fedward.server.proposal import propose
from fedward.server.running import StudyRun
from fedward.server.store import Store
from fedward.simulations.baselines import UnsafeSeededDraws
from fedward.study import messages
from fedward.study.heart import SITES
from fedward.study.messages import Declare, Declared, Masked, Request, Secured
from fedward.study.metrics import histogram_shape
from fedward.study.models import build, to_vector

SEVEN = tuple(f"s{number}" for number in range(1, 8))
THREE = SITES[:3]
QUICK = {"deadline": "20s", "grace": "5s"}


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Federation]:
    """Sites that have joined and know no study yet."""
    made: dict[tuple[str, ...], Federation] = {}

    def give(sites: tuple[str, ...]) -> Federation:
        if sites not in made:
            made[sites] = Federation(tmp_path_factory.mktemp("enrolled"), sites=sites)
        return made[sites]

    return give


Make = Callable[..., Federation]


@pytest.fixture(scope="module")
def make(enrolled: Callable[[tuple[str, ...]], Federation], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A federation of its own for the caller, in which these sites approved the secure study with these changes."""
    made: dict[str, Federation] = {}

    def give(sites: tuple[str, ...] = SITES, *, dp: bool = True, **changes: dict[str, object]) -> Federation:
        changes["federation"] = QUICK | changes.get("federation", {})
        name = json.dumps([sites, dp, changes], sort_keys=True)
        if name not in made:
            made[name] = enrolled(sites).copy(tmp_path_factory.mktemp("ready") / "copy")
            ready(made[name], secure_study(dp=dp, **changes))
        return made[name].copy(tmp_path_factory.mktemp("run") / "copy")

    return give


@pytest.fixture(autouse=True)
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        make_quick(context)
        yield context


def check_record(federation: Federation, wire: Wire | None = None) -> None:
    """What holds at any end: names for everyone, and no contribution without a charge."""
    for row in federation.store.attempts(federation.key):
        assert row.outcome is not None
        named = statuses(federation, row.attempt)
        assert set(named) == set(federation.sites)
        assert all(status == "contributed" or reason for status, reason in named.values())
    check_sums(federation)
    if wire is not None:
        check_slots(wire.said)
    for site in federation.sites:
        made = charged(federation, site)
        assert len(set(made)) == len(made), f"{site} was charged twice"
        assert len(charges(federation, site)) <= federation.sealed().manifest.planned_attempts


def charged(federation: Federation, site: str) -> list[tuple[int, str]]:
    """(attempt, purpose) of every charge of a site."""
    with federation.sites[site].ledger(witnessed=False) as ledger:
        made = [entry.charge for entry in ledger.charges()]
    return [(charge.attempt, charge.purpose) for charge in made]


def contributed(federation: Federation, attempt: int) -> tuple[str, ...]:
    return tuple(site for site, (status, _) in statuses(federation, attempt).items() if status == "contributed")


def first_model(federation: Federation, truth: Truth, attempt: int, sites: Sequence[str]) -> NDArray[np.float32]:
    """The first round's model by hand: w + η Δ, Δ by Python's integers."""
    sealed = federation.sealed()
    start = to_vector(build(sealed.manifest)).astype(np.float64)
    delta = truth.delta(attempt, sites, sealed)
    return np.asarray(start + sealed.manifest.training.server_learning_rate * delta).astype(np.float32)


def summed_counts(federation: Federation, version: int) -> NDArray[np.int64]:
    """The summed histogram of a model version, as the store has it."""
    with sqlite3.connect(federation.home.store_file) as connection:
        (raw,) = connection.execute(
            "SELECT counts FROM evaluations WHERE study = ? AND version = ?", (federation.key, version)
        ).fetchone()
    return messages.counts_from_bytes(raw, histogram_shape(federation.sealed().manifest))


# --- a secure sum is the plain sum ----------------------------------------------------------------------------------------

FEDAVG = {"algorithm": "fedavg", "local_steps": 3, "sampling_rate": 0.5, "local_learning_rate": 0.2}
STUDIES: dict[str, dict[str, Any]] = {
    "fedsgd": {},
    "fedavg": {"training": FEDAVG},
    "fedprox": {"training": FEDAVG | {"algorithm": "fedprox", "proximal": 0.1}},
    "fedadam": {
        "training": FEDAVG | {"algorithm": "fedadam", "server_learning_rate": 0.02},
        "model": {"name": "mlp", "hidden": [5], "seed": 7},
    },
    "without-dp": {"dp": False},
    "64-bit": {"privacy": {"ring_bits": 64}},
}


def seeded(federation: Federation) -> Callable[[str], Draws]:
    order = list(federation.sites)
    return lambda site: UnsafeSeededDraws(order.index(site))


def gathered(patch: pytest.MonkeyPatch) -> list[Gathered]:
    """What the attempts of a run yield, plain or secure, in order."""
    found: list[Gathered] = []
    for exchange in (PlainExchange, SecureExchange):

        def gather(self: Any, sites: Any, original: Any = exchange.gather) -> Gathered:
            found.append(original(self, sites))
            return found[-1]

        patch.setattr(exchange, "gather", gather)
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_a_secure_run_is_the_plain_run_up_to_the_ring_s_grid(
    enrolled: Callable[[tuple[str, ...]], Federation], tmp_path: Path, patch: pytest.MonkeyPatch, name: str
) -> None:
    changes = {"evaluation": {"every": 1}} | STUDIES[name]
    changes["training"] = {"rounds": 2} | changes.get("training", {})
    dp = changes.pop("dp", True)
    found = gathered(patch)
    plain, secure = (enrolled(SITES).copy(tmp_path / kind) for kind in ("plain", "secure"))
    privacy = ({} if dp else WITHOUT) | changes.pop("privacy", {})
    ready(plain, heart_manifest(privacy=privacy, **changes))
    draw_with(plain, seeded(plain))
    run(plain)
    plainly, found[:] = list(found), []
    truth = Truth(patch)
    sealed = ready(secure, secure_study(privacy=privacy, **changes))
    draw_with(secure, seeded(secure))
    wire = Wire(secure)
    run(secure)
    assert state(plain) == state(secure) == "completed"
    assert outcomes(plain) == outcomes(secure) == [(1, "committed"), (2, "committed"), (3, "committed")]
    check_record(secure, wire)

    # The same noise and the same patients: in the first round nothing but rounding can differ.
    np.testing.assert_array_equal(found[0].delta, truth.delta(1, SITES, sealed))
    terms = truth.terms[1]
    grain = len(SITES) * terms.grid / sum(terms.weights.values())
    assert found[0].delta is not None
    assert plainly[0].delta is not None
    assert np.abs(found[0].delta).max() > 100 * grain  # the bound below says something
    np.testing.assert_allclose(found[0].delta, plainly[0].delta, rtol=0, atol=grain + 1e-9)
    np.testing.assert_allclose(found[0].delta, truth.mean(1, SITES, sealed), rtol=0, atol=grain + 1e-9)
    np.testing.assert_allclose(committed(secure, 2), committed(plain, 2), rtol=0, atol=3e-4)

    # Counts have no grid.
    for attempt in (2, 3):
        np.testing.assert_array_equal(found[attempt - 1].counts, truth.counted(attempt, SITES))
        np.testing.assert_array_equal(summed_counts(secure, attempt - 1), truth.counted(attempt, SITES))
        assert truth.counted(attempt, SITES)[0].sum() > 200
    one, other = (
        {(row.version, row.slice): (row.value, row.positives, row.negatives)
         for row in federation.store.metrics(federation.key) if row.name == "auroc"}
        for federation in (plain, secure)
    )  # fmt: skip
    assert one.keys() == other.keys()
    for place, (value, positives, negatives) in one.items():
        assert other[place][1:] == (positives, negatives)
        assert other[place][0] == pytest.approx(value, abs=0.01)


def test_the_server_s_step_is_taken_on_the_sum_that_was_opened(make: Make, patch: pytest.MonkeyPatch) -> None:
    federation = make(training={"rounds": 2} | FEDAVG | {"algorithm": "fedadam"})
    truth = Truth(patch)
    run(federation)
    checkpoint = federation.store.checkpoint(federation.key)
    assert checkpoint is not None
    vector = to_vector(build(federation.sealed().manifest))
    memory: Any = None
    for attempt in (1, 2):
        memory = memory or type("Zero", (), {"first": np.zeros(len(vector)), "second": np.zeros(len(vector))})()
        delta = truth.delta(attempt, SITES, federation.sealed())
        vector, memory = step(vector, delta, memory, federation.sealed().manifest.training)
        np.testing.assert_array_equal(committed(federation, attempt), vector)


def test_an_update_longer_than_the_bound_is_clipped_at_the_site_which_alone_knows(
    make: Make, patch: pytest.MonkeyPatch
) -> None:
    federation = make(dp=False, training={"rounds": 1}, privacy={"update_bound": 0.5})
    truth = Truth(patch, given_updates(scale=3.0))
    run(federation)
    sealed = federation.sealed()
    assert all(np.linalg.norm(truth.updates[site, 1]) > 5 for site in SITES)
    np.testing.assert_array_equal(committed(federation, 1), first_model(federation, truth, 1, SITES))
    start = to_vector(build(sealed.manifest)).astype(float)
    clipped = [0.5 * u / np.linalg.norm(u.astype(float)) for u in (truth.updates[site, 1] for site in SITES)]
    mean = np.average(clipped, axis=0, weights=[truth.terms[1].weights[site] for site in SITES])
    np.testing.assert_allclose(committed(federation, 1) - start, mean, rtol=0, atol=1e-6)
    assert not any("clip" in text for text in federation.said)
    assert all('"event": "clipped"' in home.log_file.read_text() for home in federation.sites.values())


def test_a_plan_whose_sum_could_overflow_is_refused_when_it_is_proposed(tmp_path: Path, make: Make) -> None:
    federation = make(THREE)
    store = Store.open(tmp_path / "store.sqlite")
    coordinator = federation.home.identity()
    keys = {f"big-{number:02d}": Identity.generate() for number in range(11)}
    for site, key in keys.items():
        enrol(store, site, key.public, site, 0)

    def declares(site: str) -> Callable[[bytes], bytes]:
        def answer(data: bytes) -> bytes:
            request, _ = messages.open_request(data, coordinator.public)
            assert isinstance(request, Declare), "a study that cannot be summed was offered"
            reply = Declared(
                site=site,
                request=messages.digest(data),
                study_id=request.study_id,
                patients=97_612_889,
                noise_multiplier=5.0,
            )
            return messages.pack(reply, b"", keys[site])

        return answer

    federation.transport.nodes = {site: declares(site) for site in keys}
    manifest = secure_study()
    key = store.create_study(manifest.study.id, manifest.model_dump_json(), tuple(keys), 0)
    with pytest.raises(InputError) as caught:
        propose(store, federation.transport, federation.clock, store.study(key), coordinator,
                federation.home.settings.federation_id, federation.said.append)  # fmt: skip
    assert caught.value.code == "ring-overflow"
    assert store.study(key).sealed is None
    store.close()


# --- dropouts at every stage ------------------------------------------------------------------------------------------------


def strike(federation: Federation, stage: str, sites: Sequence[str], fault: str) -> Callable[[str, Request], str]:
    return leaving(federation, stage, sites) if fault == "leaves" else stage_fault(stage, sites, fault)


def stays_in(stage: str, fault: str) -> bool:
    """Whether a site that is struck so is in the sum all the same."""
    asked_again = stage == "advertise" and fault in {"killed", "killed-after"}
    return fault == "lost" or asked_again or stage in {"confirm", "unmask"}


def check_struck(named: tuple[str, str], stage: str, fault: str) -> None:
    """How a struck site stands in the record."""
    status, reason = named
    if fault == "lost" or (stage == "advertise" and fault in {"killed", "killed-after"}):
        assert (status, reason) == ("contributed", "")
    elif stage in SETUP:
        assert status == "absent" or fault.startswith("killed")
        assert reason.startswith("left out of the batch: ") or status == "contributed"
    elif stage == "masked":
        assert status == ("refused" if fault in {"killed", "killed-after"} else "dropped")
    else:
        lost = "refused" if fault in {"killed", "killed-after"} else "no answer"
        assert (status, reason[: len(f"in the sum; then {lost} at {stage}: ")]) == (
            "contributed",
            f"in the sum; then {lost} at {stage}: ",
        )
    if fault in {"killed", "killed-after"} and stage == "masked":
        assert "unknown-batch" in reason


CASES = [
    *((5, stage, 1, fault) for stage in (*SETUP, *SLOT) for fault in ("leaves", "killed", "killed-after")),
    *((5, stage, 1, fault) for stage in ("masked", "unmask") for fault in ("mute", "lost")),
    *((5, stage, 2, "leaves") for stage in ("open", *SLOT)),
    *((7, stage, 2, "killed") for stage in SLOT),
    *((7, stage, 3, "leaves") for stage in ("share", "unmask")),
]


@pytest.mark.parametrize(("n", "stage", "k", "fault"), CASES, ids=str)
def test_dropouts_end_in_the_exact_sum_of_the_survivors_or_a_named_abort(
    make: Make, patch: pytest.MonkeyPatch, n: int, stage: str, k: int, fault: str
) -> None:
    """Of five sites, t = 4, one may drop out of a sum, of seven, t = 5, two. One more costs the attempt; a setup goes on."""
    sites = SEVEN[:n]
    federation = make(sites, dp=False, training={"rounds": 1}, privacy={"spare_attempts": 3})
    truth = Truth(patch, given_updates())
    struck = {1: ("s3",), 2: ("s1", f"s{n}"), 3: ("s2", "s4", "s6")}[k]
    known_as_approved(federation)
    wire = Wire(federation)
    wire.fault = strike(federation, stage, struck, fault)

    def back(text: str) -> None:
        if text.startswith("attempt 1: "):
            wire.fault = lambda _site, _request: ""
            wire.offline.clear()

    run(federation, heard=back)
    assert state(federation) == "completed", federation.store.study(federation.key).reason
    check_record(federation, wire)
    kept = sites if stays_in(stage, fault) else tuple(site for site in sites if site not in struck)
    if stage in SETUP:  # a struck site that is alive again may have joined the next try
        kept = tuple(site for site in sites if site not in struck or statuses(federation, 1)[site][0] == "contributed")
    others = set(sites) - set(struck)
    first = federation.store.attempts(federation.key)[0]
    named = statuses(federation, 1)
    for site in struck:
        check_struck(named[site], stage, fault)
    assert all(named[site] == ("contributed", "") for site in others)
    if stage in SLOT and k > n - least_threshold(n):
        assert first.outcome == "quorum-missed"
        assert all(f"{site} " in first.reason for site in struck), "an abort that does not name who is missing"
        assert not any(f"{site} " in first.reason for site in others)
        assert outcomes(federation)[1] == (1, "committed")
        summed, attempt = sites, 2
    else:
        assert first.outcome == "committed"
        summed, attempt = kept, 1
    assert contributed(federation, attempt) == summed
    np.testing.assert_array_equal(committed(federation, attempt), first_model(federation, truth, attempt, summed))

    # What was charged stays charged, also of an attempt that came to nothing.
    gave = {one.site for one in wire.masked() if context_of(one).attempt == 1}
    for site in sites:
        trained = [attempt for attempt, purpose in charged(federation, site) if purpose == "train-without-dp"]
        assert (1 in trained) == (site in gave)
        assert trained == sorted(set(trained))
        assert set(trained) <= {1, attempt}


@pytest.mark.parametrize("stage", SLOT)
def test_three_sites_bear_no_dropout_and_the_next_attempt_has_fresh_noise_and_masks(
    make: Make, patch: pytest.MonkeyPatch, stage: str
) -> None:
    federation = make(THREE, training={"rounds": 1})
    truth = Truth(patch)
    known_as_approved(federation)
    wire = Wire(federation)
    wire.fault = leaving(federation, stage, ("hungarian",))

    def back(text: str) -> None:
        if text.startswith("attempt 1: "):
            assert text.startswith("attempt 1: quorum-missed (2 of at least 3 sites answered at "), text
            assert "; hungarian " in text
            wire.fault = lambda _site, _request: ""
            wire.offline.clear()

    run(federation, heard=back)
    assert "3 must answer, none may drop out" in " ".join(federation.said)
    assert state(federation) == "completed"
    assert outcomes(federation) == [(1, "quorum-missed"), (1, "committed"), (2, "committed")]
    check_record(federation, wire)
    np.testing.assert_array_equal(committed(federation, 2), first_model(federation, truth, 2, THREE))
    twice = ("cleveland", "switzerland") if stage == "masked" else THREE
    for site in twice:
        assert charges(federation, site) == [(1, 1), (1, 2)]
        one, other = (truth.updates[site, attempt] for attempt in (1, 2))
        # One step on all patients from the same model: only the noise can differ, and it does in every coordinate.
        assert (one != other).all()
        sent = {context_of(said).attempt: said for said in wire.masked(site)}
        assert (vector_of(sent[1]) != vector_of(sent[2])).mean() > 0.999
        assert context_of(sent[1]).slot < context_of(sent[2]).slot
    assert len(wire.batches()) == 1  # an absent member is a dropout, not a reason for new keys


@pytest.mark.parametrize("stage", SETUP)
def test_three_sites_that_lose_one_in_a_setup_end_by_name_and_go_on_when_launched_again(make: Make, stage: str) -> None:
    federation = make(THREE, training={"rounds": 1})
    known_as_approved(federation)
    wire = Wire(federation)
    wire.fault = leaving(federation, stage, ("hungarian",))
    with pytest.raises(RefusalError, match="hungarian left out of the batch") as caught:
        run(federation)
    assert caught.value.code == "quorum-missed"
    assert all(charged(federation, site) == [] for site in THREE)
    wire.fault = lambda _site, _request: ""
    wire.offline.clear()
    run(federation)
    assert state(federation) == "completed"
    check_record(federation, wire)


@pytest.mark.parametrize("stage", ["share", "open"])
def test_a_node_that_restarts_during_the_setup_of_three_does_not_fail_the_study(make: Make, stage: str) -> None:
    """It is back at once: the study has what it needs, and must not use up its attempts in the same instant."""
    federation = make(THREE, training={"rounds": 1})
    wire = Wire(federation, stage_fault(stage, ("hungarian",), "killed"))
    run(federation)
    assert state(federation) == "completed"
    check_record(federation, wire)


def test_a_site_that_refused_is_not_part_of_a_batch(make: Make) -> None:
    federation = make(training={"rounds": 1})
    decide(federation, "switzerland", "refused")
    wire = Wire(federation)
    run(federation)
    assert state(federation) == "completed"
    others = tuple(site for site in SITES if site != "switzerland")
    assert wire.batches() == [others]
    assert contributed(federation, 1) == others
    assert statuses(federation, 1)["switzerland"] == ("absent", "not reachable, or it refused the study")


@pytest.mark.parametrize("site", ["va", "cleveland"])
def test_a_site_that_has_not_approved_is_left_out_by_name_and_joins_after_it_did(make: Make, site: str) -> None:
    federation = make(training={"rounds": 3})
    undecide(federation, site)
    wire = Wire(federation)

    def approve(text: str) -> None:
        if text.startswith("attempt 1: "):
            decide(federation, site, "approved")
        if text.startswith("attempt 2: "):
            federation.clock.elapsed += 60

    run(federation, heard=approve)
    assert state(federation) == "completed", federation.store.study(federation.key).reason
    check_record(federation, wire)
    others = tuple(name for name in SITES if name != site)
    for attempt in (1, 2):
        status, reason = statuses(federation, attempt)[site]
        assert status == "refused"
        assert reason.startswith(f"left out of the batch: {site} refused: not-approved (ask {site} about ")
        assert contributed(federation, attempt) == others
    assert contributed(federation, 3) == SITES
    assert wire.batches() == [SITES, others, SITES]
    assert [attempt for attempt, _ in charged(federation, site)] == [3, 4]


def test_a_restarted_node_has_no_place_and_the_next_attempt_has_a_new_batch_with_it(make: Make) -> None:
    federation = make(training={"rounds": 3})
    wire = Wire(federation)

    def restart(text: str) -> None:
        if text.startswith("attempt 1: "):
            federation.restart("va")

    run(federation, heard=restart)
    assert state(federation) == "completed"
    check_record(federation, wire)
    status, reason = statuses(federation, 2)["va"]
    assert status == "refused"
    assert reason.startswith("va refused: unknown-batch (ask va about ")
    assert contributed(federation, 2) == tuple(site for site in SITES if site != "va")
    assert contributed(federation, 3) == SITES
    assert wire.batches() == [SITES, SITES]
    setups = [request.setup for _, request in sorted({(one.request.attempt, one.request) for one in wire.of("masked")},
                                                     key=lambda found: found[0])]  # type: ignore[union-attr]  # fmt: skip
    assert setups[0] == setups[1] != setups[2] == setups[3]


def test_an_absent_member_returns_to_its_batch_and_a_newcomer_makes_a_new_one(make: Make) -> None:
    federation = make(training={"rounds": 5})
    wire = Wire(federation)

    def move(text: str) -> None:
        away = {"approved": {"va"}, "attempt 1": {"va"}, "attempt 2": set(), "attempt 3": {"cleveland"}}
        for begins, offline in away.items():
            if text.startswith(begins):
                wire.offline = set(offline)
        if text.startswith("attempt 4"):
            wire.offline = set()

    run(federation, heard=move)
    assert state(federation) == "completed"
    check_record(federation, wire)
    assert wire.batches() == [SITES[:3], SITES]
    assert [contributed(federation, attempt) for attempt in range(1, 6)] == [
        SITES[:3], SITES[:3], SITES, SITES[1:], SITES
    ]  # fmt: skip


def test_a_batch_whose_slots_are_used_up_is_followed_by_another(make: Make, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(batches_module, "MAX_SLOTS", 2)
    federation = make(training={"rounds": 4})
    wire = Wire(federation)
    run(federation)
    assert state(federation) == "completed"
    check_record(federation, wire)
    assert wire.batches() == [SITES] * 3
    slots = sorted({(one.request.attempt, one.request.slot) for one in wire.of("masked")})  # type: ignore[union-attr]
    assert slots == [(1, 0), (2, 1), (3, 0), (4, 1), (5, 0)]


def test_attempts_that_asked_nobody_do_not_wear_the_study_out(make: Make) -> None:
    federation = make(training={"rounds": 1}, federation={"max_attempts": 20})
    known_as_approved(federation)
    federation.transport.offline = {"va", "cleveland"}
    with pytest.raises(RefusalError):
        run(federation)
    federation.transport.offline = set()
    run(federation)
    assert state(federation) == "completed"
    assert outcomes(federation) == [(1, "quorum-missed")] * 20 + [(1, "committed"), (2, "committed")]
    check_record(federation)


# --- sums that are refused --------------------------------------------------------------------------------------------------


def test_a_false_vector_costs_the_sum_and_names_nobody(make: Make, patch: pytest.MonkeyPatch) -> None:
    federation = make(training={"rounds": 1})
    truth = Truth(patch)
    honest = SiteParty.mask

    def lie(party: SiteParty, vector: Any, terms: Any) -> bytes:
        if party.site == "va" and party.seen == 1:
            vector[:] += np.asarray(2**29, dtype=vector.dtype)
        return honest(party, vector, terms)

    patch.setattr(SiteParty, "mask", lie)
    wire = Wire(federation)
    run(federation)
    assert state(federation) == "completed"
    assert outcomes(federation) == [(1, "sum-refused"), (1, "committed"), (2, "committed")]
    reason = federation.store.attempts(federation.key)[0].reason
    assert "sums hide which" in reason
    assert not any(site in reason for site in SITES)
    assert set(statuses(federation, 1).values()) == {("contributed", "")}
    check_record(federation, wire)
    np.testing.assert_array_equal(committed(federation, 2), first_model(federation, truth, 2, SITES))
    assert all(charges(federation, site) == [(1, 1), (1, 2)] for site in SITES)


def test_a_dealer_of_false_shares_is_named_and_never_trusted_again(make: Make, patch: pytest.MonkeyPatch) -> None:
    honest = SiteParty.mask

    def other_seed(party: SiteParty, vector: Any, terms: Any) -> bytes:
        if party.site == "va":  # what it dealt rebuilds another seed than the one that it masks with and commits to
            party._secrets.seeds[party._slot.context.slot][:] = b"\x07" * 32  # type: ignore[union-attr]
        return honest(party, vector, terms)

    patch.setattr(SiteParty, "mask", other_seed)
    federation = make(training={"rounds": 2}, evaluation={"every": 1})
    truth = Truth(patch)
    wire = Wire(federation)

    def later(text: str) -> None:
        federation.clock.elapsed += 120

    run(federation, heard=later)
    others = SITES[:3]
    assert state(federation) == "completed"
    assert [outcome for _, outcome in outcomes(federation)] == ["sum-refused", "committed", "committed", "committed"]
    assert "the shares that va dealt rebuild a secret that is not the one it advertised" in (
        federation.store.attempts(federation.key)[0].reason
    )
    assert wire.batches() == [SITES, others]
    for attempt in (2, 3, 4):
        assert contributed(federation, attempt) == others
        status, reason = statuses(federation, attempt)["va"]
        assert (status, "the shares that va dealt" in reason) == ("absent", True)
    check_record(federation, wire)
    np.testing.assert_array_equal(committed(federation, 2), first_model(federation, truth, 2, others))


# --- stopping ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [*SETUP, *SLOT])
def test_a_wish_to_stop_in_any_stage_ends_as_stopped_and_goes_on_when_launched_again(make: Make, stage: str) -> None:
    federation = make(training={"rounds": 1})
    wire = Wire(federation)

    def stop(site: str, request: Request) -> str:
        if request.kind == stage and site == "switzerland":
            federation.store.happened(federation.key, Stop(), 0)
            return "mute"
        return ""

    wire.fault = stop
    run(federation)
    assert state(federation) == "stopped"
    assert [outcome for _, outcome in outcomes(federation)] == (["stopped"] if stage in SLOT else [])
    if stage in SLOT:
        assert statuses(federation, 1)["switzerland"][0] == ("dropped" if stage == "masked" else "contributed")
    assert federation.store.checkpoint(federation.key).version == 0  # type: ignore[union-attr]
    assert federation.clock.elapsed < 2, "a stop should not wait for a deadline"
    wire.fault = lambda _site, _request: ""
    run(federation)
    assert state(federation) == "completed"
    assert outcomes(federation)[-2:] == [(1, "committed"), (2, "committed")]
    check_record_of_stopped(federation, wire)


def check_record_of_stopped(federation: Federation, wire: Wire) -> None:
    check_slots(wire.said)
    for site in federation.sites:
        made = charged(federation, site)
        assert len(set(made)) == len(made)


# --- death of the coordinator -----------------------------------------------------------------------------------------------


def come_back(federation: Federation, wire: Wire) -> None:
    """The machine comes back: memory is gone; what the network still holds arrives late."""
    federation.store.close()
    federation.store = federation.home.open_store()
    federation.transport = wire


def deaths(make: Make, patch: pytest.MonkeyPatch, where: str, *, after: bool) -> int:
    """Kill a run at the sampled ones of its steps, resume each, and check; returns how many steps there are."""

    def start(at: int) -> tuple[Federation, Truth, Wire, Mortal, Store | Mortal]:
        federation = make(THREE, dp=False, training={"rounds": 1}, privacy={"spare_attempts": 1})
        patch.undo()
        make_quick(patch)
        truth = Truth(patch, given_updates())
        wire = Wire(federation)
        if where == "store":
            mortal = Mortal(federation.store, Mortal.WRITES, at, after=after)
            return federation, truth, wire, mortal, mortal
        federation.transport = mortal = Mortal(wire, Mortal.NETWORK, at, after=after)  # type: ignore[assignment]
        return federation, truth, wire, mortal, federation.store

    federation, _, _, alive, store = start(0)
    run(federation, store=store)  # type: ignore[arg-type]
    assert state(federation) == "completed"
    for at in sample(alive.passed):
        federation, truth, wire, _, store = start(at + 1)
        with pytest.raises(KilledError):
            run(federation, store=store)  # type: ignore[arg-type]
        before = len(wire.said)
        come_back(federation, wire)
        if state(federation) != "completed":  # it may have died with nothing left to do
            run(federation)
        assert state(federation) == "completed", (where, at, alive.passed[at])
        check_record(federation, wire)
        used = [{one.request.batch for one in part if isinstance(one.request, Masked)}
                for part in (wire.said[:before], wire.said[before:])]  # fmt: skip
        assert not used[0] & used[1], "a batch outlived its coordinator"
        done = [row for row in federation.store.attempts(federation.key) if row.outcome == "committed"]
        assert [row.round for row in done] == [1, 2]
        for row in done:
            assert contributed(federation, row.attempt) == THREE
        trained = first_model(federation, truth, done[0].attempt, THREE)
        np.testing.assert_array_equal(committed(federation, done[0].attempt), trained)
        np.testing.assert_array_equal(summed_counts(federation, 1), truth.counted(done[1].attempt, THREE))
    return len(alive.passed)


@pytest.mark.no_cover  # the same lines again and again
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_a_write_of_the_record_it_continues_with_a_new_batch(
    make: Make, patch: pytest.MonkeyPatch, after: bool
) -> None:
    assert deaths(make, patch, "store", after=after) >= 1 + 3 + 1 + 1 + 2 * 3 + 1


@pytest.mark.no_cover
def test_killed_after_a_use_of_the_network_it_continues_with_a_new_batch(make: Make, patch: pytest.MonkeyPatch) -> None:
    assert deaths(make, patch, "network", after=True) >= 2 * (1 + 3 + 2 * 3)


class DiesAt(Mortal):
    """A store whose process dies as it would close a given attempt: all shares are there, nothing is committed."""

    def __init__(self, store: Store, attempt: int) -> None:
        super().__init__(store, frozenset(), 0)
        self._attempt = attempt

    def __getattr__(self, name: str) -> Any:
        if name == "close_attempt":
            return self._close
        return getattr(self._inner, name)

    def _close(self, study: int, attempt: int, *arguments: Any, **named: Any) -> None:
        if attempt == self._attempt:
            raise KilledError
        self._inner.close_attempt(study, attempt, *arguments, **named)  # type: ignore[attr-defined]


def die_before_commit(federation: Federation, wire: Wire, attempt: int) -> None:
    with pytest.raises(KilledError):
        run(federation, store=DiesAt(federation.store, attempt))
    assert federation.store.journal(federation.key)[-1].kind == "unmasking"
    come_back(federation, wire)


def test_a_private_study_that_died_after_opening_a_sum_does_not_evaluate_that_model_again(
    make: Make, patch: pytest.MonkeyPatch
) -> None:
    federation = make(training={"rounds": 2}, evaluation={"every": 1})
    truth = Truth(patch)
    wire = Wire(federation)
    die_before_commit(federation, wire, 2)
    assert {one.request.evaluate for one in wire.of("masked") if one.request.attempt == 2} == {True}  # type: ignore[union-attr]
    wire.offline = {"va"}  # another set of sites may train: their sum has noise
    run(federation)
    assert state(federation) == "completed"
    assert outcomes(federation) == [(1, "committed"), (2, "interrupted"), (2, "committed"), (3, "committed")]
    assert {one.request.evaluate for one in wire.of("masked") if one.request.attempt == 3} == {False}  # type: ignore[union-attr]
    assert [text for text in federation.said if "not evaluated again" in text] == [
        "the model is not evaluated again: its counts may have been opened in an earlier attempt"
    ]
    assert {row.version for row in federation.store.metrics(federation.key)} == {2}
    check_record(federation, wire)
    for site in SITES[:3]:
        assert charges(federation, site) == [(1, 1), (2, 2), (2, 3)]
        assert (truth.updates[site, 2] != truth.updates[site, 3]).all()


SPARE = {"spare_attempts": 6}
UNNOISED: dict[str, tuple[dict[str, Any], int]] = {
    "evaluation-only": ({"dp": True, "training": {"rounds": 1}, "privacy": SPARE}, 2),
    "without-dp": ({"dp": False, "training": {"rounds": 2}, "privacy": SPARE}, 1),
    "without-dp-evaluated": (
        {"dp": False, "training": {"rounds": 2}, "evaluation": {"every": 1}, "privacy": SPARE}, 2
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNNOISED)
def test_un_noised_numbers_are_opened_again_for_the_same_sites(
    make: Make, patch: pytest.MonkeyPatch, name: str
) -> None:
    changes, attempt = UNNOISED[name]
    federation = make(**changes)
    truth = Truth(patch)
    wire = Wire(federation)
    die_before_commit(federation, wire, attempt)
    run(federation)
    assert state(federation) == "completed"
    assert outcomes(federation)[attempt - 1 : attempt + 1] == [(attempt, "interrupted"), (attempt, "committed")]
    assert contributed(federation, attempt + 1) == SITES
    check_record(federation, wire)
    if name == "without-dp":
        np.testing.assert_array_equal(committed(federation, 2), first_model(federation, truth, 2, SITES))
    else:
        counts = summed_counts(federation, attempt - 1)
        np.testing.assert_array_equal(counts, truth.counted(attempt, SITES))


@pytest.mark.parametrize("name", UNNOISED)
def test_un_noised_numbers_are_not_opened_for_another_set_of_sites(make: Make, name: str) -> None:
    """The sum of four and the sum of three of them would give away the fourth."""
    changes, attempt = UNNOISED[name]
    federation = make(**changes)
    wire = Wire(federation)
    die_before_commit(federation, wire, attempt)
    before = len(wire.said)
    wire.offline = {"va"}
    with pytest.raises(RefusalError) as caught:
        run(federation)
    assert caught.value.code == "quorum-missed"
    confirmed = [one for one in wire.said[before:] if one.kind == "confirm"]
    assert {one.code for one in confirmed} <= {"differencing"}
    assert not [one for one in wire.said[before:] if one.kind == "unmask"]
    again = federation.store.attempts(federation.key)[attempt]
    assert again.outcome == "quorum-missed"
    if confirmed:
        assert "differencing" in again.reason
    wire.offline = set()
    run(federation)
    assert state(federation) == "completed"
    check_record(federation, wire)


def test_a_study_that_needs_the_same_sites_again_says_so(make: Make) -> None:
    """The batch would do with three sites, the numbers would not: the record must name who is missing, and why."""
    federation = make(training={"rounds": 1}, federation={"quorum": 3})
    wire = Wire(federation)
    wire.offline = {"va"}
    die_before_commit(federation, wire, 2)  # opened for the first three
    wire.offline = {"cleveland"}
    with pytest.raises(RefusalError):
        run(federation)
    reason = federation.store.attempts(federation.key)[2].reason
    assert "cleveland" in reason, reason


def test_a_site_that_helped_refuses_another_set_even_if_the_coordinator_forgot(
    make: Make, patch: pytest.MonkeyPatch
) -> None:
    """A coordinator restored from a backup of before knows nothing of the sum that was opened."""
    changes, attempt = UNNOISED["evaluation-only"]
    federation = make(**changes)
    wire = Wire(federation)
    die_before_commit(federation, wire, attempt)
    patch.setattr(StudyRun, "_opened_before", lambda *_: ())
    wire.offline = {"va"}
    with pytest.raises(RefusalError):
        run(federation)
    again = federation.store.attempts(federation.key)[attempt]
    assert again.outcome == "quorum-missed"
    assert "refused at confirm: cleveland refused: differencing" in again.reason
    assert not [one for one in wire.said if one.kind == "unmask" and context_of(one).attempt > attempt]
    assert not any(home.incidents_folder.exists() and any(home.incidents_folder.iterdir())
                   for home in federation.sites.values()), "an honest coordinator is accused"  # fmt: skip
    check_slots(wire.said)


# --- what the coordinator keeps and says --------------------------------------------------------------------------------------


def files_of(federation: Federation) -> dict[str, bytes]:
    """Every file of the coordinator's home but its keys."""
    found = {
        str(path.relative_to(federation.home.path)): path.read_bytes()
        for path in federation.home.path.rglob("*")
        if path.is_file() and path.parent.name != "keys"
    }
    assert any("store.sqlite" in name for name in found)
    return found


def cells_of(federation: Federation) -> list[Any]:
    """Every cell of every table of the store."""
    with sqlite3.connect(federation.home.store_file) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [cell for table in tables for row in connection.execute(f"SELECT * FROM {table}") for cell in row]  # noqa: S608


def windows(data: bytes, size: int = 16, distinct: int = 7) -> Iterator[bytes]:
    """Pieces of data that say something: not zeros alone."""
    for start in range(0, len(data) - size + 1, 4):
        piece = data[start : start + size]
        if len(set(piece)) >= distinct:
            yield piece


def forms(piece: bytes) -> tuple[bytes, ...]:
    """As bytes, and as text that bytes are written as."""
    return piece, piece.hex().encode(), base64.b64encode(piece)[:20], base64.b64encode(piece[1:])[:16]


def found_in(haystack: bytes, data: bytes) -> bool:
    """Whether any part of it stands there; parts begin at every fourth number, as pages may cut it anywhere."""
    return any(form in haystack for piece in list(windows(data))[::4] for form in forms(piece))


def mentions(texts: Sequence[str], number: str) -> list[str]:
    return [text for text in texts if re.search(rf"(?<![0-9A-Za-z.+-]){re.escape(number)}(?![0-9A-Za-z.])", text)]


def no_live_number(federation: Federation, truth: Truth, texts: Sequence[str]) -> None:
    """How many patients train, are held out, or are registered, here and now, is said nowhere: only declared, rounded numbers.

    A number of the manifest itself, as the 65 of "age in [50, 65)", was there before any site was asked.
    """
    asked = set(re.findall(r"\d+", federation.sealed().manifest.canonical.decode()))
    sought = 0
    for site in SITES:
        live = datasets.find(federation.sites[site], "heart-4-hospitals").patients
        aloneout = int(next(counts for (name, _), counts in truth.counts.items() if name == site)[0].sum())
        assert live % 10 or live == 200  # it would be told from what is declared
        for number in (live, aloneout, live - aloneout):
            if number % 10 and str(number) not in asked:
                sought += 1
                assert not mentions(texts, str(number)), f"{site}'s live count {number} is said"
    assert sought >= len(SITES), "who is held out differs from run to run; the live numbers of four alone are enough"


@pytest.mark.parametrize("dp", [True, False], ids=["dp", "without-dp"])
def test_the_coordinator_keeps_and_says_sums_alone(make: Make, patch: pytest.MonkeyPatch, dp: bool) -> None:
    federation = make(dp=dp, training={"rounds": 2}, evaluation={"every": 1}, privacy={"update_bound": 3.0})
    truth = Truth(patch)
    wire = Wire(federation)
    federation.home.log_folder.mkdir(parents=True, exist_ok=True)

    def trouble(text: str) -> None:
        if text.startswith("attempt 1"):  # a dropout, a restart and a refused attempt say no more than a smooth run
            wire.fault = stage_fault("confirm", ("va",), "killed")
        if text.startswith("attempt 2"):
            wire.fault = stage_fault("masked", ("va", "cleveland"), "killed-after")

    with RunLog(federation.home.log_folder / f"study-{federation.key}.log") as log:

        def heard(text: str) -> None:
            log.write(text)
            trouble(text)

        run(federation, heard=heard)
    assert state(federation) == "completed"
    assert [outcome for _, outcome in outcomes(federation)] == ["committed", "committed", "quorum-missed", "committed"]
    cells = cells_of(federation)  # also one by one: in the file a long cell is cut at every page
    blobs = [cell for cell in cells if isinstance(cell, bytes)]
    sealed = federation.sealed().canonical.decode()
    texts = [cell for cell in cells if isinstance(cell, str)] + [*federation.said, sealed]
    haystack = b"\0".join([*files_of(federation).values(), *blobs, *(text.encode() for text in texts)])

    assert len(truth.updates) == 8
    assert len(truth.counts) == 4 * 3
    for (site, attempt), update in truth.updates.items():
        held = {"float32": update.tobytes(), "float64": update.astype(np.float64).tobytes()}
        held |= {"ring": truth.encoded[site, attempt][: len(update)].tobytes()}
        held |= {"masked": next(vector_of(one) for one in wire.masked(site) if context_of(one).attempt == attempt)[
            : len(update)].tobytes()}  # fmt: skip
        for form, data in held.items():
            assert not found_in(haystack, data), f"{site}'s update of attempt {attempt} is kept as {form}"
        norm = float(np.linalg.norm(update.astype(np.float64)))
        assert struct.pack("<d", norm) not in haystack
        assert struct.pack(">d", norm) not in haystack
        for digits in (4, 5, 6):
            assert f"{norm:.{digits}g}".encode() not in haystack, f"the norm of {site}'s update is said"
    searched = dict.fromkeys(SITES, 0)
    for (site, attempt), counts in truth.counts.items():
        for kind in ("<i8", "<u4"):
            # Where the others have nobody, a piece of a site's histogram is also one of the sum.
            summed = [summed_counts(federation, version).astype(kind).tobytes() for version in (1, 2)]
            pieces = list(windows(counts[0].astype(kind).tobytes(), 12 * np.dtype(kind).itemsize, 5))
            alone = [piece for piece in pieces if not any(piece in total for total in summed)]
            searched[site] += len(alone)
            assert not any(piece in haystack for piece in alone), f"{site}'s histogram of attempt {attempt} is kept"
    # One histogram may have nothing to look for: noise can push all scores of a model into a few bins.
    assert min(searched.values()) > 3, searched

    no_live_number(federation, truth, texts)

    # And the search can find: sums stand there.
    row = federation.store.attempts(federation.key)[0]
    assert found_in(haystack, load_model(federation.home.models_folder, row.model or "").tobytes())
    assert summed_counts(federation, 2).tobytes() in haystack
    assert mentions(texts, str(federation.sealed().roster[0].declared_patients))
    names = {row.name for row in federation.store.metrics(federation.key)}
    assert names >= {"auroc", "auprc", "brier", "sensitivity", "specificity", "equalized_odds_gap"}


def test_what_a_plain_run_would_give_away_is_what_the_search_looks_for(
    enrolled: Callable[[tuple[str, ...]], Federation], tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    """The same search finds a site's numbers where they do stand: in what it sends without secure aggregation."""
    federation = enrolled(SITES).copy(tmp_path / "plain")
    for home in federation.sites.values():
        allow_plain(home)
    federation.ready(heart_manifest(training={"rounds": 1}))
    truth = Truth(patch)
    wire = Wire(federation)
    run(federation)
    sent = b"".join(one.raw for one in wire.of("work"))
    assert all(found_in(sent, update.tobytes()) for update in truth.updates.values())
    assert all(counts[0].tobytes() in sent for counts in truth.counts.values())


def test_a_secure_study_asks_no_site_for_its_own_numbers(make: Make) -> None:
    federation = make(training={"rounds": 2}, evaluation={"every": 1})
    wire = Wire(federation)
    run(federation)
    kinds = {one.kind for one in wire.said}
    assert kinds == {"offer", "ended", "checkpoint", *SETUP, *SLOT}
    assert all(isinstance(one.reply, Secured) for one in wire.said if one.kind in {*SETUP, *SLOT})
    replies: list[Said] = [one for one in wire.said if isinstance(one.reply, Secured)]
    assert {frozenset(one.reply.model_dump()) for one in replies} == {
        frozenset({"kind", "protocol", "site", "request", "study", "batch", "body_sha256", "head"})
    }
