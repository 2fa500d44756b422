"""An exploration from proposal to answers: exact sums, charges, lost sites, repeated attempts, restarts, lying sites."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exploring import NoNoise, allow, charged, exact, heart_exploration, sealed_exploration, shown
from federation import Federation
from numpy.typing import NDArray
from secured import KilledError, Mortal, Wire, decide, draw_with, leaving, stage_fault, vector_of

from fedward.client import datasets
from fedward.privacy.errors import RefusalError
from fedward.server.exploring import run_study
from fedward.server.notices import tell_ended
from fedward.server.records import ANSWERS
from fedward.study import messages
from fedward.study.answers import GRID, deviation, shape_of
from fedward.study.heart import SITES
from fedward.study.messages import Result

QUICK = {"deadline": "20s", "grace": "5s"}
Make = Callable[..., Federation]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A federation of its own for the caller, in which every site approved the exploration with these changes."""
    made: dict[str, Federation] = {}

    def give(*, secure: bool = True, **changes: dict[str, object]) -> Federation:
        name = json.dumps([secure, changes], sort_keys=True)
        if name not in made:
            made[name] = Federation(tmp_path_factory.mktemp("explore"))
            allow(made[name])
            made[name].ready(heart_exploration(secure=secure, federation=QUICK, **changes))
        return made[name].copy(tmp_path_factory.mktemp("run") / "copy")

    return give


def quiet(federation: Federation) -> None:
    draw_with(federation, lambda _: NoNoise())  # type: ignore[arg-type,return-value]


def total(federation: Federation) -> NDArray[np.int64]:
    found = federation.store.evaluation(federation.key, ANSWERS)
    assert found is not None
    return np.frombuffer(found.counts, dtype="<i8")


def sites_in(federation: Federation) -> tuple[str, ...]:
    found = federation.store.evaluation(federation.key, ANSWERS)
    assert found is not None
    return found.sites


@pytest.mark.parametrize("secure", [True, False])
def test_the_sum_is_that_of_the_hospitals_own_tallies(make: Make, secure: bool) -> None:
    federation = make(secure=secure)
    quiet(federation)
    federation.run()
    assert sites_in(federation) == SITES
    np.testing.assert_array_equal(total(federation), exact(federation, SITES))
    seen = shown(federation)
    assert (seen.state, seen.kind, seen.version, seen.rounds) == ("completed", "explore", 1, 1)
    assert seen.answers is not None
    assert seen.answers[0].estimates[0].value == 920  # all four heart hospitals
    assert seen.as_json()["privacy"].startswith("unit: patient")
    assert "registered patients" in seen.as_json()["privacy"]


def test_a_site_that_approves_after_the_end_is_given_its_reservation_back(tmp_path: Path) -> None:
    """Nobody at the hospital knew of the end; without a second notice its budget would stay held for half a year."""
    federation = Federation(tmp_path)
    allow(federation)
    exploration = heart_exploration(federation=QUICK)
    federation.register(exploration)
    sealed = federation.propose(exploration)
    late = SITES[-1]
    federation.approve(sealed, tuple(site for site in SITES if site != late))
    federation.run()
    assert federation.store.study(federation.key).state == "completed"
    federation.approve(sealed, (late,))

    def held() -> int:
        with federation.sites[late].ledger() as ledger:
            return len(ledger.reservations(at=federation.clock.unix()))

    assert held() == 1
    tell_ended(
        federation.store, federation.transport, federation.clock, federation.home.identity(), federation.said.append
    )
    assert held() == 0


def test_with_noise_every_number_is_off_by_what_its_interval_says(make: Make) -> None:
    federation = make()
    federation.run()
    truth, noisy = exact(federation, SITES), total(federation)
    exploration = sealed_exploration(federation).manifest
    sigma = math.hypot(*(deviation(exploration, e.noise_multiplier) for e in federation.sealed().roster))
    counts = shape_of(exploration).counts
    assert (noisy != truth).sum() > counts / 2
    assert np.abs((noisy - truth)[:counts]).max() < 6 * sigma
    assert np.abs((noisy - truth)[counts:]).max() < 6 * GRID * sigma
    assert sum(np.abs(noisy - truth)[:counts] > sigma / 20) > counts / 2  # noise, and not a rounding


def test_the_coordinator_sees_no_hospitals_own_answers(make: Make) -> None:
    """Each vector that leaves is masked: it holds none of the small integers that the hospital found."""
    federation = make()
    quiet(federation)
    wire = Wire(federation)
    federation.run()
    left = wire.masked()
    assert {one.site for one in left} == set(SITES)
    for one in left:
        own = exact(federation, (one.site,))
        assert not (vector_of(one).view("<i4") == own).any()
    kinds = {one.kind for one in wire.said}
    assert kinds <= {"offer", "advertise", "share", "open", "masked", "confirm", "unmask", "ended", "checkpoint"}


def test_an_attempt_is_charged_once_for_each_kind_of_noise_before_anything_is_read(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = make()
    read = datasets.read

    def dies(*arguments: object) -> object:
        raise OSError("the disk is gone")

    monkeypatch.setattr(datasets, "read", dies)
    with pytest.raises(RefusalError, match="used up"):
        federation.run()
    assert charged(federation, "va") == [
        (1, 1, "explore-counts"), (1, 1, "explore-sums"), (1, 2, "explore-counts"), (1, 2, "explore-sums")]  # fmt: skip
    monkeypatch.setattr(datasets, "read", read)
    with pytest.raises(RefusalError, match="attempts that the hospitals approved are used up"):
        federation.run()
    assert len(charged(federation, "va")) == 4
    ledger = federation.sites["va"].ledger()
    assert 0 < ledger.spent() <= 0.5  # all planned attempts were charged: exactly what was promised


def test_a_site_that_is_lost_is_missing_from_the_sum_and_from_the_intervals(make: Make) -> None:
    federation = make()
    quiet(federation)
    Wire(federation, stage_fault("masked", ("va",), "mute", only_first=False))
    federation.run()
    others = tuple(site for site in SITES if site != "va")
    assert sites_in(federation) == others
    np.testing.assert_array_equal(total(federation), exact(federation, others))
    answers = shown(federation).answers
    assert answers is not None
    all_patients = answers[0].estimates[0]
    assert all_patients.value is not None
    assert all_patients.high is not None
    multiplier = federation.sealed().roster[0].noise_multiplier
    sigma = math.sqrt(3) * deviation(sealed_exploration(federation).manifest, multiplier)
    assert all_patients.high - all_patients.value == math.ceil(all_patients.value + 1.96 * sigma) - all_patients.value


def test_an_attempt_without_quorum_is_made_again_from_the_spare_one(make: Make) -> None:
    federation = make()
    quiet(federation)
    wire = Wire(federation, leaving(federation, "confirm", ("va", "hungarian")))
    said = federation.said

    class Returning(type(federation.clock)):  # type: ignore[misc]
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if any("attempt 1" in text for text in said):
                wire.fault = lambda _site, _request: ""
                wire.offline.clear()

    federation.clock.__class__ = Returning
    federation.run()
    rows = federation.store.attempts(federation.key)
    assert [row.outcome for row in rows] == ["quorum-missed", "committed"]
    np.testing.assert_array_equal(total(federation), exact(federation, SITES))
    assert [entry[:2] for entry in charged(federation, "va")] == [(1, 1), (1, 1), (1, 2), (1, 2)]


INTERRUPTED, ANSWERED = "interrupted", "committed"


@pytest.mark.parametrize(
    ("call", "at", "after", "outcomes", "attempts"),
    [
        ("open_attempt", 1, False, [ANSWERED], {1}),
        ("open_attempt", 1, True, [INTERRUPTED, ANSWERED], {2}),  # nothing had been sent yet
        ("note", 2, False, [INTERRUPTED, ANSWERED], {1, 2}),  # before shares were asked for
        ("note", 2, True, [INTERRUPTED, ANSWERED], {1, 2}),
        ("close_attempt", 1, False, [INTERRUPTED, ANSWERED], {1, 2}),
        ("close_attempt", 1, True, [ANSWERED], {1}),
        ("happened", 2, False, [ANSWERED], {1}),
    ],
)
def test_a_run_that_dies_goes_on_and_answers_once(
    make: Make, call: str, at: int, after: bool, outcomes: list[str], attempts: set[int]
) -> None:
    federation = make()
    quiet(federation)
    federation.launch()
    store = Mortal(federation.store, frozenset({call}), at, after=after)
    with pytest.raises(KilledError):
        run_study(
            federation.home, store, federation.transport, federation.clock, federation.said.append, federation.key
        )  # type: ignore[arg-type]
    federation.run()
    assert shown(federation).state == "completed"
    assert [row.outcome for row in federation.store.attempts(federation.key)] == outcomes
    np.testing.assert_array_equal(total(federation), exact(federation, SITES))
    assert {attempt for _, attempt, _ in charged(federation, "va")} == attempts


def test_who_has_not_approved_is_not_asked_and_too_few_fail(make: Make) -> None:
    federation = make()
    decide(federation, "va", "refused")
    quiet(federation)
    federation.run()
    assert "va" not in sites_in(federation)
    assert charged(federation, "va") == []
    other = make()
    for site in ("va", "cleveland"):
        decide(other, site, "refused")
    with pytest.raises(RefusalError, match="too few sites can still approve"):
        other.run()
    assert shown(other).answers is None


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda body: body[:-8], "wrong-shape"),
        (lambda body: body[:-8] + (2**62).to_bytes(8, "little"), "out-of-bounds"),
        (lambda body: (-(2**63)).to_bytes(8, "little", signed=True) + body[8:], "out-of-bounds"),
    ],
)
def test_an_answer_that_no_site_can_give_is_refused_by_name(
    make: Make, spoil: Callable[[bytes], bytes], code: str
) -> None:
    federation = make(secure=False)
    identity = federation.sites["va"].identity()

    def tamper(site: str, data: bytes) -> bytes:
        if site != "va":
            return data
        reply, body = messages.open_reply(data, identity.public)
        if not isinstance(reply, Result):
            return data
        return messages.pack(reply, spoil(body), identity)

    federation.transport.tamper = tamper
    federation.run()
    reasons = {row.site: row.reason for row in federation.store.statuses(federation.key)}
    assert reasons["va"].startswith(code)
    assert "va" not in sites_in(federation)
