"""The round machine: whatever happens, in whatever order, it ends once, by name, and never with fewer than the quorum."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedward.privacy.errors import InputError
from fedward.server.round import (
    Ask,
    Command,
    End,
    Event,
    Opened,
    Outcome,
    Plan,
    Refused,
    Replied,
    Round,
    Status,
    Stopped,
    Sum,
    Tick,
    Unreachable,
)

SITES = ("amber", "birch", "cedar", "delta")


def plan(quorum: int = 3, stages: tuple[str, ...] = ("work",), cohort: tuple[str, ...] = SITES) -> Plan:
    return Plan(round=1, attempt=1, cohort=cohort, quorum=quorum, deadline=100.0, grace=10.0, stages=stages)


def opened(**changes: object) -> Round:
    machine = Round(plan(**changes))  # type: ignore[arg-type]
    assert machine.handle(Opened(0.0)) == [Ask(machine.plan.stages[0], machine.plan.cohort)]
    return machine


def feed(machine: Round, *events: Event) -> list[Command]:
    return [command for event in events for command in machine.handle(event)]


def statuses(machine: Round) -> dict[str, str]:
    return {site: str(state.status) for site, state in machine.sites.items()}


# --- the paths by hand ----------------------------------------------------------------------------------------------------


def test_when_everyone_answers_the_round_commits_at_once_in_roster_order() -> None:
    machine = opened()
    commands = feed(machine, *(Replied(site, "work", 1.0) for site in reversed(SITES)))
    assert commands == [Sum(SITES), End(Outcome.COMMITTED, "4 of 4 sites contributed")]


def test_with_a_quorum_it_waits_for_the_grace_and_drops_the_rest_by_name() -> None:
    machine = opened()
    assert feed(machine, *(Replied(site, "work", 5.0) for site in SITES[1:])) == []
    assert machine.handle(Tick(14.9)) == []
    assert machine.handle(Tick(15.0)) == [Sum(SITES[1:]), End(Outcome.COMMITTED, "3 of 4 sites contributed")]
    assert machine.sites["amber"].status == Status.DROPPED
    assert machine.sites["amber"].reason == "no answer: others were waiting"


def test_the_grace_counts_from_the_quorum_not_from_the_last_answer() -> None:
    machine = opened(quorum=2)
    feed(machine, Replied("amber", "work", 1.0), Replied("birch", "work", 2.0), Replied("cedar", "work", 11.0))
    assert machine.ended is None
    machine.handle(Tick(12.0))
    assert machine.ended is not None


def test_the_deadline_without_a_quorum_names_who_is_missing_and_why() -> None:
    machine = opened()
    feed(
        machine,
        Replied("amber", "work", 1.0),
        Unreachable("birch", "unreachable: offline", 2.0),
        Tick(99.9),
    )
    assert machine.ended is None
    (end,) = machine.handle(Tick(100.0))
    assert isinstance(end, End)
    assert end.outcome == Outcome.QUORUM_MISSED
    assert "1 of at least 3" in end.reason
    for part in ("birch dropped: unreachable: offline", "cedar dropped: no answer: deadline passed", "delta dropped"):
        assert part in end.reason
    assert "amber" not in end.reason


def test_a_round_that_cannot_reach_the_quorum_ends_before_its_deadline() -> None:
    machine = opened()
    assert feed(machine, Refused("amber", "policy", 1.0)) == []
    (end,) = feed(machine, Refused("birch", "budget-exhausted", 2.0))
    assert isinstance(end, End)
    assert end.outcome == Outcome.QUORUM_MISSED
    assert "amber refused: policy" in end.reason


def test_a_deadline_with_a_quorum_commits() -> None:
    machine = opened()
    feed(machine, *(Replied(site, "work", 95.0) for site in SITES[:3]))
    assert machine.handle(Tick(100.0))[0] == Sum(SITES[:3])


def test_an_unreachable_site_is_asked_again_and_may_still_contribute() -> None:
    machine = opened()
    assert machine.handle(Unreachable("delta", "offline", 1.0)) == [Ask("work", ("delta",))]
    assert feed(machine, *(Replied(site, "work", 2.0) for site in SITES))[0] == Sum(SITES)
    assert machine.sites["delta"].reason == ""


def test_nobody_is_asked_again_by_a_stage_that_closes() -> None:
    machine = opened(quorum=3)
    feed(machine, *(Replied(site, "work", 1.0) for site in SITES[:3]))
    commands = machine.handle(Unreachable("delta", "offline", 50.0))
    assert [type(command) for command in commands] == [Sum, End]
    assert machine.sites["delta"].reason == "offline"


def test_the_first_answer_stands() -> None:
    machine = opened(quorum=1)
    feed(machine, Refused("amber", "no", 1.0), Replied("amber", "work", 2.0), Unreachable("amber", "gone", 3.0))
    assert (machine.sites["amber"].status, machine.sites["amber"].reason) == (Status.REFUSED, "no")
    feed(machine, Replied("birch", "work", 4.0), Refused("birch", "no", 5.0))
    assert machine.sites["birch"].status == Status.CONTRIBUTED


def test_a_stop_ends_it_whatever_was_answered() -> None:
    machine = opened()
    feed(machine, Replied("amber", "work", 1.0))
    assert machine.handle(Stopped("a person", 2.0)) == [End(Outcome.STOPPED, "a person")]
    assert statuses(machine)["birch"] == "dropped"


def test_after_its_end_it_accepts_nothing() -> None:
    machine = opened()
    machine.handle(Stopped("a person", 2.0))
    before = dict(machine.sites)
    events: list[Event] = [Opened(3.0), Replied("amber", "work", 3.0), Tick(1e9), Stopped("again", 4.0)]
    assert feed(machine, *events, Unreachable("birch", "x", 5.0), Refused("cedar", "x", 5.0)) == []
    assert machine.sites == before


# --- stages -----------------------------------------------------------------------------------------------------------------

SECURE = ("keys", "masked", "unmask")


def test_each_stage_asks_those_who_finished_the_one_before() -> None:
    machine = opened(quorum=2, stages=SECURE)
    feed(machine, Refused("birch", "no", 1.0))
    commands = feed(machine, *(Replied(site, "keys", 2.0) for site in ("delta", "amber", "cedar")))
    assert commands == [Ask("masked", ("amber", "cedar", "delta"))]
    assert statuses(machine)["birch"] == "refused"
    feed(machine, Replied("amber", "masked", 3.0), Replied("delta", "masked", 3.0))
    assert machine.handle(Tick(13.0)) == [Ask("unmask", ("amber", "delta"))]
    assert machine.sites["cedar"].status == Status.DROPPED
    commands = feed(machine, Replied("delta", "unmask", 14.0), Replied("amber", "unmask", 15.0))
    assert commands == [Sum(("amber", "delta")), End(Outcome.COMMITTED, "2 of 4 sites contributed")]


def test_a_late_reply_to_an_earlier_stage_counts_for_nothing() -> None:
    machine = opened(quorum=2, stages=SECURE)
    feed(machine, *(Replied(site, "keys", 1.0) for site in SITES))
    feed(machine, *(Replied(site, "keys", 2.0) for site in SITES))
    assert machine.stage == "masked"
    assert machine.in_status(Status.ASKED) == SITES


def test_each_stage_has_the_whole_deadline_and_grace() -> None:
    machine = opened(quorum=2, stages=SECURE)
    feed(machine, *(Replied(site, "keys", 90.0) for site in SITES))
    feed(machine, Tick(189.9))
    assert machine.ended is None
    assert feed(machine, Tick(190.0))[-1] == machine.ended


def test_a_quorum_lost_in_a_later_stage_ends_the_attempt() -> None:
    machine = opened(quorum=3, stages=SECURE)
    feed(machine, *(Replied(site, "keys", 1.0) for site in SITES))
    (end,) = feed(machine, Refused("amber", "a", 2.0), Refused("birch", "b", 3.0))
    assert isinstance(end, End)
    assert end.outcome == Outcome.QUORUM_MISSED


# --- what is no event ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
def test_a_time_that_is_no_number_is_refused_and_changes_nothing(at: float) -> None:
    machine = opened()
    for event in (Tick(at), Replied("amber", "work", at), Stopped("x", at), Refused("amber", "x", at)):
        with pytest.raises(InputError, match="not finite"):
            machine.handle(event)
    assert machine.in_status(Status.ASKED) == SITES
    with pytest.raises(InputError, match="not finite"):
        Round(plan()).handle(Opened(at))


def test_a_site_outside_the_cohort_is_refused_by_name() -> None:
    machine = opened()
    for event in (Replied("evil", "work", 1.0), Refused("evil", "x", 1.0), Unreachable("evil", "x", 1.0)):
        with pytest.raises(InputError, match='"evil" is not in the cohort'):
            machine.handle(event)
    assert set(machine.sites) == set(SITES)


def test_an_attempt_opens_once_and_first() -> None:
    with pytest.raises(InputError, match="not been opened"):
        Round(plan()).handle(Tick(1.0))
    with pytest.raises(InputError, match="open already"):
        opened().handle(Opened(1.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": ()},
        {"cohort": ("amber", "amber", "birch")},
        {"quorum": 0},
        {"quorum": 5},
        {"stages": ()},
        {"deadline": 0.0},
        {"deadline": math.nan},
        {"deadline": math.inf},
        {"grace": -1.0},
        {"grace": math.nan},
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused(changes: dict[str, object]) -> None:
    whole = {"round": 1, "attempt": 1, "cohort": SITES, "quorum": 3, "deadline": 1.0, "grace": 1.0}
    with pytest.raises(InputError):
        Plan(**(whole | changes))  # type: ignore[arg-type]


# --- any sequence ---------------------------------------------------------------------------------------------------------------


class AnyRound(RuleBasedStateMachine):
    """Random events against the rules of the module's docstring, with an oracle of who answered which stage."""

    @initialize(
        n=st.integers(1, 5),
        quorum=st.integers(1, 5),
        stages=st.integers(1, 3),
        deadline=st.floats(1, 60),
        grace=st.floats(0.5, 30),
    )
    def begin(self, n: int, quorum: int, stages: int, deadline: float, grace: float) -> None:
        self.cohort = tuple(f"site-{i}" for i in range(n))
        names = tuple(f"stage-{i}" for i in range(stages))
        self.machine = Round(Plan(1, 1, self.cohort, min(quorum, n), deadline, grace, names))
        self.now = 0.0
        self.done: list[set[str]] = [set() for _ in names]
        self.out: set[str] = set()
        self.stage, self.ends, self.sums = 0, 0, 0
        self.take(Opened(0.0))

    def take(self, event: Event) -> None:
        over = self.machine.ended is not None
        commands = self.machine.handle(event)
        assert not (over and commands)
        for command in commands:
            assert self.ends == 0
            if isinstance(command, Ask):
                self.check_ask(command)
            elif isinstance(command, Sum):
                self.sums += 1
                self.check_sum(command)
            else:
                self.ends += 1
                self.check_end(command)

    def check_ask(self, ask: Ask) -> None:
        names = self.machine.plan.stages
        if names.index(ask.stage) > self.stage:
            assert names.index(ask.stage) == self.stage + 1
            before = tuple(site for site in self.cohort if site in self.done[self.stage])
            assert ask.sites == before
            assert len(before) >= self.machine.plan.quorum
            self.stage += 1
        assert ask.stage == names[self.stage]
        assert all(self.machine.sites[site].status == Status.ASKED for site in ask.sites)
        assert not self.out & set(ask.sites)

    def check_sum(self, command: Sum) -> None:
        everywhere = set.intersection(*self.done)
        assert self.stage == len(self.done) - 1
        assert command.sites == tuple(site for site in self.cohort if site in everywhere)
        assert len(command.sites) >= self.machine.plan.quorum

    def check_end(self, end: End) -> None:
        assert (end.outcome == Outcome.COMMITTED) == (self.sums == 1)
        assert end.reason
        for state in self.machine.sites.values():
            assert state.status in {Status.CONTRIBUTED, Status.REFUSED, Status.DROPPED}
            assert state.status == Status.CONTRIBUTED or state.reason

    def site(self, index: int) -> str:
        return self.cohort[index % len(self.cohort)]

    @rule(index=st.integers(0, 4), stage=st.integers(0, 2), after=st.floats(0, 5))
    def reply(self, index: int, stage: int, after: float) -> None:
        self.now += after
        site, stage = self.site(index), stage % len(self.done)
        if stage == self.stage and self.asked(site):
            self.done[stage].add(site)
        self.take(Replied(site, self.machine.plan.stages[stage], self.now))

    @rule(index=st.integers(0, 4), after=st.floats(0, 5))
    def refuse(self, index: int, after: float) -> None:
        self.now += after
        if self.asked(self.site(index)):
            self.out.add(self.site(index))
        self.take(Refused(self.site(index), "policy", self.now))

    @rule(index=st.integers(0, 4), after=st.floats(0, 5))
    def lose(self, index: int, after: float) -> None:
        self.now += after
        self.take(Unreachable(self.site(index), "offline", self.now))

    @rule(after=st.floats(0, 40))
    def wait(self, after: float) -> None:
        self.now += after
        self.take(Tick(self.now))

    @precondition(lambda self: self.machine.ended is None)
    @rule(event=st.sampled_from([Tick(math.nan), Replied("site-9", "stage-0", 1.0), Refused("site-9", "x", 1.0)]))
    def confuse(self, event: Event) -> None:
        before = dict(self.machine.sites)
        with pytest.raises(InputError):
            self.machine.handle(event)
        assert self.machine.sites == before

    @rule(really=st.integers(0, 9))
    def stop(self, really: int) -> None:
        if really == 0:
            self.take(Stopped("a person", self.now))

    def asked(self, site: str) -> bool:
        return self.machine.ended is None and self.machine.sites[site].status == Status.ASKED

    @invariant()
    def it_ends_once_and_stays_ended(self) -> None:
        if hasattr(self, "machine"):
            assert self.ends == (self.machine.ended is not None)
            assert self.sums <= self.ends

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        for _ in self.done:  # time alone ends every round: one deadline a stage at most
            self.now += self.machine.plan.deadline + 1
            self.take(Tick(self.now))
        assert self.ends == 1


TestAnyRound = AnyRound.TestCase
TestAnyRound.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
