"""A study's run, with real nodes, stores and ledgers: it ends by name, continues after any death, and counts once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import Federation, MemoryTransport, heart_manifest
from observed import Recorder, asked, charges, committed, outcomes, run, state, statuses

from fedward.client import approvals
from fedward.privacy.errors import FedwardError, RefusalError
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
    federation.sites["va"].policy_file.write_text("[policy]\nmin_quorum = 1")
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


def test_a_site_that_rejected_is_not_asked(federation: Federation) -> None:
    approvals.decide(federation.sites["va"], federation.sealed(), "rejected", "tester", 0)
    run(federation)
    assert state(federation) == "completed"
    assert {site for site, _ in asked(federation)} == set(SITES) - {"va"}
    assert statuses(federation, 1)["va"][0] == "absent"


def test_too_many_rejections_end_the_study_before_anyone_is_asked(federation: Federation) -> None:
    for site in ("va", "cleveland"):
        approvals.decide(federation.sites[site], federation.sealed(), "rejected", "tester", 0)
    with pytest.raises(RefusalError, match="can still approve") as caught:
        run(federation)
    assert caught.value.code == "not-approved"
    assert state(federation) == "failed"
    assert asked(federation) == []


def test_approvals_that_do_not_come_in_time_end_the_study(federation: Federation) -> None:
    for site in ("va", "cleveland"):
        (federation.sites[site].path / "approvals" / f"{federation.sealed().digest}.json").unlink()
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
    assert caught.value.code == "budget-exhausted"
    assert len(outcomes(federation)) == 6
    assert len(charges(federation, "hungarian")) == federation.sealed().manifest.planned_attempts == 6
    check_record(federation)


# --- stopping -----------------------------------------------------------------------------------------------------------------


def test_a_wish_to_stop_ends_as_stopped_and_keeps_what_is_committed(federation: Federation) -> None:
    def stop(text: str) -> None:
        if text.startswith("attempt 1: committed"):
            federation.store.wish(federation.key, "stop", 0)

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
            federation.store.wish(federation.key, "stop", 0)
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
        (federation.sites[site].path / "approvals" / f"{federation.sealed().digest}.json").unlink()
    run(federation, heard=lambda _: federation.store.wish(federation.key, "stop", 0))
    assert state(federation) == "stopped"
    assert asked(federation) == []


# --- death at every step ------------------------------------------------------------------------------------------------------


class KilledError(BaseException):
    """The process died here."""


WRITES = {"set_state", "set_standing", "start", "open_attempt", "close_attempt", "note", "wish", "seal"}


class Mortal:
    """Stands before a store or transport, and dies before or after the k-th call that changes something."""

    def __init__(self, inner: object, calls: set[str], at: int, *, after: bool) -> None:
        self._inner, self._calls, self._left, self._after = inner, calls, at, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name not in self._calls:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise KilledError
            result = real(*args, **kwargs)
            if self._left == 0:
                raise KilledError
            return result

        return call


def deaths(template: Federation, folder: Path, where: str, *, after: bool) -> int:
    """Kill a run at its k-th step for every k, resume each, and check; returns how many steps there were."""
    for k in range(1, 100):
        federation = template.copy(folder / f"{where}-{k}")
        store: Any = federation.store
        transport = federation.transport
        if where == "store":
            store = Mortal(store, WRITES, k, after=after)
        else:
            federation.transport = Mortal(transport, {"send", "poll"}, k, after=after)  # type: ignore[assignment]
        try:
            run(federation, store=store)
        except KilledError:
            pass
        else:
            assert state(federation) == "completed"
            return k - 1
        # The machine comes back: memory is gone; what the network still holds arrives late.
        federation.store.close()
        federation.store = Store.open(federation.home.store_file)
        federation.transport = transport
        run(federation)
        assert state(federation) == "completed", k
        check_record(federation)
        checkpoint = federation.store.checkpoint(federation.key)
        assert checkpoint is not None
        assert checkpoint.version == ROUNDS
        for site in SITES:
            assert len(charges(federation, site)) >= ROUNDS
    pytest.fail("it never ends")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_write_of_the_record_it_continues(template: Federation, tmp_path: Path, after: bool) -> None:
    assert deaths(template, tmp_path, "store", after=after) >= 8


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_use_of_the_network_it_continues(template: Federation, tmp_path: Path, after: bool) -> None:
    assert deaths(template, tmp_path, "transport", after=after) >= 8


def test_killed_again_and_again_it_stops_at_the_planned_attempts(federation: Federation) -> None:
    """A crash loop spends what was planned, and no more."""
    for _ in range(federation.sealed().manifest.planned_attempts):
        store = Mortal(federation.store, {"close_attempt"}, 2 if outcomes(federation) else 1, after=False)
        with pytest.raises(KilledError):
            run(federation, store=store)
    with pytest.raises(RefusalError) as caught:
        run(federation)
    assert caught.value.code == "budget-exhausted"
    check_record(federation)
    assert {len(charges(federation, site)) for site in SITES} == {federation.sealed().manifest.planned_attempts}


def test_an_interrupted_attempt_is_named_with_everyone_in_it(federation: Federation) -> None:
    with pytest.raises(KilledError):
        run(federation, store=Mortal(federation.store, {"close_attempt"}, 1, after=False))
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
def test_a_damaged_model_fails_the_study_and_is_never_sent(federation: Federation, damage: str) -> None:
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

    with pytest.raises(FedwardError, match="model"):
        run(federation, heard=spoil)
    assert state(federation) == "failed"
    assert {request.round for _, request in asked(federation)} == {1}
    assert outcomes(federation) == [(1, "committed")]  # no attempt opens on it
    check_record(federation)
