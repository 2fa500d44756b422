"""How long a round waits for each site: a slow hospital is not dropped by accident, and a dead one costs little for long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.errors import InputError
from fedward.server.pacing import AGAIN, KEPT, MARGIN, SLACK, Bounds, Sighting, enough, pace, patience, sightings, usual
from fedward.server.records import StatusRow
from fedward.server.round import Opened, Outcome, Plan, Replied, Round, Status, Stragglers, Tick, plain_stages
from fedward.study.manifest import Federation

BOUNDS = Bounds(60.0, 600.0)
DEADLINE, GRACE = 600.0, 20.0
SILENT = "no answer: others were waiting"


def answered(*seconds: float) -> tuple[Sighting, ...]:
    return tuple(Sighting("answered", one) for one in seconds)


def silent(*seconds: float) -> tuple[Sighting, ...]:
    return tuple(Sighting("silent", one) for one in seconds)


# --- the rules by hand ----------------------------------------------------------------------------------------------------


def test_a_usual_time_is_the_longest_of_the_last_answers() -> None:
    assert usual(answered(5.0, 30.0, 10.0), BOUNDS) == 30.0
    assert usual(answered(300.0, *[10.0] * KEPT), BOUNDS) == 10.0
    assert usual(answered(900.0), BOUNDS) == 600.0
    assert usual((), BOUNDS) is None
    assert usual((Sighting("heard"), *silent(20.0)), BOUNDS) is None


def test_who_is_not_known_is_given_no_time_of_its_own_and_a_round_that_waits_gives_it_the_deadline() -> None:
    assert patience((), BOUNDS) is None
    assert enough({"new": (), "fast": answered(1.0)}, BOUNDS) == 600.0


def test_a_known_site_has_its_usual_time_and_a_margin() -> None:
    assert patience(answered(100.0, 80.0), BOUNDS) == MARGIN * 100.0
    assert patience(answered(500.0), BOUNDS) == 600.0
    assert patience(answered(0.0), BOUNDS) > 0


def test_a_round_that_waits_lasts_as_long_as_its_slowest_site_needs_within_the_bounds() -> None:
    assert enough({"a": answered(10.0), "b": answered(100.0)}, BOUNDS) == SLACK * 100.0
    assert enough({"a": answered(1.0)}, BOUNDS) == 60.0
    assert enough({"a": answered(400.0)}, BOUNDS) == 600.0


def test_a_silent_site_has_the_whole_deadline_once_and_then_less_and_less_and_the_whole_again() -> None:
    waited: list[float] = [20.0]
    given_to = []
    for _ in range(2 * AGAIN + 1):
        time = patience(answered(5.0) + silent(*waited), BOUNDS)
        assert time is not None
        assert time == enough({"a": answered(5.0) + silent(*waited)}, BOUNDS)
        given_to.append(time)
        waited.append(time)
    assert given_to[:6] == [600.0, 300.0, 150.0, 75.0, 60.0, 60.0]
    assert [n for n, time in enumerate(given_to) if time == 600.0] == [0, AGAIN, 2 * AGAIN]


@pytest.mark.parametrize("end", [Sighting("answered", 5.0), Sighting("heard")])
def test_whatever_is_heard_of_a_site_ends_its_silences(end: Sighting) -> None:
    told = (*answered(5.0), *silent(600.0, 300.0, 150.0))
    assert patience(told, BOUNDS) == 75.0
    assert patience((*told, end), BOUNDS) == MARGIN * 5.0


def test_where_a_person_is_asked_silences_are_that_person_s_to_judge() -> None:
    assert patience(answered(100.0) + silent(600.0), BOUNDS, asks=True) == MARGIN * 100.0


# --- what the record tells ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "seconds", "expected"),
    [
        ("contributed", "", 12.0, Sighting("answered", 12.0)),
        ("contributed", "in the sum; then no answer at unmask: others were waiting", 12.0, Sighting("answered", 12.0)),
        ("contributed", "", None, None),
        ("contributed", "", -1.0, None),
        ("contributed", "", math.nan, None),
        ("contributed", "", math.inf, None),
        ("dropped", SILENT, 31.0, Sighting("silent", 31.0)),
        ("dropped", "no answer: deadline passed", 600.0, Sighting("silent", 600.0)),
        ("dropped", SILENT, None, None),
        ("dropped", SILENT, math.nan, None),
        ("dropped", "unreachable: offline", None, Sighting("heard")),
        ("dropped", "attempt stopped", None, None),
        ("dropped", "the coordinator stopped during this attempt", None, None),
        ("refused", "budget-exhausted: …", None, Sighting("heard")),
        ("absent", "not reachable, or it refused the study", None, Sighting("heard")),
        ("absent", "reachable, and not asked: this attempt could not go on without others", None, None),
        ("absent", "left out of the batch: no answer: deadline passed", None, None),
    ],
)
def test_what_a_status_tells(status: str, reason: str, seconds: float | None, expected: Sighting | None) -> None:
    rows = [StatusRow(1, "other", "contributed", "", 1.0), StatusRow(1, "va", status, reason, seconds)]
    assert sightings(rows, "va") == (() if expected is None else (expected,))


def test_a_manifest_s_words_bound_the_pace() -> None:
    rows = [StatusRow(1, "va", "contributed", "", 100.0)]
    bare = pace(rows, ("new", "va"), Federation(quorum=1))
    assert (bare.stragglers, bare.usual, bare.enough) == (Stragglers.CARRY_ON, {"va": 150.0}, 600.0)
    told = pace(rows, ("va",), Federation(quorum=1, stragglers="wait", deadline="20min", deadline_floor="7min"))
    assert (told.stragglers, told.enough) == (Stragglers.WAIT, 420.0)
    assert pace([], ("va",), Federation(quorum=1, deadline="5s")).enough == 5.0
    assert Federation(quorum=1).floor_s == 60.0
    assert Federation(quorum=1, deadline="5s").floor_s == 5.0


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_bounds_that_bound_nothing_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(InputError):
        Bounds(*bounds)


TIMES = st.floats(allow_nan=True, allow_infinity=True)
ROWS = st.lists(
    st.builds(
        StatusRow,
        st.integers(1, 50),
        st.sampled_from(["amber", "birch", "cedar"]),
        st.sampled_from(["contributed", "dropped", "refused", "absent"]),
        st.sampled_from(["", SILENT, "no answer: deadline passed", "unreachable: offline", "policy: x"]),
        st.none() | TIMES,
    ),
    max_size=60,
)


@given(rows=ROWS, floor=st.floats(0.1, 100), more=st.floats(0, 1000), stragglers=st.sampled_from(Stragglers))
def test_any_record_gives_a_plan_that_can_be_kept(
    rows: list[StatusRow], floor: float, more: float, stragglers: Stragglers
) -> None:
    words = {"deadline_floor": f"{floor:.2f}s", "deadline": f"{floor + more + 0.01:.2f}s"}
    federation = Federation(quorum=1, stragglers=stragglers.value, **words)  # type: ignore[arg-type]
    cohort = ("amber", "birch", "cedar")
    made = pace(rows, cohort, federation)
    deadline = float(words["deadline"][:-1])
    assert all(0 < time <= deadline for time in made.usual.values())
    assert float(words["deadline_floor"][:-1]) <= made.enough <= deadline
    Plan(1, 1, cohort, plain_stages(1, 1.0), deadline, usual=made.usual, enough=made.enough, stragglers=made.stragglers)


# --- many rounds ----------------------------------------------------------------------------------------------------------


class Rounds:
    """Rounds of sites that take a given time each, None if they never answer; the record grows as a store's does."""

    def __init__(self, stragglers: str, quorum: int) -> None:
        self.federation = Federation(quorum=quorum, stragglers=stragglers, deadline="600s")  # type: ignore[arg-type]
        self.rows: list[StatusRow] = []
        self.lasted: list[float] = []

    def round(self, takes: Mapping[str, float | None], step: float = 0.5) -> Round:
        """One attempt; every site has the same connection and is asked at 0."""
        cohort, number = tuple(takes), len(self.lasted) + 1
        made = pace(self.rows, cohort, self.federation)
        plan = Plan(
            number, number, cohort, plain_stages(self.federation.quorum, GRACE), DEADLINE,
            stragglers=made.stragglers, usual=made.usual, enough=made.enough,
        )  # fmt: skip
        machine, now = Round(plan), 0.0
        machine.handle(Opened(0.0))
        due = sorted((time, site) for site, time in takes.items() if time is not None)
        while machine.ended is None:
            now += step
            while due and due[0][0] <= now and machine.ended is None:
                at, site = due.pop(0)
                machine.handle(Replied(site, "work", at))
            machine.handle(Tick(now))
        assert machine.ended.outcome == Outcome.COMMITTED
        self.lasted.append(now)
        self.rows += [StatusRow(number, s, x.status, x.reason, x.took) for s, x in sorted(machine.sites.items())]
        return machine


FAST = {"amber": 6.0, "birch": 4.0, "cedar": 5.0}


@pytest.mark.parametrize("stragglers", ["wait", "carry-on"])
@pytest.mark.parametrize("slow", [[60.0], [55.0, 60.0, 40.0, 75.0, 58.0]])
def test_a_hospital_ten_times_slower_than_the_others_is_never_dropped(stragglers: str, slow: Sequence[float]) -> None:
    rounds = Rounds(stragglers, quorum=3)
    for n in range(30):
        machine = rounds.round(FAST | {"large": slow[n % len(slow)]})
        assert machine.sites["large"].status == Status.CONTRIBUTED, n
    assert max(rounds.lasted) <= max(slow) + 1


def test_a_hospital_that_is_too_slow_for_its_first_round_is_dropped_once_and_never_again() -> None:
    rounds = Rounds("carry-on", quorum=3)
    told = [rounds.round({"amber": 0.6, "birch": 0.4, "cedar": 0.5, "large": 300.0}).sites["large"] for _ in range(10)]
    assert [one.status for one in told] == [Status.DROPPED, *[Status.CONTRIBUTED] * 9]
    assert rounds.lasted[0] <= GRACE + 1


def test_a_hospital_that_becomes_slower_is_dropped_once_at_most() -> None:
    rounds = Rounds("carry-on", quorum=3)
    times = [30.0] * 12 + [400.0] * 12
    told = [rounds.round(FAST | {"large": time}).sites["large"].status for time in times]
    assert told == [*[Status.CONTRIBUTED] * 12, Status.DROPPED, *[Status.CONTRIBUTED] * 11]


@pytest.mark.parametrize("stragglers", ["wait", "carry-on"])
def test_a_dead_hospital_costs_the_whole_deadline_once_and_then_less(stragglers: str) -> None:
    rounds = Rounds(stragglers, quorum=3)
    for _ in range(5):
        rounds.round(FAST | {"dead": 5.0})
    before = len(rounds.lasted)
    for _ in range(AGAIN + 1):
        assert rounds.round(FAST | {"dead": None}).sites["dead"].status == Status.DROPPED
    cost = rounds.lasted[before:]
    assert sum(lasted >= DEADLINE for lasted in cost) == 1
    whole = cost.index(max(cost))
    assert whole <= 1
    assert cost[whole + 1 :] == sorted(cost[whole + 1 :], reverse=True)
    assert cost[-1] <= 61.0
    assert sum(cost) / len(cost) < DEADLINE / 3


def test_a_hospital_that_returns_is_waited_for_again_from_its_first_answer_on() -> None:
    rounds = Rounds("wait", quorum=3)
    for _ in range(3):
        rounds.round(FAST | {"large": 40.0})
    for _ in range(5):
        rounds.round(FAST | {"large": None})
    for _ in range(5):
        assert rounds.round(FAST | {"large": 40.0}).sites["large"].status == Status.CONTRIBUTED


def test_a_slow_hospital_that_hung_and_is_back_is_found_by_the_whole_deadline_that_comes_again() -> None:
    rounds = Rounds("wait", quorum=3)
    rounds.round(FAST | {"large": 300.0})
    for _ in range(3):
        rounds.round(FAST | {"large": None})
    told = [rounds.round(FAST | {"large": 300.0}).sites["large"].status for _ in range(AGAIN + 4)]
    first = told.index(Status.CONTRIBUTED)
    assert first <= AGAIN
    assert set(told[first:]) == {Status.CONTRIBUTED}


def test_dead_hospitals_never_cost_a_round_that_has_no_quorum_without_the_slow_one() -> None:
    rounds = Rounds("wait", quorum=4)
    for _ in range(6):
        machine = rounds.round(FAST | {"large": 500.0, "dead": None})
        assert machine.sites["large"].status == Status.CONTRIBUTED
