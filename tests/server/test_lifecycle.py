"""The machine of a study's life: every order of events, the ways out of each state, and two records of one and the same thing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedward.privacy.errors import RefusalError
from fedward.server.lifecycle import (
    ENDED,
    EXHAUSTIONS,
    PLAN_USED_UP,
    SITES_SPENT,
    STATES,
    WISHES,
    Approvals,
    Began,
    Completed,
    Dissolved,
    Event,
    Failed,
    Halted,
    Launch,
    Life,
    Offered,
    Pause,
    PersonsEvent,
    Resume,
    State,
    Stop,
    after,
    at_rest,
    has_ended,
    is_busy,
    order,
)

EVENTS: tuple[Event, ...] = (
    Launch(), Pause(), Pause(now=True), Pause(serving=False), Resume(), Stop(), Stop(serving=False), Offered(), Approvals(True),
    Approvals(False), Began(), Halted(), Completed("done"), Failed("broken", "quorum-missed"), Failed("spent", PLAN_USED_UP),
    Failed("no room", SITES_SPENT), Dissolved("another identity"),
)  # fmt: skip
LEAVES: dict[State, set[State]] = {
    "draft": {"proposed", "failed", "budget-exhausted", "stopped"},
    "proposed": {"ready", "running", "paused", "completed", "failed", "budget-exhausted", "stopped"},
    "ready": {"proposed", "running", "paused", "completed", "failed", "budget-exhausted", "stopped"},
    "running": {"paused", "completed", "failed", "budget-exhausted", "stopped"},
    "paused": {"running", "completed", "failed", "budget-exhausted", "stopped"},
    "completed": set(),
    "failed": {"running", "paused", "completed", "budget-exhausted", "stopped"},
    "budget-exhausted": {"running", "paused", "completed", "failed", "stopped"},
    "stopped": {"running", "paused", "completed", "failed", "budget-exhausted"},
}
"""Every step from a state to another that there is: from an ended one only while it is launched again."""


def lives(*events: Event, sealed: bool = True) -> Life:
    life = Life(sealed=sealed)
    for event in events:
        life = after(life, event)
    return life


def refused(life: Life, event: Event) -> str:
    with pytest.raises(RefusalError) as error:
        after(life, event)
    assert error.value.got
    assert error.value.remedy or error.value.code == "not-under-way"
    return error.value.code


# --- every order of events ------------------------------------------------------------------------------------------------------


class Lives(RuleBasedStateMachine):
    """Any events in any order, beside the few facts that people count on."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()
        self.wanted = False
        """Whether a person has launched or resumed it since somebody last ended it."""

    @rule()
    def seal(self) -> None:
        if self.life.state == "draft":
            self.life = replace(self.life, sealed=True)

    @rule(event=st.sampled_from(EVENTS))
    def happens(self, event: Event) -> None:
        before = self.life
        try:
            self.life = now = after(before, event)
        except RefusalError:
            assert isinstance(event, PersonsEvent), "only a person is told no"
            return
        assert now.sealed == before.sealed
        if now.state != before.state:
            assert now.state in LEAVES[before.state]
        if has_ended(before):
            assert now == before or (isinstance(event, Launch) and now == replace(before, wish="run"))
        if before.state == "completed":
            assert now == before
        if not isinstance(event, PersonsEvent):
            assert now.wish in {before.wish, "none"}, "nobody but a person wishes"
        if isinstance(event, Launch | Resume):
            self.wanted = True
        elif isinstance(event, Stop | Pause):
            assert order(now) != "go"
            self.wanted = False
        elif at_rest(now):
            self.wanted = False

    @invariant()
    def is_defined(self) -> None:
        assert self.life.state in STATES
        assert self.life.wish in WISHES
        if self.life.state != "draft" and self.life.state not in ENDED:
            assert self.life.sealed, "nobody can approve what was not sealed"
        if self.life.state == "running":
            assert self.life.wish in {"run", "pause", "pause-now", "stop"}, "it would run for ever, and for nobody"
        if self.life.wish == "propose":
            assert self.life.state == "draft"
        if self.life.state == "budget-exhausted":
            assert self.life.code in EXHAUSTIONS
        assert (self.life.code is None) or self.life.state in {"failed", "budget-exhausted"}

    @invariant()
    def no_wish_is_lost(self) -> None:
        assert self.wanted == (order(self.life) == "go" and self.life.wish == "run")

    @precondition(lambda self: self.life.state != "completed" and self.life.sealed)
    @rule()
    def can_always_be_ended(self) -> None:
        """From wherever it is, a person can stop it, and it comes to rest."""
        life = self.life if has_ended(self.life) else after(self.life, Stop())
        assert at_rest(after(life, Halted()))


TestEveryOrder = Lives.TestCase


def test_every_state_and_wish_can_be_reached() -> None:
    found = {Life()}
    while True:
        more = set(found)
        for life, event in itertools.product(found, EVENTS):
            try:
                more.add(after(life, event))
            except RefusalError:
                continue
        more |= {replace(life, sealed=True) for life in more if life.state == "draft"}
        if more == found:
            break
        found = more
    assert {life.state for life in found} == set(STATES)
    assert {life.wish for life in found} == set(WISHES)
    steps = {
        (life.state, now.state)
        for life in found
        for event in EVENTS
        if (now := _tried(life, event)) is not None and now.state != life.state
    }
    assert steps == {(one, other) for one, others in LEAVES.items() for other in others}


def _tried(life: Life, event: Event) -> Life | None:
    try:
        return after(life, event)
    except RefusalError:
        return None


# --- the rules, one by one ------------------------------------------------------------------------------------------------------


def test_a_study_lives_from_draft_to_completed() -> None:
    seen = [Life(sealed=True)]
    for event in (Offered(), Approvals(True), Launch(), Began(), Completed("3 rounds")):
        seen.append(after(seen[-1], event))
    assert [(life.state, life.wish) for life in seen] == [
        ("draft", "propose"), ("proposed", "none"), ("ready", "none"), ("ready", "run"), ("running", "run"), ("completed", "none"),
    ]  # fmt: skip
    assert seen[-1].reason == "3 rounds"
    assert refused(seen[-1], Launch()) == "not-to-launch"


def test_an_approval_that_is_taken_back_makes_it_wait_again() -> None:
    assert lives(Offered(), Approvals(True), Approvals(False)).state == "proposed"
    running = lives(Offered(), Launch(), Began())
    assert after(running, Approvals(False)) == after(running, Approvals(True)) == running


def test_nothing_that_is_not_sealed_is_launched() -> None:
    assert refused(Life(), Launch()) == "not-to-launch"
    failed = lives(Failed("too few sites take part", "too-few-sites"), sealed=False)
    assert (failed.state, failed.code) == ("failed", "too-few-sites")
    assert refused(failed, Launch()) == "not-to-launch"


@pytest.mark.parametrize("now", [False, True])
def test_a_pause_is_obeyed_by_the_run_and_ends_by_a_resume(now: bool) -> None:
    asked = lives(Offered(), Launch(), Began(), Pause(now))
    assert (asked.state, order(asked)) == ("running", "pause-now" if now else "pause")
    paused = after(asked, Halted())
    assert (paused.state, paused.wish, is_busy(paused)) == ("paused", "none", False)
    assert refused(paused, Launch()) == "not-to-launch"
    assert refused(paused, Pause()) == "not-to-pause"
    assert after(after(paused, Stop()), Halted()).state == after(paused, Stop(serving=False)).state == "stopped"
    again = after(paused, Resume())
    assert (again.state, order(again)) == ("paused", "go")
    assert after(again, Began()).state == "running"


def test_a_pause_at_once_is_not_softened_by_a_later_one() -> None:
    assert order(lives(Offered(), Launch(), Began(), Pause(now=True), Pause())) == "pause-now"
    assert order(lives(Offered(), Launch(), Began(), Pause(), Pause(now=True))) == "pause-now"


def test_a_pause_or_a_stop_that_is_not_done_yet_is_taken_back() -> None:
    running = lives(Offered(), Launch(), Began())
    assert after(after(running, Pause()), Resume()) == running
    assert after(after(running, Stop()), Launch()) == running
    # The run that ends all the same ends nothing.
    assert after(running, Halted()) == running


@pytest.mark.parametrize("events", [(), (Offered(),), (Offered(), Approvals(True))])
def test_what_is_not_launched_cannot_be_paused(events: tuple[Event, ...]) -> None:
    assert refused(lives(*events), Pause()) == "not-to-pause"
    assert after(lives(*events), Stop()).state == "stopped"  # at once: no run is at work on it


def test_where_no_service_runs_a_pause_and_a_stop_are_done_at_once() -> None:
    running = lives(Offered(), Launch(), Began())
    assert after(running, Pause(serving=False)).state == "paused"
    stopped = after(running, Stop(serving=False))
    assert (stopped.state, stopped.wish, order(stopped)) == ("stopped", "none", "stop")
    # A process of it that is still alive changes nothing more.
    for event in (Began(), Halted(), Completed("done"), Failed("broken", "error")):
        assert after(stopped, event) == stopped


def test_work_that_is_done_is_done_although_a_person_wished_to_stop_it() -> None:
    for wish in (Stop(), Pause(), Pause(now=True)):
        assert lives(Offered(), Launch(), Began(), wish, Completed("done")).state == "completed"


@pytest.mark.parametrize("code", sorted(EXHAUSTIONS))
def test_an_exhausted_study_is_launched_again_only_if_hospitals_may_find_room(code: str) -> None:
    spent = lives(Offered(), Launch(), Began(), Failed("no more", code))
    assert (spent.state, spent.code) == ("budget-exhausted", code)
    if code == PLAN_USED_UP:
        assert refused(spent, Launch()) == "not-to-launch"
    else:
        assert order(after(spent, Launch())) == "go"


def test_a_stop_of_what_has_ended_is_refused_and_of_what_was_launched_again_is_not() -> None:
    failed = lives(Offered(), Launch(), Began(), Failed("broken", "quorum-missed"))
    assert refused(failed, Stop()) == "not-under-way"
    assert after(after(after(failed, Launch()), Stop()), Halted()).state == "stopped"


def test_a_new_identity_ends_what_has_not_ended() -> None:
    assert lives(Offered(), Dissolved("va has another identity")).reason == "va has another identity"
    done = lives(Offered(), Launch(), Began(), Completed("done"))
    assert after(done, Dissolved("too late")) == done
