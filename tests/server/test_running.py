"""A study's run, with real nodes, stores and ledgers: it ends by name, continues after any death, and counts once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from federation import Federation, MemoryTransport, decide, heart_manifest, undecide
from observed import Recorder, asked, charges, committed, outcomes, run, state, statuses
from sampling import sample
from secured import KilledError, Mortal

from fedward.privacy.errors import RefusalError
from fedward.server.exploring import run_study
from fedward.server.lifecycle import Launch, Pause, Stop
from fedward.server.store import Store
from fedward.study import messages
from fedward.study.heart import SITES
from fedward.study.messages import Work

ROUNDS = 2


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    federation = Federation(tmp_path_factory.mktemp("template"))
    federation.ready(heart_manifest(training={"rounds": ROUNDS}, privacy={"spare_attempts": 4}))
    return federation


@pytest.fixture
def federation(template: Federation, tmp_path: Path) -> Federation:
    return template.copy(tmp_path / "copy")


def check_record(federation: Federation) -> None:
    """What holds at any end: names for everyone, numbers used once, and no contribution that was not charged."""
    attempts = federation.store.attempts(federation.key)
    assert [row.attempt for row in attempts] == list(range(1, len(attempts) + 1))
    committed = [row for row in attempts if row.outcome == "committed" and row.round <= ROUNDS]
    assert [row.round for row in committed] == list(range(1, len(committed) + 1))
    for row in attempts:
        assert row.outcome is not None
        named = statuses(federation, row.attempt)
        assert set(named) == set(SITES)
        assert all(status == "contributed" or reason for status, reason in named.values())
    for site in SITES:
        made = charges(federation, site)
        assert len(set(made)) == len(made)
        gave = [
            (row.round, row.attempt) for row in committed if statuses(federation, row.attempt)[site][0] == "contributed"
        ]
        assert set(gave) <= set(made)
        assert len(made) <= federation.sealed().manifest.planned_attempts


# --- the whole of it ----------------------------------------------------------------------------------------------------


def test_a_study_runs_to_its_end_and_every_model_is_the_sum_of_what_was_sent(federation: Federation) -> None:
    recorder = Recorder(federation)
    run(federation)
    assert state(federation) == "completed"
    assert outcomes(federation) == [(1, "committed"), (2, "committed"), (3, "committed")]
    check_record(federation)
    assert all(charges(federation, site) == [(1, 1), (2, 2)] for site in SITES)
    np.testing.assert_allclose(
        committed(federation, 1), recorder.model_after(federation.sealed(), 1, SITES), rtol=1e-5, atol=1e-6
    )
    checkpoint = federation.store.checkpoint(federation.key)
    assert checkpoint is not None
    assert (checkpoint.version, checkpoint.model) == (ROUNDS, federation.store.attempts(federation.key)[1].model)


def test_each_round_is_based_on_the_model_before_it(federation: Federation) -> None:
    run(federation)
    rows = federation.store.attempts(federation.key)
    assert rows[1].base == rows[0].model
    assert rows[2].base == rows[1].model
    assert {request.base for _, request in asked(federation) if request.round == 2} == {rows[0].model}


def test_the_last_model_is_evaluated_on_everybody_s_held_out_patients(federation: Federation) -> None:
    run(federation)
    rows = {row.slice: row for row in federation.store.metrics(federation.key) if row.name == "auroc"}
    assert rows["everybody"].version == ROUNDS
    everybody = rows["everybody"].positives + rows["everybody"].negatives
    assert 200 < everybody < 350  # about a third of 920
    assert sum(rows[f"sex={level}"].positives for level in ("female", "male")) <= rows["everybody"].positives


def test_everything_is_journalled_before_it_is_sent(federation: Federation) -> None:
    send = federation.transport.send

    def watched(requests: Mapping[str, bytes]) -> None:
        for payload in requests.values():
            request, _ = messages.open_request(payload, federation.home.identity().public)
            if isinstance(request, Work):
                opened = [e.data for e in federation.store.journal(federation.key) if e.kind == "opened"]
                assert (opened[-1]["round"], opened[-1]["attempt"]) == (request.round, request.attempt)
        send(requests)

    federation.transport.send = watched  # type: ignore[method-assign]
    run(federation)
    assert state(federation) == "completed"


# --- sites that are missing or say no -------------------------------------------------------------------------------------


def test_an_offline_site_is_named_absent_and_the_others_go_on(federation: Federation) -> None:
    federation.transport.offline = {"switzerland"}
    recorder = Recorder(federation)
    run(federation)
    assert state(federation) == "completed"
    assert statuses(federation, 1)["switzerland"][0] == "absent"
    others = tuple(site for site in SITES if site != "switzerland")
    expected = recorder.model_after(federation.sealed(), 1, others)
    np.testing.assert_allclose(committed(federation, 1), expected, rtol=1e-5, atol=1e-6)
    assert charges(federation, "switzerland") == []
    check_record(federation)


@dataclass
class Flaky(MemoryTransport):
    """Sites in `lost` seem online, but nothing reaches them."""

    lost: frozenset[str] = frozenset()

    def online(self) -> frozenset[str]:
        return frozenset(self.nodes)

    def send(self, requests: Mapping[str, bytes]) -> None:
        self.offline = set(self.lost)
        super().send(requests)


def test_a_site_that_cannot_be_reached_is_asked_again_and_dropped_by_name(federation: Federation) -> None:
    federation.transport = Flaky(federation.transport.nodes, lost=frozenset({"va"}))
    run(federation)
    assert state(federation) == "completed"
    assert statuses(federation, 1)["va"] == ("dropped", "unreachable: offline")
    times = [request.attempt for site, request in asked(federation) if site == "va"].count(1)
    assert 10 < times < 30  # once a second, for the grace of 20 s
    check_record(federation)


def test_a_study_of_one_site_does_not_flood_it_with_requests(tmp_path: Path) -> None:
    federation = Federation(tmp_path, sites=("va",))
    federation.sites["va"].policy_file.write_text(
        "[policy]\nmin_quorum = 1\nrequire_secure_aggregation = false\nrequire_evaluation_noise = false"
    )
    federation.ready(
        heart_manifest(training={"rounds": 1}, federation={"quorum": 1, "deadline": "10s", "max_attempts": 1})
    )
    federation.transport = Flaky(federation.transport.nodes, lost=frozenset())
    lose = lambda text: setattr(federation.transport, "lost", frozenset({"va"})) if "approved by" in text else None  # noqa: E731
    with pytest.raises(RefusalError):
        run(federation, heard=lose)
    assert 5 < len(asked(federation)) < 15


def test_a_lost_reply_is_dropped_and_its_charge_counts(federation: Federation) -> None:
    Recorder(federation, lambda site, data: None if site == "va" else data)
    federation.store.set_standing(federation.key, "va", "approved", "", None, 0)
    run(federation)
    assert statuses(federation, 1)["va"] == ("dropped", "no answer: others were waiting")
    assert charges(federation, "va") == [(1, 1), (2, 2)]
    check_record(federation)


def test_a_site_that_refuses_is_named_with_its_code_and_reference(federation: Federation) -> None:
    federation.sites["va"].policy_file.write_text("[policy]\nmax_epsilon = 1.0\nrequire_secure_aggregation = false")
    run(federation)
    assert state(federation) == "completed"
    status, reason = statuses(federation, 1)["va"]
    assert status == "refused"
    assert reason.startswith("va refused: policy-epsilon (ask va about ")
    assert charges(federation, "va") == []
    check_record(federation)


def test_a_site_that_refused_is_not_asked(federation: Federation) -> None:
    decide(federation.sites["va"], federation.sealed(), "refused", 0)
    run(federation)
    assert state(federation) == "completed"
    assert {site for site, _ in asked(federation)} == set(SITES) - {"va"}
    assert statuses(federation, 1)["va"][0] == "absent"


def test_too_many_refusals_end_the_study_before_anyone_is_asked(federation: Federation) -> None:
    for site in ("va", "cleveland"):
        decide(federation.sites[site], federation.sealed(), "refused", 0)
    with pytest.raises(RefusalError, match="can still approve") as caught:
        run(federation)
    assert caught.value.code == "not-approved"
    assert state(federation) == "failed"
    assert asked(federation) == []


def test_approvals_that_do_not_come_in_time_end_the_study(federation: Federation) -> None:
    for site in ("va", "cleveland"):
        undecide(federation.sites[site])
    federation.clock.sleep = lambda _: setattr(federation.clock, "elapsed", federation.clock.elapsed + 3600)  # type: ignore[method-assign]
    with pytest.raises(RefusalError, match="approved in time"):
        run(federation)
    assert "hungarian, switzerland" in federation.store.study(federation.key).reason
    federation.clock = type(federation.clock)()
    federation.approve(federation.sealed())
    run(federation)
    assert state(federation) == "completed"


def test_an_expired_study_asks_nobody(federation: Federation) -> None:
    federation.clock.elapsed += federation.sealed().expires_at
    with pytest.raises(RefusalError) as caught:
        run(federation)
    assert caught.value.code == "expired"
    assert asked(federation) == []


# --- quorum, attempts, budget -----------------------------------------------------------------------------------------------


def test_a_missed_quorum_fails_by_name_and_a_relaunch_continues_from_the_committed_model(
    federation: Federation,
) -> None:
    def leave(text: str) -> None:
        if text.startswith("attempt 1: committed"):
            federation.transport.offline = {"va", "cleveland"}

    with pytest.raises(RefusalError, match="round 2 found no quorum") as caught:
        run(federation, heard=leave)
    assert caught.value.code == "quorum-missed"
    assert state(federation) == "failed"
    assert outcomes(federation) == [(1, "committed")] + [(2, "quorum-missed")] * 3
    assert all(len(charges(federation, site)) == 1 for site in SITES)  # who was not asked was not charged
    first = federation.store.attempts(federation.key)[0].model

    federation.transport.offline = set()
    run(federation)
    assert state(federation) == "completed"
    assert federation.store.attempts(federation.key)[4].base == first
    assert outcomes(federation)[4:] == [(2, "committed"), (3, "committed")]
    check_record(federation)


def test_attempts_that_asked_are_planned_for_and_run_out_by_name(federation: Federation) -> None:
    Recorder(federation, lambda site, data: None if site in {"va", "cleveland"} and federation.said[1:] else data)
    federation.said.append("the run begins")
    for site in SITES:  # the standings are known from the proposal; only work is lost
        federation.store.set_standing(federation.key, site, "approved", "", None, 0)
    for _ in range(2):
        with pytest.raises(RefusalError) as caught:
            run(federation)
        assert caught.value.code == "quorum-missed"
    assert outcomes(federation) == [(1, "quorum-missed")] * 6
    with pytest.raises(RefusalError) as caught:
        run(federation)
    assert caught.value.code == "plan-used-up"
    assert len(outcomes(federation)) == 6
    assert len(charges(federation, "hungarian")) == federation.sealed().manifest.planned_attempts == 6
    check_record(federation)


# --- stopping -----------------------------------------------------------------------------------------------------------------


def test_a_wish_to_stop_ends_as_stopped_and_keeps_what_is_committed(federation: Federation) -> None:
    def stop(text: str) -> None:
        if text.startswith("attempt 1: committed"):
            federation.store.happened(federation.key, Stop(), 0)

    run(federation, heard=stop)
    assert state(federation) == "stopped"
    assert outcomes(federation) == [(1, "committed")]
    run(federation)  # launched again, it goes on
    assert state(federation) == "completed"
    assert outcomes(federation)[1:] == [(2, "committed"), (3, "committed")]


def test_a_stop_while_sites_are_awaited_names_everyone(federation: Federation) -> None:
    def lose(site: str, data: bytes) -> bytes | None:
        reply, _ = messages.open_reply(data, federation.sites[site].identity().public)
        if isinstance(reply, messages.Result) and site != "hungarian":
            federation.store.happened(federation.key, Stop(), 0)
            return None
        return data

    Recorder(federation, lose)
    run(federation)
    assert state(federation) == "stopped"
    assert outcomes(federation) == [(1, "stopped")]
    assert statuses(federation, 1)["hungarian"][0] == "contributed"
    assert statuses(federation, 1)["va"] == ("dropped", "attempt stopped")
    assert federation.store.checkpoint(federation.key).version == 0  # type: ignore[union-attr]


def test_a_stop_while_approvals_are_awaited(federation: Federation) -> None:
    for site in ("va", "cleveland"):
        undecide(federation.sites[site])

    def stop(text: str) -> None:
        if text.startswith("waiting for approvals"):
            federation.store.happened(federation.key, Stop(), 0)

    run(federation, heard=stop)
    assert state(federation) == "stopped"
    assert asked(federation) == []


# --- pausing ------------------------------------------------------------------------------------------------------------------


def pausing(federation: Federation, after: str, *, now: bool) -> Callable[[str], None]:
    """A person who asks for a pause once that is reported."""

    def hear(text: str) -> None:
        if text.startswith(after) and federation.store.study(federation.key).wish == "run":
            federation.store.happened(federation.key, Pause(now), federation.clock.unix())

    return hear


def held(federation: Federation) -> dict[str, int]:
    """By site: the reservations in its ledger."""
    found = {}
    for site, home in federation.sites.items():
        with home.ledger(witnessed=False) as ledger:
            found[site] = len(ledger.reservations())
    return found


def test_a_paused_study_asks_nobody_keeps_what_is_reserved_and_goes_on(federation: Federation) -> None:
    run(federation, heard=pausing(federation, "attempt 1: committed", now=False))
    assert state(federation) == "paused"
    assert outcomes(federation) == [(1, "committed")]
    assert held(federation) == dict.fromkeys(SITES, 1)
    spent = {site: charges(federation, site) for site in SITES}
    sent = len(federation.transport.sent)
    life = federation.store.study(federation.key).life
    assert (life.wish, life.reason) == ("none", "a person paused it")
    run_study(  # what a process of it that still lives does: nothing
        federation.home, federation.store, federation.transport, federation.clock, federation.said.append, federation.key
    )  # fmt: skip
    assert federation.store.study(federation.key).life == life
    assert {kind_of(federation, payload) for _, payload in federation.transport.sent[sent:]} <= {"checkpoint"}
    assert {site: charges(federation, site) for site in SITES} == spent
    run(federation)
    assert state(federation) == "completed"
    assert outcomes(federation)[1:] == [(2, "committed"), (3, "committed")]
    check_record(federation)


def kind_of(federation: Federation, payload: bytes) -> str:
    return str(messages.open_request(payload, federation.home.identity().public)[0].kind)


@pytest.mark.parametrize("now", [False, True])
def test_a_pause_in_an_attempt_waits_for_it_unless_it_is_to_be_at_once(federation: Federation, now: bool) -> None:
    def ask(site: str, data: bytes) -> bytes | None:
        reply, _ = messages.open_reply(data, federation.sites[site].identity().public)
        if isinstance(reply, messages.Result) and federation.store.study(federation.key).wish == "run":
            federation.store.happened(federation.key, Pause(now), federation.clock.unix())
            return None if now else data
        return data

    Recorder(federation, ask)
    run(federation)
    assert state(federation) == "paused"
    first = federation.store.attempts(federation.key)[0]
    assert first.outcome == ("stopped" if now else "committed")
    assert (first.reason == "a person paused the study") == now
    federation.transport.tamper = lambda _site, data: data
    run(federation)
    assert state(federation) == "completed"
    # An attempt that was cut off is one of those that were planned: the sites that answered it are charged.
    assert len(charges(federation, "hungarian")) == (3 if now else 2)
    check_record(federation)


def test_a_pause_while_approvals_are_awaited_and_a_stop_of_what_is_paused(federation: Federation) -> None:
    for site in ("va", "cleveland"):
        undecide(federation.sites[site])
    run(federation, heard=pausing(federation, "waiting for approvals", now=False))
    assert state(federation) == "paused"
    assert asked(federation) == []
    federation.store.happened(federation.key, Stop(), 0)
    run(federation)
    assert state(federation) == "stopped"


def test_a_pause_survives_the_death_of_the_run_that_was_to_obey(federation: Federation) -> None:
    """Killed in the middle of the attempt after which it was to pause: what lives next closes it, and pauses."""

    def die(_site: str, _data: bytes) -> bytes | None:
        federation.store.happened(federation.key, Pause(), federation.clock.unix())
        raise KilledError

    federation.store.happened(federation.key, Launch(), 0)
    Recorder(federation, lambda site, data: die(site, data) if asked(federation) else data)
    with pytest.raises(KilledError):
        run(federation)
    assert (federation.store.study(federation.key).state, federation.store.study(federation.key).wish) == (
        "running",
        "pause",
    )
    federation.transport.tamper = lambda _site, data: data
    sent = len(asked(federation))
    run(federation)
    assert state(federation) == "paused"
    assert outcomes(federation) == [(1, "interrupted")]
    assert len(asked(federation)) == sent
    run(federation)
    assert state(federation) == "completed"
    check_record(federation)


def test_sites_without_budget_end_a_study_by_name_before_others_pay_again(federation: Federation) -> None:
    def refuse(site: str, data: bytes) -> bytes | None:
        reply, _ = messages.open_reply(data, federation.sites[site].identity().public)
        if not isinstance(reply, messages.Result) or site not in {"va", "cleveland"}:
            return data
        code = {"va": "reservation-used-up", "cleveland": "period-exhausted"}[site]
        said = messages.Refusal(site=site, request=reply.request, code=code, reference="0" * 12)
        return messages.pack(said, b"", federation.sites[site].identity())

    Recorder(federation, refuse)
    with pytest.raises(RefusalError) as caught:
        run(federation)
    assert caught.value.code == "sites-exhausted"
    assert "cleveland: period-exhausted; va: reservation-used-up" in (caught.value.got or "")
    assert state(federation) == "budget-exhausted"
    assert outcomes(federation) == [(1, "quorum-missed")]
    federation.transport.tamper = lambda _site, data: data
    run(federation)  # they found room
    assert state(federation) == "completed"


# --- death at every step ------------------------------------------------------------------------------------------------------


def deaths(template: Federation, folder: Path, where: str, *, after: bool) -> int:
    """Kill a run at the sampled ones of its steps, resume each, and check; returns how many steps there are."""

    def start(name: str, at: int) -> tuple[Federation, MemoryTransport, Mortal, Store | Mortal]:
        federation = template.copy(folder / f"{where}-{name}")
        transport = federation.transport
        if where == "store":
            mortal = Mortal(federation.store, Mortal.WRITES, at, after=after)
            return federation, transport, mortal, mortal
        federation.transport = mortal = Mortal(transport, Mortal.NETWORK, at, after=after)  # type: ignore[assignment]
        return federation, transport, mortal, federation.store

    federation, _, alive, store = start("dry", 0)
    run(federation, store=store)  # type: ignore[arg-type]
    assert state(federation) == "completed"
    for at in sample(alive.passed):
        federation, transport, _, store = start(str(at), at + 1)
        with pytest.raises(KilledError):
            run(federation, store=store)  # type: ignore[arg-type]
        # The machine comes back: memory is gone; what the network still holds arrives late.
        federation.store.close()
        federation.store = federation.home.open_store()
        federation.transport = transport
        if state(federation) != "completed":  # it may have died with nothing left to do
            run(federation)
        assert state(federation) == "completed", (at, alive.passed[at])
        check_record(federation)
        checkpoint = federation.store.checkpoint(federation.key)
        assert checkpoint is not None
        assert checkpoint.version == ROUNDS
        for site in SITES:
            assert len(charges(federation, site)) >= ROUNDS
    return len(alive.passed)


@pytest.mark.no_cover  # the same lines again and again
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_a_write_of_the_record_it_continues(template: Federation, tmp_path: Path, after: bool) -> None:
    assert deaths(template, tmp_path, "store", after=after) >= 8


@pytest.mark.no_cover  # the same lines again and again
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_a_use_of_the_network_it_continues(template: Federation, tmp_path: Path, after: bool) -> None:
    assert deaths(template, tmp_path, "transport", after=after) >= 8


def test_killed_again_and_again_it_stops_at_the_planned_attempts(federation: Federation) -> None:
    """A crash loop spends what was planned, and no more."""
    for _ in range(federation.sealed().manifest.planned_attempts):
        store = Mortal(federation.store, frozenset({"close_attempt"}), 2 if outcomes(federation) else 1, after=False)
        with pytest.raises(KilledError):
            run(federation, store=store)
    with pytest.raises(RefusalError) as caught:
        run(federation)
    assert caught.value.code == "plan-used-up"
    check_record(federation)
    assert {len(charges(federation, site)) for site in SITES} == {federation.sealed().manifest.planned_attempts}


def test_an_interrupted_attempt_is_named_with_everyone_in_it(federation: Federation) -> None:
    with pytest.raises(KilledError):
        run(federation, store=Mortal(federation.store, frozenset({"close_attempt"}), 1, after=False))
    run(federation)
    assert outcomes(federation)[0] == (1, "interrupted")
    assert statuses(federation, 1) == dict.fromkeys(SITES, ("dropped", "the coordinator stopped during this attempt"))


def test_a_site_s_restart_between_rounds_changes_nothing(federation: Federation) -> None:
    def restart(text: str) -> None:
        if text.startswith("attempt 1"):
            for site in SITES:
                federation.restart(site)

    run(federation, heard=restart)
    assert state(federation) == "completed"
    check_record(federation)


# --- the coordinator's own files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_damaged_model_costs_its_round_and_is_never_sent(federation: Federation, damage: str) -> None:
    def spoil(text: str) -> None:
        if text.startswith("attempt 1"):
            row = federation.store.attempts(federation.key)[0]
            path = federation.home.models_folder / f"{row.model}.safetensors"
            if damage == "removed":
                path.unlink()
            else:
                data = bytearray(path.read_bytes())
                data[-1] ^= 1
                path.write_bytes(data)

    run(federation, heard=spoil)
    assert state(federation) == "completed"
    assert outcomes(federation)[:2] == [(1, "lost"), (1, "committed")]
    lost = federation.store.attempts(federation.key)[0].model
    assert lost not in {request.base for _, request in asked(federation)}  # no attempt opens on it
    check_record(federation)
