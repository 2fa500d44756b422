"""The round machine: whatever happens, in whatever order, it ends once, by name, and never with fewer than the quorum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fedward.privacy.errors import InputError
from fedward.server.round import (
    Ask,
    Command,
    Consult,
    Decided,
    End,
    Event,
    Opened,
    Outcome,
    Plan,
    Refused,
    Replied,
    Round,
    SiteState,
    Stage,
    Status,
    Stopped,
    Stragglers,
    Sum,
    Tick,
    Unreachable,
    plain_stages,
)

SITES = ("amber", "birch", "cedar", "delta")


QUICK = dict.fromkeys(SITES, 1.0)
"""Sites that usually take a second."""


def plan(quorum: int = 3, **pace: object) -> Plan:
    whole: dict[str, object] = {"stages": plain_stages(quorum, 10.0), "usual": QUICK} | pace
    return Plan(round=1, attempt=1, cohort=SITES, deadline=100.0, **whole)  # type: ignore[arg-type]


def secure(masked: int = 2, confirm: int = 2, unmask: int = 2) -> Plan:
    stages = (Stage("masked", masked, 10.0), Stage("confirm", confirm, 3.0), Stage("unmask", unmask, 5.0))
    return Plan(round=1, attempt=1, cohort=SITES, stages=stages, deadline=100.0, usual=QUICK)


def setup(quorum: int = 4) -> Plan:
    stages = tuple(Stage(name, quorum, 10.0) for name in ("advertise", "share", "open"))
    return Plan(round=0, attempt=1, cohort=SITES, stages=stages, deadline=100.0, counted=2, usual=QUICK)


def begun(whole: Plan) -> Round:
    machine = Round(whole)
    assert machine.waiting() == ()
    assert machine.handle(Opened(0.0)) == [Ask(whole.stages[0].name, whole.cohort)]
    return machine


def opened(quorum: int = 3) -> Round:
    return begun(plan(quorum))


def replies(sites: Sequence[str], stage: str, at: float) -> list[Event]:
    return [Replied(site, stage, at) for site in sites]


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
    assert end.reason == (
        "0 of at least 3 sites contributed; amber refused: policy; birch refused: budget-exhausted; "
        "cedar dropped: no answer: others were waiting; delta dropped: no answer: others were waiting"
    )


def test_a_deadline_with_a_quorum_commits() -> None:
    machine = opened()
    feed(machine, *(Replied(site, "work", 95.0) for site in SITES[:3]))
    assert machine.handle(Tick(100.0))[0] == Sum(SITES[:3])


def test_an_unreachable_site_is_asked_again_and_may_still_contribute() -> None:
    machine = opened()
    assert machine.handle(Unreachable("delta", "offline", 1.0)) == [Ask("work", ("delta",), again=True)]
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
    assert statuses(machine) == dict.fromkeys(SITES, "dropped") | {"amber": "contributed"}
    assert machine.sites["birch"].reason == "attempt stopped"


def test_after_its_end_it_accepts_nothing() -> None:
    machine = opened()
    machine.handle(Stopped("a person", 2.0))
    before = dict(machine.sites)
    events: list[Event] = [Opened(3.0), Replied("amber", "work", 3.0), Tick(1e9), Stopped("again", 4.0)]
    assert feed(machine, *events, Unreachable("birch", "x", 5.0), Refused("cedar", "x", 5.0)) == []
    assert machine.sites == before


# --- a secure round: the first stage counts, the others help ----------------------------------------------------------------


def test_in_a_secure_round_each_stage_asks_those_who_finished_the_one_before() -> None:
    machine = begun(secure())
    assert feed(machine, Refused("birch", "policy", 1.0)) == []
    commands = feed(machine, *replies(("delta", "amber", "cedar"), "masked", 2.0))
    assert commands == [Ask("confirm", ("amber", "cedar", "delta"))]
    assert machine.survivors == machine.waiting() == ("amber", "cedar", "delta")
    assert statuses(machine) == dict.fromkeys(SITES, "contributed") | {"birch": "refused"}
    commands = feed(machine, *replies(("cedar", "delta", "amber"), "confirm", 3.0))
    assert commands == [Ask("unmask", ("amber", "cedar", "delta"))]
    commands = feed(machine, *replies(("delta", "amber", "cedar"), "unmask", 4.0))
    assert commands == [Sum(("amber", "cedar", "delta")), End(Outcome.COMMITTED, "3 of 4 sites contributed")]
    assert machine.waiting() == ()


def test_a_site_that_drops_before_it_is_masked_is_out() -> None:
    machine = begun(secure())
    assert feed(machine, *replies(("birch", "cedar", "delta"), "masked", 1.0)) == []
    assert machine.survivors == ()
    assert machine.handle(Tick(11.0)) == [Ask("confirm", ("birch", "cedar", "delta"))]
    assert machine.survivors == ("birch", "cedar", "delta")
    assert machine.sites["amber"].status == Status.DROPPED
    assert machine.sites["amber"].reason == "no answer: others were waiting"
    feed(machine, Replied("amber", "masked", 12.0), *replies(machine.survivors, "confirm", 12.0))
    assert feed(machine, *replies(SITES, "unmask", 13.0))[0] == Sum(("birch", "cedar", "delta"))


def test_a_site_that_drops_at_confirm_stays_in_the_sum_and_is_not_asked_to_unmask() -> None:
    machine = begun(secure())
    feed(machine, *replies(SITES, "masked", 1.0), *replies(SITES[1:], "confirm", 2.0))
    assert machine.handle(Tick(4.9)) == []
    assert machine.handle(Tick(5.0)) == [Ask("unmask", SITES[1:])]
    assert machine.sites["amber"].status == Status.CONTRIBUTED
    assert machine.sites["amber"].reason == "in the sum; then no answer at confirm: others were waiting"
    commands = feed(machine, *replies(SITES[1:], "unmask", 6.0))
    assert commands == [Sum(SITES), End(Outcome.COMMITTED, "4 of 4 sites contributed")]


def test_a_site_that_drops_at_unmask_stays_in_the_sum() -> None:
    machine = begun(secure())
    feed(machine, *replies(SITES, "masked", 1.0), *replies(SITES, "confirm", 2.0))
    feed(machine, *replies(("amber", "birch", "cedar"), "unmask", 3.0), Unreachable("delta", "offline", 4.0))
    assert machine.handle(Tick(8.0))[0] == Sum(SITES)
    assert machine.sites["delta"].status == Status.CONTRIBUTED
    assert machine.sites["delta"].reason == "in the sum; then no answer at unmask: offline"
    assert machine.sites["delta"].at == 1.0


def test_a_refusal_in_a_helper_stage_stays_in_the_sum_and_is_said() -> None:
    machine = begun(secure())
    feed(machine, *replies(SITES, "masked", 1.0), Refused("birch", "stale", 2.0))
    assert machine.waiting() == ("amber", "cedar", "delta")
    assert feed(machine, *replies(("amber", "cedar", "delta"), "confirm", 3.0)) == [
        Ask("unmask", ("amber", "cedar", "delta"))
    ]
    feed(machine, Refused("amber", "too-few", 4.0), Refused("amber", "again", 4.0))
    assert feed(machine, *replies(("cedar", "delta"), "unmask", 5.0))[0] == Sum(SITES)
    assert statuses(machine) == dict.fromkeys(SITES, "contributed")
    assert {site: state.reason for site, state in machine.sites.items() if state.reason} == {
        "amber": "in the sum; then refused at unmask: too-few",
        "birch": "in the sum; then refused at confirm: stale",
    }


def test_a_quorum_missed_at_confirm_names_who_is_missing_and_keeps_the_record() -> None:
    machine = begun(secure(confirm=3))
    feed(machine, Refused("birch", "policy", 1.0), *replies(("amber", "cedar", "delta"), "masked", 1.0))
    feed(machine, *replies(("amber", "cedar"), "confirm", 2.0))
    assert machine.handle(Tick(100.9)) == []
    assert machine.handle(Tick(101.0)) == [
        End(
            Outcome.QUORUM_MISSED,
            "2 of at least 3 sites answered at confirm; birch refused: policy; "
            "delta no answer at confirm: deadline passed",
        )
    ]
    assert statuses(machine) == dict.fromkeys(SITES, "contributed") | {"birch": "refused"}
    assert machine.sites["delta"].reason == "in the sum; then no answer at confirm: deadline passed"
    assert machine.waiting() == ()


def test_a_quorum_that_unmask_cannot_reach_ends_the_attempt_at_once_and_names_every_loss() -> None:
    machine = begun(secure(unmask=3))
    feed(machine, *replies(SITES, "masked", 1.0), Refused("amber", "stale", 2.0))
    feed(machine, *replies(SITES[1:], "confirm", 2.0), Replied("birch", "unmask", 3.0))
    assert machine.handle(Refused("cedar", "too-few", 4.0)) == [
        End(
            Outcome.QUORUM_MISSED,
            "1 of at least 3 sites answered at unmask; amber refused at confirm: stale; "
            "cedar refused at unmask: too-few; delta no answer at unmask: others were waiting",
        )
    ]
    assert set(statuses(machine).values()) == {"contributed"}


def test_a_stage_with_too_few_left_for_its_quorum_asks_nobody() -> None:
    machine = begun(secure(masked=2, unmask=3))
    feed(machine, *replies(SITES, "masked", 1.0), *replies(("cedar", "delta"), "confirm", 2.0))
    (end,) = machine.handle(Tick(5.0))
    assert end == End(
        Outcome.QUORUM_MISSED,
        "2 of at least 3 sites reached unmask; amber no answer at confirm: others were waiting; "
        "birch no answer at confirm: others were waiting",
    )
    assert machine.waiting() == ()


def test_a_quorum_missed_at_masked_says_which_stage() -> None:
    machine = begun(secure(masked=4))
    feed(machine, *replies(("amber", "birch"), "masked", 1.0))
    (end,) = machine.handle(Refused("cedar", "policy", 2.0))
    assert isinstance(end, End)
    assert end.reason.startswith("2 of at least 4 sites answered at masked; cedar refused: policy; delta dropped: ")
    assert machine.survivors == ()


def test_each_stage_has_its_own_grace_and_the_whole_deadline() -> None:
    machine = begun(secure())
    feed(machine, *replies(SITES, "masked", 90.0), *replies(("amber", "birch"), "confirm", 180.0))
    assert machine.handle(Tick(182.9)) == []
    assert machine.handle(Tick(183.0)) == [Ask("unmask", ("amber", "birch"))]
    assert feed(machine, Replied("amber", "unmask", 184.0), Replied("birch", "unmask", 282.9))[0] == Sum(SITES)

    machine = begun(secure())
    feed(machine, *replies(SITES, "masked", 90.0), *replies(("amber", "birch", "cedar"), "confirm", 91.0))
    feed(machine, Tick(94.0), *replies(("amber", "birch"), "unmask", 95.0))
    assert machine.handle(Tick(99.9)) == []
    assert machine.handle(Tick(100.0))[0] == Sum(SITES)


def test_a_helper_that_cannot_be_reached_is_asked_again_while_its_stage_is_open() -> None:
    machine = begun(secure())
    feed(machine, *replies(SITES, "masked", 1.0))
    assert machine.handle(Unreachable("delta", "offline", 2.0)) == [Ask("confirm", ("delta",), again=True)]
    assert machine.waiting() == SITES
    assert feed(machine, *replies(SITES, "confirm", 3.0)) == [Ask("unmask", SITES)]
    assert machine.sites["delta"].reason == ""
    feed(machine, Refused("birch", "stale", 4.0), Replied("amber", "unmask", 4.0))
    for site in ("amber", "birch"):
        assert machine.handle(Unreachable(site, "offline", 5.0)) == []
    assert machine.waiting() == ("cedar", "delta")


def test_what_kept_a_site_from_one_stage_is_not_said_of_the_next() -> None:
    machine = begun(secure())
    feed(machine, Unreachable("delta", "offline", 0.5), *replies(SITES, "masked", 1.0))
    feed(machine, Unreachable("delta", "offline", 1.5), *replies(SITES, "confirm", 2.0))
    feed(machine, *replies(SITES[:3], "unmask", 3.0), Tick(8.0))
    assert machine.sites["delta"].reason == "in the sum; then no answer at unmask: others were waiting"


def test_a_reply_to_another_stage_than_the_open_one_counts_for_nothing() -> None:
    machine = begun(secure())
    feed(machine, *replies(SITES, "unmask", 0.5))
    assert machine.waiting() == SITES
    assert statuses(machine) == dict.fromkeys(SITES, "asked")
    feed(machine, *replies(SITES, "masked", 1.0), *replies(SITES, "masked", 2.0))
    assert machine.stage == "confirm"
    assert machine.waiting() == SITES
    assert [state.at for state in machine.sites.values()] == [1.0] * 4


def test_what_a_site_says_that_is_not_waited_for_changes_nothing() -> None:
    machine = begun(secure())
    feed(machine, Refused("amber", "policy", 1.0), *replies(SITES, "masked", 1.0), Replied("birch", "confirm", 2.0))
    before = dict(machine.sites)
    for site in ("amber", "birch"):
        events: list[Event] = [
            Refused(site, "late", 3.0),
            Unreachable(site, "late", 3.0),
            Replied(site, "confirm", 3.0),
        ]
        assert feed(machine, *events) == []
    assert machine.sites == before
    assert machine.waiting() == ("cedar", "delta")
    assert feed(machine, *replies(("cedar", "delta"), "confirm", 4.0)) == [Ask("unmask", SITES[1:])]


def test_a_stop_while_helpers_are_asked_keeps_what_they_did() -> None:
    machine = begun(secure())
    feed(machine, *replies(SITES, "masked", 1.0), Refused("birch", "stale", 2.0))
    before = dict(machine.sites)
    assert machine.handle(Stopped("a person", 3.0)) == [End(Outcome.STOPPED, "a person")]
    assert machine.sites == before
    assert machine.waiting() == ()


LOSS = st.sampled_from(["reply", "refuse", "lose", "silent"])


@given(st.lists(st.tuples(LOSS, LOSS), min_size=4, max_size=4))
def test_no_loss_of_a_helper_takes_it_out_of_the_sum(losses: list[tuple[str, str]]) -> None:
    machine = begun(secure(confirm=1, unmask=1))
    feed(machine, *replies(SITES, "masked", 1.0))
    for index, stage in enumerate(("confirm", "unmask")):
        for site, loss in zip(SITES, losses, strict=True):
            if loss[index] == "reply":
                feed(machine, Replied(site, stage, 2.0))
            elif loss[index] == "refuse":
                feed(machine, Refused(site, "stale", 2.0))
            elif loss[index] == "lose":
                feed(machine, Unreachable(site, "offline", 2.0))
        if machine.stage == stage:  # not everyone answered
            machine.handle(Tick(200.0 * (index + 1)))
    helped = any(loss == ("reply", "reply") for loss in losses)
    assert machine.ended is not None
    assert machine.ended.outcome == (Outcome.COMMITTED if helped else Outcome.QUORUM_MISSED)
    assert machine.survivors == SITES
    for site, loss in zip(SITES, losses, strict=True):
        assert machine.sites[site].status == Status.CONTRIBUTED
        assert not (loss == ("reply", "reply") and machine.sites[site].reason)
        assert not (loss[0] != "reply" and helped and " at confirm: " not in machine.sites[site].reason)


# --- a setup: the last stage counts, every member is needed ---------------------------------------------------------------


def test_a_setup_with_every_member_commits_after_its_last_stage() -> None:
    machine = begun(setup())
    assert feed(machine, *replies(SITES, "advertise", 1.0)) == [Ask("share", SITES)]
    assert statuses(machine) == dict.fromkeys(SITES, "asked")
    assert feed(machine, *replies(SITES, "share", 2.0)) == [Ask("open", SITES)]
    assert machine.survivors == ()
    commands = feed(machine, *replies(tuple(reversed(SITES)), "open", 3.0))
    assert commands == [Sum(SITES), End(Outcome.COMMITTED, "4 of 4 sites contributed")]
    assert machine.survivors == SITES


@pytest.mark.parametrize("lost_at", [0, 1, 2])
def test_a_setup_that_loses_a_member_in_any_stage_ends_there_by_name(lost_at: int) -> None:
    machine = begun(setup())
    for stage in machine.plan.stages[:lost_at]:
        feed(machine, *replies(SITES, stage.name, 1.0))
    name = machine.plan.stages[lost_at].name
    feed(machine, *replies(("amber", "birch", "cedar"), name, 2.0))
    (end,) = machine.handle(Refused("delta", "policy", 3.0))
    assert end == End(Outcome.QUORUM_MISSED, f"3 of at least 4 sites answered at {name}; delta refused: policy")
    assert statuses(machine) == dict.fromkeys(SITES, "contributed") | {"delta": "refused"}
    assert machine.survivors == ()


def test_up_to_the_counted_stage_a_site_that_is_lost_is_out() -> None:
    machine = begun(setup(quorum=2))
    feed(machine, *replies(SITES[:3], "advertise", 1.0), Tick(11.0), Refused("birch", "policy", 12.0))
    assert feed(machine, *replies(SITES, "share", 13.0)) == [Ask("open", ("amber", "cedar"))]
    assert (machine.sites["birch"].status, machine.sites["birch"].reason) == (Status.REFUSED, "policy")
    assert machine.sites["delta"].status == Status.DROPPED
    assert feed(machine, *replies(SITES, "open", 14.0))[0] == Sum(("amber", "cedar"))
    assert machine.sites["birch"].status == Status.REFUSED


def test_a_stop_of_a_setup_drops_who_was_still_asked() -> None:
    machine = begun(setup())
    feed(machine, *replies(SITES, "advertise", 1.0), Replied("amber", "share", 2.0), Stopped("a person", 3.0))
    assert statuses(machine) == dict.fromkeys(SITES, "dropped") | {"amber": "contributed"}


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
        {"stages": ()},
        {"stages": plain_stages(5, 1.0)},
        {"stages": (Stage("masked", 2, 1.0), Stage("confirm", 5, 1.0))},
        {"stages": (Stage("masked", 2, 1.0), Stage("masked", 2, 1.0))},
        {"counted": 1},
        {"counted": -1},
        {"deadline": 0.0},
        {"deadline": math.nan},
        {"deadline": math.inf},
        {"usual": {"amber": math.nan}},
        {"usual": {"amber": 0.0}},
        {"enough": math.nan},
        {"enough": -1.0},
    ],
)
def test_a_plan_that_cannot_be_kept_is_refused(changes: dict[str, object]) -> None:
    whole = {"round": 1, "attempt": 1, "cohort": SITES, "stages": plain_stages(3, 1.0), "deadline": 1.0}
    Plan(**whole)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Plan(**(whole | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("quorum", "grace"), [(0, 1.0), (-1, 1.0), (3, 0.0), (3, -1.0), (3, math.nan), (3, math.inf)])
def test_a_stage_that_cannot_be_kept_is_refused_by_name(quorum: int, grace: float) -> None:
    with pytest.raises(InputError, match='stage "confirm"'):
        Stage("confirm", quorum, grace)


# --- stragglers -----------------------------------------------------------------------------------------------------------


def waiting_for_amber(quorum_at: float = 1.0, **pace: object) -> Round:
    """A round whose other sites have answered."""
    machine = begun(plan(**pace))
    feed(machine, *replies(SITES[1:], "work", quorum_at))
    return machine


def closes_between(machine: Round, still: float, closed: float) -> str:
    """The round's end, which must come in this span; what is said of amber."""
    assert machine.handle(Tick(still)) == []
    machine.handle(Tick(closed))
    assert machine.ended is not None
    return machine.sites["amber"].reason


def test_a_slow_site_has_the_time_that_it_usually_takes_and_then_is_not_waited_for() -> None:
    reason = closes_between(waiting_for_amber(usual={"amber": 60.0}), 59.9, 60.0)
    assert reason == "no answer: others were waiting"
    machine = waiting_for_amber(usual={"amber": 60.0})
    assert machine.handle(Replied("amber", "work", 55.0))[0] == Sum(SITES)


def test_a_site_that_is_not_known_has_time_by_what_the_quorum_took_but_the_grace_at_least() -> None:
    closes_between(waiting_for_amber(2.0, usual={}), 39.9, 40.0)
    closes_between(waiting_for_amber(0.1, usual={}), 10.0, 10.1)


def test_a_site_that_is_known_to_be_unreachable_is_not_waited_for_beyond_the_grace() -> None:
    machine = waiting_for_amber(usual={"amber": 60.0})
    for at in range(2, 11):
        assert machine.handle(Unreachable("amber", "offline", float(at))) == [Ask("work", ("amber",), again=True)]
    machine.handle(Tick(11.0))
    assert machine.ended is not None
    assert machine.sites["amber"] == SiteState(Status.DROPPED, "offline", 11.0)
    machine = waiting_for_amber(usual={"amber": 60.0})  # and one that is back, is
    feed(machine, Unreachable("amber", "offline", 2.0), Tick(11.0), Tick(59.0))
    assert machine.handle(Replied("amber", "work", 59.5))[0] == Sum(SITES)


def test_who_waits_gives_everybody_what_is_enough_and_the_grace_after_a_late_quorum() -> None:
    wait = {"stragglers": Stragglers.WAIT, "enough": 80.0}
    assert closes_between(waiting_for_amber(**wait), 79.9, 80.0) == "no answer: deadline passed"
    closes_between(waiting_for_amber(75.0, **wait), 84.9, 85.0)
    assert closes_between(waiting_for_amber(stragglers=Stragglers.WAIT), 99.9, 100.0) == "no answer: deadline passed"


def test_what_is_enough_never_costs_an_attempt_its_quorum() -> None:
    machine = begun(plan(stragglers=Stragglers.WAIT, enough=5.0))
    feed(machine, *replies(SITES[1:3], "work", 1.0), Tick(50.0))
    feed(machine, Replied("delta", "work", 60.0), Tick(69.9))
    assert machine.ended is None
    assert machine.handle(Replied("amber", "work", 69.9))[0] == Sum(SITES)


def asked(at: float = 11.0) -> Round:
    machine = waiting_for_amber(stragglers=Stragglers.ASK)
    assert machine.handle(Tick(10.9)) == []
    assert machine.handle(Tick(at)) == [Consult(("amber",))]
    assert machine.handle(Tick(at)) == []  # once
    return machine


def test_who_asks_consults_the_coordinator_where_it_would_carry_on_and_waits_for_the_answer() -> None:
    machine = asked()
    assert machine.handle(Tick(90.0)) == []
    assert machine.handle(Decided(wait=False, at=90.0))[0] == Sum(SITES[1:])
    assert machine.sites["amber"].reason == "no answer: the coordinator carried on"


def test_without_an_answer_of_the_coordinator_the_deadline_ends_it() -> None:
    assert closes_between(asked(), 99.9, 100.0) == "no answer: deadline passed"


def test_the_coordinator_may_wait_and_think_again() -> None:
    machine = asked()
    assert feed(machine, Decided(wait=True, at=12.0), Tick(95.0)) == []
    assert machine.handle(Decided(wait=False, at=96.0))[0] == Sum(SITES[1:])
    machine = asked()
    machine.handle(Decided(wait=True, at=12.0))
    assert machine.handle(Replied("amber", "work", 95.0))[0] == Sum(SITES)


def test_what_was_decided_of_an_earlier_attempt_is_kept_to_and_nobody_is_asked() -> None:
    machine = begun(plan(stragglers=Stragglers.ASK))
    machine.handle(Decided(wait=False, at=0.0))
    assert feed(machine, *replies(SITES[1:], "work", 1.0), Tick(10.9)) == []  # the grace is the sites' all the same
    assert machine.handle(Tick(11.0))[0] == Sum(SITES[1:])
    machine = begun(plan(stragglers=Stragglers.ASK))
    feed(machine, Decided(wait=True, at=0.0), *replies(SITES[1:], "work", 1.0))
    closes_between(machine, 99.9, 100.0)


def test_an_unreachable_straggler_is_asked_again_when_the_coordinator_is_consulted() -> None:
    machine = waiting_for_amber(stragglers=Stragglers.ASK)
    commands = machine.handle(Unreachable("amber", "offline", 11.0))
    assert commands == [Consult(("amber",)), Ask("work", ("amber",), again=True)]


def test_what_a_site_took_is_known_of_an_answer_and_of_a_silence_that_was_waited_for() -> None:
    machine = waiting_for_amber(usual={"amber": 60.0})
    machine.handle(Tick(60.5))
    assert [machine.sites[site].took for site in SITES] == [60.5, 1.0, 1.0, 1.0]
    machine = opened()
    feed(machine, Replied("delta", "work", 1.0), Refused("amber", "policy", 1.0), Refused("birch", "policy", 2.0))
    assert [machine.sites[site].took for site in SITES] == [None, None, None, 1.0]  # cedar had no time to answer
    machine = opened()
    feed(machine, Replied("delta", "work", 1.0), Stopped("a person", 50.0))
    assert [machine.sites[site].took for site in SITES] == [None, None, None, 1.0]


# --- any sequence ---------------------------------------------------------------------------------------------------------------


class AnyRound(RuleBasedStateMachine):
    """Random events against the rules of the module's docstring, with an oracle of who answered which stage.

    `done[k]` are the sites that were asked in stage k and answered it; `waiting` those that it still lacks.
    """

    @initialize(
        n=st.integers(1, 5),
        stages=st.lists(st.tuples(st.integers(1, 5), st.floats(0.5, 30)), min_size=1, max_size=3),
        counted=st.integers(0, 2),
        deadline=st.floats(1, 60),
        stragglers=st.sampled_from(Stragglers),
        usual=st.dictionaries(st.sampled_from([f"site-{i}" for i in range(5)]), st.floats(0.1, 90)),
        enough=st.none() | st.floats(0.1, 90),
    )
    def begin(
        self,
        n: int,
        stages: list[tuple[int, float]],
        counted: int,
        deadline: float,
        stragglers: Stragglers,
        usual: dict[str, float],
        enough: float | None,
    ) -> None:
        self.cohort = tuple(f"site-{i}" for i in range(n))
        self.plan = Plan(
            round=1,
            attempt=1,
            cohort=self.cohort,
            stages=tuple(Stage(f"stage-{k}", min(quorum, n), grace) for k, (quorum, grace) in enumerate(stages)),
            deadline=deadline,
            counted=counted % len(stages),
            stragglers=stragglers,
            usual=usual,
            enough=enough,
        )
        self.consulted: set[int] = set()
        self.machine = Round(self.plan)
        self.now = 0.0
        self.done: list[set[str]] = [set() for _ in stages]
        self.waiting: set[str] = set()
        self.out: set[str] = set()
        self.lost: set[str] = set()
        self.stage, self.ends, self.sums = -1, 0, 0
        self.take(Opened(0.0))
        assert self.stage == 0

    def take(self, event: Event) -> None:
        before = self.picture()
        over = self.machine.ended is not None
        commands = self.machine.handle(event)
        assert not over or (not commands and self.picture() == before)
        for command in commands:
            assert self.ends == 0
            if isinstance(command, Ask):
                self.check_ask(command, event)
            elif isinstance(command, Sum):
                self.sums += 1
                self.check_sum(command)
            elif isinstance(command, Consult):
                self.check_consult(command)
            else:
                self.ends += 1
                self.check_end(command)

    def picture(self) -> tuple[object, ...]:
        machine = self.machine
        return dict(machine.sites), machine.survivors, machine.waiting(), machine.stage, machine.ended

    def check_ask(self, ask: Ask, event: Event) -> None:
        if ask.again:
            assert isinstance(event, Unreachable)
            assert ask.sites == (event.site,)
            assert event.site in self.waiting
        else:
            assert ask.sites == (self.ordered(self.done[self.stage]) if self.stage >= 0 else self.cohort)
            self.check_close()
            self.stage += 1
            assert len(ask.sites) >= self.plan.stages[self.stage].quorum
            self.waiting = set(ask.sites)
        assert ask.stage == self.plan.stages[self.stage].name
        assert not (self.out | self.lost) & set(ask.sites)

    def check_consult(self, command: Consult) -> None:
        """Once in a stage up to the counted one, which has its quorum, about all that it waits for."""
        assert self.stage not in self.consulted
        self.consulted.add(self.stage)
        assert self.plan.stragglers == Stragglers.ASK
        assert self.stage <= self.plan.counted
        assert len(self.done[self.stage]) >= self.plan.stages[self.stage].quorum
        assert set(command.sites) == self.waiting
        assert self.waiting

    def check_close(self) -> None:
        """A stage that ended well had its quorum; whom it still waited for is lost to it."""
        if self.stage >= 0:
            assert len(self.done[self.stage]) >= self.plan.stages[self.stage].quorum
            (self.lost if self.stage > self.plan.counted else self.out).update(self.waiting)

    def check_sum(self, command: Sum) -> None:
        self.check_close()
        assert self.stage == len(self.done) - 1
        # Whatever happened to them since.
        assert command.sites == self.ordered(self.done[self.plan.counted]) == self.machine.survivors
        assert len(command.sites) >= self.plan.stages[self.plan.counted].quorum

    def check_end(self, end: End) -> None:
        assert end.outcome in {Outcome.COMMITTED, Outcome.QUORUM_MISSED, Outcome.STOPPED}
        assert (end.outcome == Outcome.COMMITTED) == (self.sums == 1)
        if end.outcome == Outcome.COMMITTED:
            assert end.reason == f"{len(self.machine.survivors)} of {len(self.cohort)} sites contributed"
        if end.outcome == Outcome.QUORUM_MISSED:
            assert {site for site in self.cohort if site in end.reason} == set(self.cohort) - self.done[self.stage]
        self.waiting.clear()
        for state in self.machine.sites.values():
            assert state.status in {Status.CONTRIBUTED, Status.REFUSED, Status.DROPPED}
            assert state.status == Status.CONTRIBUTED or state.reason

    def ordered(self, sites: set[str]) -> tuple[str, ...]:
        return tuple(site for site in self.cohort if site in sites)

    def site(self, index: int) -> str:
        return self.cohort[index % len(self.cohort)]

    def answer(self, site: str, stage: int) -> None:
        if stage == self.stage and site in self.waiting:
            self.waiting.discard(site)
            self.done[stage].add(site)
        self.take(Replied(site, self.plan.stages[stage].name, self.now))

    @rule(index=st.integers(0, 4), stage=st.integers(0, 2), after=st.floats(0, 5))
    def reply(self, index: int, stage: int, after: float) -> None:
        self.now += after
        self.answer(self.site(index), stage % len(self.done))

    @rule(but=st.integers(0, 9), after=st.floats(0, 5))
    def nearly_all_reply(self, but: int, after: float) -> None:
        self.now += after
        stage = self.stage
        for index, site in enumerate(self.cohort):
            if index != but:
                self.answer(site, stage)

    @rule(index=st.integers(0, 4), after=st.floats(0, 5))
    def refuse(self, index: int, after: float) -> None:
        self.now += after
        site = self.site(index)
        if site in self.waiting:
            self.waiting.discard(site)
            (self.lost if self.stage > self.plan.counted else self.out).add(site)
        self.take(Refused(site, "policy", self.now))

    @rule(index=st.integers(0, 4), after=st.floats(0, 5))
    def lose(self, index: int, after: float) -> None:
        self.now += after
        self.take(Unreachable(self.site(index), "offline", self.now))

    @rule(after=st.floats(0, 40))
    def wait(self, after: float) -> None:
        self.now += after
        self.take(Tick(self.now))

    @rule(wait=st.booleans(), after=st.floats(0, 5))
    def decide(self, wait: bool, after: float) -> None:
        self.now += after
        self.take(Decided(wait, self.now))

    @precondition(lambda self: self.machine.ended is None)
    @rule(event=st.sampled_from([Tick(math.nan), Replied("site-9", "stage-0", 1.0), Refused("site-9", "x", 1.0)]))
    def confuse(self, event: Event) -> None:
        before = self.picture()
        with pytest.raises(InputError):
            self.machine.handle(event)
        assert self.picture() == before

    @rule(really=st.integers(0, 9))
    def stop(self, really: int) -> None:
        if really == 0:
            self.take(Stopped("a person", self.now))

    @invariant()
    def it_ends_once_and_stays_ended(self) -> None:
        if hasattr(self, "machine"):
            assert self.ends == (self.machine.ended is not None)
            assert self.sums <= self.ends

    @invariant()
    def it_waits_for_whom_it_asked_and_keeps_a_record_of_everyone(self) -> None:
        if not hasattr(self, "machine"):
            return
        assert self.machine.waiting() == self.ordered(self.waiting)
        assert tuple(self.machine.sites) == self.cohort
        asked = self.waiting if self.stage <= self.plan.counted else set()
        assert self.machine.in_status(Status.ASKED) == self.ordered(asked)

    @invariant()
    def a_survivor_stays_one(self) -> None:
        if not hasattr(self, "machine"):
            return
        beyond = self.stage > self.plan.counted or self.sums == 1
        counted = self.done[self.plan.counted]
        assert not beyond or self.machine.survivors == self.ordered(counted)
        for site in self.machine.survivors:
            state = self.machine.sites[site]
            assert state.status == Status.CONTRIBUTED
            assert not state.reason or state.reason.startswith("in the sum; then ")
            assert state.reason or site not in self.lost

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        for _ in self.done:  # time alone ends every round: one deadline a stage at most
            self.now += self.plan.deadline + 1
            self.take(Tick(self.now))
        assert self.ends == 1


TestAnyRound = AnyRound.TestCase
TestAnyRound.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
