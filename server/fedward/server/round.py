"""One attempt at a round, as a pure state machine: events in, commands out. No IO, no clock, no foreign library.

Rules
    1. An attempt has a fixed cohort, in roster order, and one or more stages. A plain round has the stage `work`; a
       secure round has three. A stage asks every site that finished the stage before it.
    2. A site of the cohort is, at any time, in one status: asked, contributed, refused, dropped. The last two are final
       and carry a reason. A reply from a site that is not asked in this stage changes nothing.
    3. A site that cannot be reached is asked again while the stage is open: a site charges an attempt once at most, so
       asking twice costs nobody anything. It is dropped when the stage closes.
    4. A stage closes when every asked site has answered; or, once at least `quorum` have, `grace` seconds after the
       quorum was reached; or at its deadline.
    5. A stage that closes with fewer than `quorum` replies, or that can no longer reach it, ends the attempt as
       `quorum-missed`. The last stage's close with a quorum commands the sum over its contributors, in roster order.
    6. After `End` the machine accepts nothing. A quiet subset can never read as success: the outcome names everyone.

Events carry the time they happened at, in seconds of any monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from fedward.privacy.errors import InputError


class Outcome(StrEnum):
    COMMITTED = "committed"
    QUORUM_MISSED = "quorum-missed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"


class Status(StrEnum):
    """`absent` is for sites of the roster that were not in the cohort."""

    ASKED = "asked"
    CONTRIBUTED = "contributed"
    REFUSED = "refused"
    DROPPED = "dropped"
    ABSENT = "absent"


@dataclass(frozen=True)
class SiteState:
    status: Status
    reason: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What an attempt is: fixed when it opens, and journalled before anything is sent."""

    round: int
    attempt: int
    cohort: tuple[str, ...]
    quorum: int
    deadline: float
    grace: float
    stages: tuple[str, ...] = ("work",)

    def __post_init__(self) -> None:
        if not self.cohort or len(set(self.cohort)) != len(self.cohort):
            raise InputError("a cohort names each of its sites once", got=str(self.cohort))
        if not 1 <= self.quorum <= len(self.cohort):
            raise InputError(
                "the quorum does not fit the cohort", expected=f"1 to {len(self.cohort)}", got=str(self.quorum)
            )
        if not self.stages:
            raise InputError("a round has at least one stage")
        for name, value in (("deadline", self.deadline), ("grace", self.grace)):
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


Event = Opened | Replied | Refused | Unreachable | Tick | Stopped


# Commands


@dataclass(frozen=True)
class Ask:
    """Send the stage's request to these sites."""

    stage: str
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Sum:
    """Aggregate the last stage's replies of these sites, in this order, and commit."""

    sites: tuple[str, ...]


@dataclass(frozen=True)
class End:
    outcome: Outcome
    reason: str


Command = Ask | Sum | End


@dataclass
class Round:
    """The machine. `handle` is its only way to change."""

    plan: Plan
    sites: dict[str, SiteState] = field(init=False)
    ended: End | None = field(init=False, default=None)
    _stage: int = field(init=False, default=-1)
    _opened_at: float = field(init=False, default=0.0)
    _quorum_at: float | None = field(init=False, default=None)
    _unreachable: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.sites = {site: SiteState(Status.ASKED) for site in self.plan.cohort}

    @property
    def stage(self) -> str:
        return self.plan.stages[max(self._stage, 0)]

    def in_status(self, status: Status) -> tuple[str, ...]:
        """Sites in a status, in roster order."""
        return tuple(site for site in self.plan.cohort if self.sites[site].status == status)

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
            return self._end(Outcome.STOPPED, event.reason, event.at)
        if not isinstance(event, Tick):
            self._note(event)
        # A stage that closes asks nobody again.
        return self._close_if_due(event.at) or self._ask_again(event)

    def _open(self, at: float) -> list[Command]:
        if self._stage >= 0:
            raise InputError("the attempt is open already")
        return [self._begin_stage(0, self.plan.cohort, at)]

    def _begin_stage(self, stage: int, sites: tuple[str, ...], at: float) -> Ask:
        self._stage, self._opened_at, self._quorum_at = stage, at, None
        self._unreachable.clear()
        for site in sites:
            self.sites[site] = SiteState(Status.ASKED, at=at)
        return Ask(self.stage, sites)

    def _note(self, event: Replied | Refused | Unreachable) -> None:
        known = self.sites.get(event.site)
        if known is None:
            raise InputError(f'site "{event.site}" is not in the cohort', expected=", ".join(self.plan.cohort))
        if known.status != Status.ASKED:
            return
        if isinstance(event, Replied):
            if event.stage == self.stage:
                self.sites[event.site] = SiteState(Status.CONTRIBUTED, at=event.at)
                self._unreachable.pop(event.site, None)
        elif isinstance(event, Refused):
            self.sites[event.site] = SiteState(Status.REFUSED, event.reason, event.at)
        else:
            self._unreachable[event.site] = event.reason

    def _ask_again(self, event: Event) -> list[Command]:
        if isinstance(event, Unreachable) and self.sites[event.site].status == Status.ASKED:
            return [Ask(self.stage, (event.site,))]
        return []

    def _close_if_due(self, at: float) -> list[Command]:
        done, waiting = self.in_status(Status.CONTRIBUTED), self.in_status(Status.ASKED)
        if len(done) >= self.plan.quorum and self._quorum_at is None:
            self._quorum_at = at
        graced = self._quorum_at is not None and at >= self._quorum_at + self.plan.grace
        late = at >= self._opened_at + self.plan.deadline
        hopeless = len(done) + len(waiting) < self.plan.quorum
        if not (not waiting or graced or late or hopeless):
            return []
        self._drop(waiting, at, "deadline passed" if late else "others were waiting")
        if len(done) < self.plan.quorum:
            return self._end(Outcome.QUORUM_MISSED, self._shortfall(done), at)
        if self._stage + 1 < len(self.plan.stages):
            return [self._begin_stage(self._stage + 1, done, at)]
        self.ended = End(Outcome.COMMITTED, f"{len(done)} of {len(self.plan.cohort)} sites contributed")
        return [Sum(done), self.ended]

    def _drop(self, waiting: tuple[str, ...], at: float, why: str) -> None:
        for site in waiting:
            reason = self._unreachable.get(site, f"no answer: {why}")
            self.sites[site] = SiteState(Status.DROPPED, reason, at)

    def _shortfall(self, done: tuple[str, ...]) -> str:
        missing = [
            f"{site} {state.status}: {state.reason}"
            for site, state in self.sites.items()
            if state.status != Status.CONTRIBUTED
        ]
        return f"{len(done)} of at least {self.plan.quorum} sites contributed; " + "; ".join(missing)

    def _end(self, outcome: Outcome, reason: str, at: float) -> list[Command]:
        for site in self.in_status(Status.ASKED):
            self.sites[site] = replace(SiteState(Status.DROPPED, f"attempt {outcome}", at))
        self.ended = End(outcome, reason)
        return [self.ended]
