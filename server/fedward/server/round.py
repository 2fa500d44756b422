"""One attempt at a round, as a pure state machine: events in, commands out. No IO, no clock, no foreign library.

Rules
     1. An attempt has a fixed cohort, in roster order, and one or more stages, each with its own quorum and grace. A
        plain round has the stage `work`; a secure round has `masked`, `confirm`, `unmask`; the setup of a batch has
        `advertise`, `share`, `open`. A stage asks every site that finished the stage before it.
     2. One stage is counted: the sites that finish it, once it closes with its quorum, are the survivors. The sum is
        over them, in roster order, whatever happens later. It is the first stage of a plain or a secure round. In a
        setup it is the last, so that a site lost in any stage is out.
     3. Up to and including the counted stage, a site of the cohort is recorded as asked, contributed, refused or
        dropped. The last two are final and carry a reason; such a site is out.
     4. Stages after the counted one are helper stages. A survivor stays recorded as contributed, also while it is waited
        for. One that refuses or drops in a helper stage gets a reason that says so and is not asked in later stages.
     5. Who is waited for is not read from the record: `waiting()` tells. A reply, a refusal or a loss of a site that is
        not waited for changes nothing, and neither does a reply to another stage than the open one.
     6. A site that cannot be reached is asked again while the stage is open: a site charges an attempt once at most, so
        asking twice costs nobody anything. It is dropped when the stage closes. The first `Ask` of a stage is to be sent
        at once, one with `again` after a pause.
     7. A stage closes when every asked site has answered; as soon as it can no longer reach its quorum; at the plan's
        deadline; or, once its quorum has replied, by rule 12 or 13. No usual time costs an attempt its quorum: without
        one, a stage lasts to the deadline.
     8. A stage that closes with fewer replies than its quorum ends the attempt as `quorum-missed`. So does one that
        closes with too few for the quorum of the next stage, which then asks nobody.
     9. The last stage's close with its quorum commands the sum and ends the attempt as `committed`. The machine cannot
        see whether the sum passes its checks: where it does not, the caller records `sum-refused` instead. The machine
        never says that itself.
    10. The record is what each site did, not what became of it: in an attempt that ends without a sum, contributors stay
        contributed. Only the outcome says whether there is a sum.
    11. After `End` the machine accepts nothing. A quiet subset can never read as success: the outcome counts the
        survivors among the cohort, or names everyone who is missing.
    12. A helper stage closes its grace after its quorum.
    13. Another stage, once its quorum has replied, waits for the others by the plan's policy, and for its grace at
        least; what was found to be unreachable less than `LOST_S` ago keeps nobody waiting beyond that.
            carry-on   each site has its usual time; one whose time is not known has `FIRST` times what the quorum took.
            wait       every site has until the plan's `enough`, which counts from the stage's opening.
            ask        where carry-on would close, the coordinator is consulted, once, and the stage stays open until
                       `Decided`: to carry on closes it, to wait leaves it to the deadline, and so does no answer. What
                       was decided before that, as of an earlier attempt, is kept to: nobody is asked.
    14. What a site took is known of one that answered; of one that was silent it is how long it was waited for. Neither is
        known where the stage could not reach its quorum, or a person stopped it: that tells nothing of a site's speed.

Events carry the time they happened at, in seconds of any monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from fedward.privacy.errors import InputError


class Outcome(StrEnum):
    COMMITTED = "committed"
    QUORUM_MISSED = "quorum-missed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    SUM_REFUSED = "sum-refused"
    LOST = "lost"
    """Committed; afterwards the model's file was not what it had been, and the study went back. The machine never says it."""


class Status(StrEnum):
    """`absent` is for sites of the roster that were not in the cohort, unless they refused to be in its batch."""

    ASKED = "asked"
    CONTRIBUTED = "contributed"
    REFUSED = "refused"
    DROPPED = "dropped"
    ABSENT = "absent"


class Stragglers(StrEnum):
    """What becomes of who has not answered when the quorum has: rule 13."""

    WAIT = "wait"
    CARRY_ON = "carry-on"
    ASK = "ask"


FIRST: Final = 20.0
"""How much slower than the quorum a site may be whose time is not known."""
LOST_S: Final = 5.0
"""A site that could not be reached is asked again after a second; what is true of it is known soon after."""


@dataclass(frozen=True)
class SiteState:
    """`took`: seconds from the stage's opening to the answer, or how long a silent site was waited for; see rule 14."""

    status: Status
    reason: str = ""
    at: float = 0.0
    took: float | None = None


@dataclass(frozen=True)
class Stage:
    """One question to the sites: how many must answer it, and how many seconds the others then have."""

    name: str
    quorum: int
    grace: float

    def __post_init__(self) -> None:
        if not self.quorum >= 1:
            raise InputError(f'stage "{self.name}" needs a quorum', expected="at least 1", got=str(self.quorum))
        _check_duration(f'grace of stage "{self.name}"', self.grace)


def plain_stages(quorum: int, grace: float) -> tuple[Stage, ...]:
    """The stages of a plain round."""
    return (Stage("work", quorum, grace),)


@dataclass(frozen=True)
class Plan:
    """What an attempt is: fixed when it opens, and journalled before anything is sent.

    `deadline` is that of each stage; `counted` is the index of the stage whose contributors are summed. `usual` is how many
    seconds sites are given by rule 13, those whose time is known; `enough` how long all are waited for, the deadline if None.
    """

    round: int
    attempt: int
    cohort: tuple[str, ...]
    stages: tuple[Stage, ...]
    deadline: float
    counted: int = 0
    stragglers: Stragglers = Stragglers.CARRY_ON
    usual: Mapping[str, float] = field(default_factory=dict)
    enough: float | None = None

    def __post_init__(self) -> None:
        if not self.cohort or len(set(self.cohort)) != len(self.cohort):
            raise InputError("a cohort names each of its sites once", got=str(self.cohort))
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise InputError("a round has at least one stage, and names each once", got=str(names))
        if not 0 <= self.counted < len(names):
            raise InputError("the counted stage is none of the plan", expected=", ".join(names), got=str(self.counted))
        for stage in self.stages:
            if stage.quorum > len(self.cohort):
                raise InputError(
                    f'the quorum of stage "{stage.name}" does not fit the cohort',
                    expected=f"1 to {len(self.cohort)}",
                    got=str(stage.quorum),
                )
        _check_duration("deadline", self.deadline)
        for site, usual in self.usual.items():
            _check_duration(f"usual time of {site}", usual)
        if self.enough is not None:
            _check_duration("time that is enough", self.enough)


def _check_duration(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"the {name} is not a duration", expected="seconds above 0", got=repr(value))


# Events


@dataclass(frozen=True)
class Opened:
    at: float


@dataclass(frozen=True)
class Replied:
    """An admitted reply of a site in a stage."""

    site: str
    stage: str
    at: float


@dataclass(frozen=True)
class Refused:
    """A site said no, or its reply was not admitted. Final for this attempt."""

    site: str
    reason: str
    at: float


@dataclass(frozen=True)
class Unreachable:
    """The transport could not deliver, or lost the answer."""

    site: str
    reason: str
    at: float


@dataclass(frozen=True)
class Tick:
    at: float


@dataclass(frozen=True)
class Stopped:
    reason: str
    at: float


@dataclass(frozen=True)
class Decided:
    """A person has said whether this round waits for its stragglers."""

    wait: bool
    at: float


Event = Opened | Replied | Refused | Unreachable | Tick | Stopped | Decided


# Commands


@dataclass(frozen=True)
class Ask:
    """Send the stage's request to these sites: at once, or, when they are asked again, after a pause."""

    stage: str
    sites: tuple[str, ...]
    again: bool = False


@dataclass(frozen=True)
class Sum:
    """Aggregate what these sites gave in the counted stage, in this order, and commit."""

    sites: tuple[str, ...]


@dataclass(frozen=True)
class Consult:
    """Ask the coordinator whether to wait for these sites. The stage goes on meanwhile."""

    sites: tuple[str, ...]


@dataclass(frozen=True)
class End:
    outcome: Outcome
    reason: str


Command = Ask | Sum | Consult | End


@dataclass
class Round:
    """The machine. `handle` is its only way to change.

    `survivors` are the sites that are summed, in roster order: nobody until the counted stage closed with its quorum.
    """

    plan: Plan
    sites: dict[str, SiteState] = field(init=False)
    survivors: tuple[str, ...] = field(init=False, default=())
    ended: End | None = field(init=False, default=None)
    _stage: int = field(init=False, default=-1)
    _opened_at: float = field(init=False, default=0.0)
    _quorum_at: float | None = field(init=False, default=None)
    _waiting: set[str] = field(init=False, default_factory=set)
    _done: set[str] = field(init=False, default_factory=set)
    _unreachable: dict[str, str] = field(init=False, default_factory=dict)
    _lost_at: dict[str, float] = field(init=False, default_factory=dict)
    _consulted: bool = field(init=False, default=False)
    _decided: bool | None = field(init=False, default=None)
    _lost_helpers: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.sites = {site: SiteState(Status.ASKED) for site in self.plan.cohort}

    @property
    def stage(self) -> str:
        """The name of the open stage."""
        return self._now.name

    def waiting(self) -> tuple[str, ...]:
        """Sites whose answer the open stage still lacks, in roster order: nobody before it opens and after its end."""
        return self._in_order(self._waiting)

    def in_status(self, status: Status) -> tuple[str, ...]:
        """Sites recorded in a status, in roster order."""
        return self._in_order({site for site, state in self.sites.items() if state.status == status})

    def handle(self, event: Event) -> list[Command]:
        """Apply an event; the commands that follow from it, in order.

        Raises:
            InputError: the event does not belong to this attempt.
        """
        if not math.isfinite(event.at):
            raise InputError("an event's time is not finite")
        if self.ended is not None:
            return []
        if isinstance(event, Opened):
            return self._open(event.at)
        if self._stage < 0:
            raise InputError("the attempt has not been opened", expected="Opened", got=type(event).__name__)
        if isinstance(event, Stopped):
            return self._stop(event)
        if isinstance(event, Decided):
            self._decided = event.wait
        elif not isinstance(event, Tick):
            self._note(event)
        # A stage that closes asks nobody again.
        return self._close_if_due(event.at) or [*self._consult(event.at), *self._ask_again(event)]

    @property
    def _now(self) -> Stage:
        return self.plan.stages[max(self._stage, 0)]

    @property
    def _helping(self) -> bool:
        return self._stage > self.plan.counted

    def _in_order(self, sites: set[str]) -> tuple[str, ...]:
        return tuple(site for site in self.plan.cohort if site in sites)

    def _open(self, at: float) -> list[Command]:
        if self._stage >= 0:
            raise InputError("the attempt is open already")
        return [self._begin_stage(0, self.plan.cohort, at)]

    def _begin_stage(self, stage: int, sites: tuple[str, ...], at: float) -> Ask:
        self._stage, self._opened_at, self._quorum_at = stage, at, None
        self._waiting, self._done = set(sites), set()
        self._unreachable.clear()
        self._lost_at.clear()
        self._consulted = False
        if not self._helping:
            for site in sites:
                self.sites[site] = SiteState(Status.ASKED, at=at)
        return Ask(self.stage, sites)

    def _note(self, event: Replied | Refused | Unreachable) -> None:
        if event.site not in self.sites:
            raise InputError(f'site "{event.site}" is not in the cohort', expected=", ".join(self.plan.cohort))
        if event.site not in self._waiting:
            return
        if isinstance(event, Replied):
            if event.stage == self.stage:
                self._finish(event.site, event.at)
        elif isinstance(event, Refused):
            lost = f"refused at {self.stage}: {event.reason}"
            self._lose(event.site, SiteState(Status.REFUSED, event.reason, event.at), lost)
        else:
            self._unreachable[event.site] = event.reason
            self._lost_at[event.site] = event.at

    def _ask_again(self, event: Event) -> list[Command]:
        if isinstance(event, Unreachable) and event.site in self._waiting:
            return [Ask(self.stage, (event.site,), again=True)]
        return []

    def _finish(self, site: str, at: float) -> None:
        self._waiting.discard(site)
        self._done.add(site)
        if not self._helping:
            self.sites[site] = SiteState(Status.CONTRIBUTED, at=at, took=at - self._opened_at)

    def _drop(self, site: str, why: str, at: float, *, hopeless: bool) -> None:
        known = self._unreachable.get(site)
        lost = f"no answer at {self.stage}: {known or why}"
        took = None if known or hopeless else at - self._opened_at
        self._lose(site, SiteState(Status.DROPPED, known or f"no answer: {why}", at, took), lost)

    def _lose(self, site: str, out: SiteState, lost: str) -> None:
        """Take a site out; or, in a helper stage, note what was lost of a site that stays in the sum."""
        self._waiting.discard(site)
        if self._helping:
            self._lost_helpers[site] = lost
            self.sites[site] = replace(self.sites[site], reason=f"in the sum; then {lost}")
        else:
            self.sites[site] = out

    def _close_if_due(self, at: float) -> list[Command]:
        quorum = self._now.quorum
        if len(self._done) >= quorum and self._quorum_at is None:
            self._quorum_at = at
        why = self._closing(at) if self._waiting else ""
        if why is None:
            return []
        hopeless = len(self._done) < quorum and at < self._opened_at + self.plan.deadline
        for site in self.waiting():
            self._drop(site, why, at, hopeless=hopeless)
        if len(self._done) < quorum:
            verb = "contributed" if len(self.plan.stages) == 1 else f"answered at {self.stage}"
            return self._miss(quorum, verb)
        if self._stage == self.plan.counted:
            self.survivors = self._in_order(self._done)
        return self._sum() if self._stage + 1 == len(self.plan.stages) else self._go_on(at)

    def _closing(self, at: float) -> str | None:
        """Why the stage closes over who is still waited for; None while it does not."""
        if at >= self._opened_at + self.plan.deadline:
            return "deadline passed"
        if self._quorum_at is None:
            return None if len(self._done) + len(self._waiting) >= self._now.quorum else "others were waiting"
        graced = at >= self._quorum_at + self._now.grace
        if self._helping:
            return "others were waiting" if graced else None
        return self._carrying_on(at) if graced or self._consulted else None

    def _carrying_on(self, at: float) -> str | None:
        """Why a stage up to the counted one closes, its grace after its quorum: rule 13."""
        if self.plan.stragglers == Stragglers.ASK and self._decided is not False:
            return None
        if self._consulted:
            return "the coordinator carried on"
        if self.plan.enough is not None and at >= self._opened_at + self.plan.enough:
            return "deadline passed"
        return None if self._worth_waiting(at) else "others were waiting"

    def _worth_waiting(self, at: float) -> bool:
        """Whether a site is waited for beyond the grace that the quorum does not need."""
        return any(
            at < self._lasting(site) for site in self._waiting if at >= self._lost_at.get(site, -math.inf) + LOST_S
        )

    def _lasting(self, site: str) -> float:
        """Until when a site is waited for that can be reached."""
        if self.plan.stragglers == Stragglers.WAIT:
            return math.inf
        quorum_took = (self._opened_at if self._quorum_at is None else self._quorum_at) - self._opened_at
        return self._opened_at + self.plan.usual.get(site, FIRST * quorum_took)

    def _consult(self, at: float) -> list[Command]:
        asks = self.plan.stragglers == Stragglers.ASK and self._decided is None and not self._consulted
        if not asks or self._helping or self.ended is not None or self._quorum_at is None:
            return []
        if at < self._quorum_at + self._now.grace or self._worth_waiting(at):
            return []
        self._consulted = True
        return [Consult(self.waiting())]

    def _go_on(self, at: float) -> list[Command]:
        following = self.plan.stages[self._stage + 1]
        if len(self._done) < following.quorum:
            return self._miss(following.quorum, f"reached {following.name}")
        return [self._begin_stage(self._stage + 1, self._in_order(self._done), at)]

    def _sum(self) -> list[Command]:
        end = self._end(Outcome.COMMITTED, f"{len(self.survivors)} of {len(self.plan.cohort)} sites contributed")
        return [Sum(self.survivors), end]

    def _miss(self, quorum: int, verb: str) -> list[Command]:
        missing = [self._loss_of(site) for site in self.plan.cohort if site not in self._done]
        counts = f"{len(self._done)} of at least {quorum} sites {verb}"
        return [self._end(Outcome.QUORUM_MISSED, "; ".join([counts, *missing]))]

    def _loss_of(self, site: str) -> str:
        state = self.sites[site]
        return f"{site} {self._lost_helpers.get(site) or f'{state.status}: {state.reason}'}"

    def _stop(self, event: Stopped) -> list[Command]:
        if not self._helping:
            for site in self._waiting:
                self.sites[site] = SiteState(Status.DROPPED, f"attempt {Outcome.STOPPED}", event.at)
        return [self._end(Outcome.STOPPED, event.reason)]

    def _end(self, outcome: Outcome, reason: str) -> End:
        self._waiting.clear()
        self.ended = End(outcome, reason)
        return self.ended
