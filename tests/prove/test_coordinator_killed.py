"""kill -9 of every process at every journal point of the coordinator, on real processes: each study goes on within 30 s, nothing
counts twice, and its last model is, bit by bit, the one of a study that was left alone.

The points are found by watching an undisturbed study, so that a new durable step joins by itself. FEDWARD_SIEGE_MODES and
FEDWARD_SIEGE_VICTIMS choose some of the matrix (`plain,secure`; `service,app,cleveland,…`), FEDWARD_SIEGE_STEP every so manieth
place, FEDWARD_SIEGE_ROUNDS how long a study is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
import siege
from siege import APP, SERVICE, VICTIMS, Siege

pytestmark = [pytest.mark.prove, pytest.mark.timeout(4 * 3600)]

MODES = os.environ.get("FEDWARD_SIEGE_MODES", "plain,secure").split(",")
CHOSEN = os.environ.get("FEDWARD_SIEGE_VICTIMS", ",".join(VICTIMS)).split(",")
STEP = int(os.environ.get("FEDWARD_SIEGE_STEP", "1"))
ROUNDS, RESERVE = int(os.environ.get("FEDWARD_SIEGE_ROUNDS", "40")), 6
"""Rounds of a besieged study; so many are left when the last of its cases begins, so that none falls into its end."""
START, ROUND, SHORT = ("begin", "setup"), ("round", "between"), ("first", "last", "end")
"""Parts of a run: what each run begins with, what each round does, and what a study does once."""
JOURNAL = re.compile(r"/(before|after) (commit|send|fdatasync audit/entries|replace models)|/after replies")
"""What another process can tell apart: a file's steps before it is in its place are one to it. The process that makes them dies at
each of them."""

NOT_OURS = re.compile(r" flower/|send declare")
"""Flower's own copy of our bundle, and what a proposal does before a study exists."""

Say = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", params=MODES)
def besieged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    made = Siege(tmp_path_factory.mktemp(request.param), request.param == "secure")
    with made.standing():
        yield made


@pytest.fixture(scope="module")
def alone(besieged: Siege) -> list[str]:
    """The models of a study that nobody disturbs; its places are on record."""
    return besieged.alone("alone", ROUNDS)


def _places(besieged: Siege, parts: tuple[str, ...], victim: str) -> list[str]:
    found = [place for place in besieged.ever_passed() if place.split("/")[0] in parts and not NOT_OURS.search(place)]
    return [place for place in found if victim == APP or JOURNAL.search(place)][::STEP]


def _say(capsys: Say, text: str) -> None:
    with capsys.disabled():
        print(f"\n{text}", end="", flush=True)  # noqa: T201 - an hour's proof shows where it is


def _struck(besieged: Siege, key: int, place: str, victim: str, capsys: Say, *, provoked: bool = False) -> None:
    case = besieged.strike(key, place, victim, provoked=provoked)
    if case is None:
        besieged.missed.append((victim, place))
        _say(capsys, f"{victim} at {place}: not on the way")
    else:
        _say(
            capsys,
            f"{victim} at {place}: the next sum {case.seconds:.1f} s after its restart, {case.lost} attempts lost",
        )


@pytest.mark.parametrize("victim", CHOSEN)
def test_killed_at_every_place_of_a_round(besieged: Siege, alone: list[str], victim: str, capsys: Say) -> None:
    places = [(place, True) for place in _places(besieged, START, victim)]
    places += [(place, False) for place in _places(besieged, ROUND, victim)]
    if victim == SERVICE:
        places += [(place, False) for place in besieged.ever_passed() if re.fullmatch(r"service/.*/1", place)][::STEP]
    assert len(places) * STEP >= 20, places
    for number, (place, provoked) in enumerate(places):
        key = besieged.under_way(f"{victim}-{number}", ROUNDS, RESERVE)
        _struck(besieged, key, place, victim, capsys, provoked=provoked)
    _held(besieged, alone, capsys)


@pytest.mark.parametrize("victim", CHOSEN)
def test_killed_at_every_place_that_a_study_passes_once(
    besieged: Siege, alone: list[str], victim: str, capsys: Say
) -> None:
    """At its first and its last, each in a study of one round; and at those of a run's begin that a resumed run does not pass."""
    places = _places(besieged, SHORT, victim)
    places += [place for who, place in besieged.missed if who == victim and place.startswith("begin/")]
    for number, place in enumerate(places):
        key = besieged.propose(f"short-{victim}-{number}", 1)
        _say(capsys, f"{victim} at {place}: {besieged.strike_whole(key, place, victim)}")
    _held(besieged, alone, capsys)


def _held(besieged: Siege, alone: list[str], capsys: Say) -> None:
    """Every study so far ended with the models of the undisturbed one, and none stood still for long."""
    ended = besieged.finish_all()
    _say(capsys, f"{besieged.report()}\n{len(ended)} studies ended with the models of the one that was left alone\n")
    assert [models == alone[: len(models)] for models in ended] == [True] * len(ended)
    slow = [case for case in besieged.cases if case.seconds > siege.MOST_S]
    assert not slow, slow
