"""A study's life, as a pure state machine: events in, the next state and wish out. No IO, no clock, no foreign library.

Rules
     1. A study is in one state and has one wish. The wish is what a person asked for and nobody has done yet; only a person's
        event opens one. A state that is reached because of a wish, or that makes it void, closes it in the same step.
     2. It begins as `draft`, with the wish to be proposed.
     3. `Offered`: it is sealed, and hospitals can approve it: `draft` becomes `proposed`. Nothing that is approved changes
        any more.
     4. `Approvals`: once as many hospitals have approved as it needs, `proposed` becomes `ready`; if one takes its word back,
        `ready` becomes `proposed`. No other state depends on it: a study that runs looks after its approvals itself.
     5. `Launch` opens the wish to run, from `proposed`, `ready`, `failed`, `stopped` and `budget-exhausted`, if the study is
        sealed. It takes back a stop that is not done yet. A study that waits for approvals is launched, and has begun: it is
        `running`. One whose planned attempts are used up is launched no more: what hospitals approved is spent, and only a
        new version adds to it.
     6. `Began`: a run of it has begun, for the wish to run: it is `running`. After a crash it begins again.
     7. `Pause` is for what is launched: it opens the wish to pause, after the attempt under way or at once; at once is the
        stronger. A run that obeyed says `Halted`, and the study is `paused`. What is not launched asks nobody for work, so
        there is nothing to pause.
     8. `Resume` opens the wish to run again, from `paused`, or takes back a pause that is not done yet.
     9. `Stop` is for all that has not ended. What was never launched is `stopped` at once; else the wish to stop is opened,
        and a run says `Halted`: for a paused study too, since a run tells the hospitals. It overrules a pause.
    10. Where no service runs there is no run to obey: a pause or a stop is then done at once.
    11. A run's word that it completed, failed, is exhausted or has halted counts while a run is wished or the study is
        `running`. When a person has ended it meanwhile, or has wished otherwise, the word changes nothing: what is committed
        stands in the record anyway.
    12. `Dissolved`: the study can go on no more, since a hospital has another identity now: it is `stopped`, unless it has
        ended.
    13. `completed` is final. `failed`, `stopped` and `budget-exhausted` are left by `Launch` alone, `paused` by `Resume` and
        by `Stop`.
    14. An event that a rule does not provide for is refused by name, if it is a person's; a run's is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from fedward.privacy.errors import RefusalError

State = Literal["draft", "proposed", "ready", "running", "paused", "completed", "failed", "budget-exhausted", "stopped"]
Wish = Literal["none", "propose", "run", "pause", "pause-now", "stop"]
Order = Literal["go", "pause", "pause-now", "stop"]
"""What a run is to do: `pause` is after the attempt under way."""

STATES: Final[tuple[State, ...]] = get_args(State)
WISHES: Final[tuple[Wish, ...]] = get_args(Wish)
ENDED: Final[frozenset[State]] = frozenset({"completed", "failed", "budget-exhausted", "stopped"})
AT_REST: Final[frozenset[State]] = ENDED | {"paused"}
"""Where nothing moves before a person says so, if no wish is open."""
PLAN_USED_UP: Final = "plan-used-up"
"""The code of a study whose planned attempts are used up."""
SITES_SPENT: Final = "sites-exhausted"
"""The code of a study for which too few hospitals have privacy budget left."""
EXHAUSTIONS: Final = frozenset({PLAN_USED_UP, SITES_SPENT})
_LAUNCHED: Final[frozenset[Wish]] = frozenset({"run", "pause", "pause-now", "stop"})
_PAUSES: Final[frozenset[Wish]] = frozenset({"pause", "pause-now"})


@dataclass(frozen=True)
class Life:
    """Where a study stands. `reason` says why in words, `code` by name; `sealed` is whether hospitals can know it."""

    state: State = "draft"
    wish: Wish = "propose"
    sealed: bool = False
    reason: str = ""
    code: str | None = None


# Events: a person's


@dataclass(frozen=True)
class Launch:
    pass


@dataclass(frozen=True)
class Pause:
    """`now` cuts the attempt under way off; `serving` is whether a service runs."""

    now: bool = False
    serving: bool = True


@dataclass(frozen=True)
class Resume:
    pass


@dataclass(frozen=True)
class Stop:
    """`serving` is whether a service runs."""

    serving: bool = True


# Events: the service's and its runs'


@dataclass(frozen=True)
class Offered:
    pass


@dataclass(frozen=True)
class Approvals:
    enough: bool


@dataclass(frozen=True)
class Began:
    pass


@dataclass(frozen=True)
class Halted:
    """A run has ended because a person wished it."""


@dataclass(frozen=True)
class Completed:
    reason: str


@dataclass(frozen=True)
class Failed:
    """`code` names the failure; one of `EXHAUSTIONS` makes the study `budget-exhausted`."""

    reason: str
    code: str


@dataclass(frozen=True)
class Dissolved:
    reason: str


PersonsEvent = Launch | Pause | Resume | Stop
RunsEvent = Offered | Approvals | Began | Halted | Completed | Failed | Dissolved
Event = PersonsEvent | RunsEvent


def is_busy(life: Life) -> bool:
    """Whether a run is at work on a study, or will be without anybody's doing: it is a wish's, or a draft's proposal."""
    return life.wish != "none" or life.state == "running"


def has_ended(life: Life) -> bool:
    """Whether it is over, unless a person launches it again."""
    return life.state in ENDED and life.wish == "none"


def at_rest(life: Life) -> bool:
    """Whether nothing moves before a person says so."""
    return life.state in AT_REST and life.wish == "none"


def order(life: Life) -> Order:
    """What a run of it is to do now. One that nobody wishes any more stops."""
    if life.wish == "run":
        return "go"
    if life.wish in _PAUSES:
        return "pause-now" if life.wish == "pause-now" else "pause"
    return "stop"


def after(life: Life, event: Event) -> Life:
    """The life after an event.

    Raises:
        RefusalError: a person asks for what a study in this state cannot do; `not-to-launch`, `not-to-pause`, `not-to-resume`,
            `not-under-way`.
    """
    return _RULES[type(event)](life, event)


def _launch(life: Life, _: Launch) -> Life:
    why, remedy = "", ""
    if life.state == "completed":
        why, remedy = "it is completed", "propose a new study, or extend this one: fedward coordinator extend"
    elif life.state == "draft":
        why, remedy = "it is still being proposed", "wait until `fedward coordinator status` shows it as proposed"
    elif not life.sealed:
        why, remedy = f"it is not sealed: {life.reason or life.state}", "propose it again"
    elif life.state == "paused" or life.wish in _PAUSES:
        why, remedy = "it is paused, or about to be", "run `fedward coordinator resume`"
    elif life.state == "budget-exhausted" and life.code == PLAN_USED_UP:
        why = "the attempts that the hospitals approved are used up"
        remedy = "make a new version for them to approve: fedward coordinator extend"
    if why:
        raise RefusalError("the study cannot be launched", got=why, remedy=remedy, code="not-to-launch")
    return replace(life, wish="run")


def _pause(life: Life, event: Pause) -> Life:
    if life.wish not in _LAUNCHED:
        why = {
            "draft": "it is still being proposed",
            "proposed": "it is not launched: no hospital is asked to work for it",
            "ready": "it is not launched: no hospital is asked to work for it",
            "paused": "it is paused already",
        }.get(life.state, f"it has ended: {life.state}")
        raise RefusalError(
            "the study cannot be paused",
            expected="one that is launched and has not ended",
            got=why,
            remedy="`fedward coordinator status` lists what runs; to give a study up: fedward coordinator stop",
            code="not-to-pause",
        )
    if life.wish == "stop":
        raise RefusalError(
            "the study cannot be paused",
            got="it is being stopped",
            remedy="wait until it is stopped; `launch` continues it then",
            code="not-to-pause",
        )
    if not event.serving:
        return _paused(life)
    now = event.now or life.wish == "pause-now"
    return replace(life, wish="pause-now" if now else "pause")


def _resume(life: Life, _: Resume) -> Life:
    if life.state != "paused" and life.wish not in _PAUSES:
        running = life.state == "running"
        raise RefusalError(
            "the study cannot be resumed",
            expected="one that is paused",
            got="it runs" if running else life.state,
            remedy="nothing has to be done" if running else "a study that is not paused is started by `launch`",
            code="not-to-resume",
        )
    if life.wish == "stop":
        raise RefusalError(
            "the study cannot be resumed", got="it is being stopped", remedy="launch it then", code="not-to-resume"
        )
    return replace(life, wish="run")


def _stop(life: Life, event: Stop) -> Life:
    if has_ended(life):
        raise RefusalError("the study is not under way", got=life.state, code="not-under-way")
    if (life.wish in _LAUNCHED or life.state == "paused") and event.serving:
        return replace(life, wish="stop")
    return _stopped(life)


def _offered(life: Life, _: Offered) -> Life:
    is_offered = life.state == "draft" and life.wish == "propose" and life.sealed
    return replace(life, state="proposed", wish="none", reason="", code=None) if is_offered else life


def _approvals(life: Life, event: Approvals) -> Life:
    if life.state not in {"proposed", "ready"}:
        return life
    return replace(life, state="ready" if event.enough else "proposed")


def _began(life: Life, _: Began) -> Life:
    return replace(life, state="running", reason="", code=None) if life.wish == "run" else life


def _halted(life: Life, _: Halted) -> Life:
    if life.wish in _PAUSES:
        return _paused(life)
    return _stopped(life) if life.wish == "stop" else life


def _completed(life: Life, event: Completed) -> Life:
    return _ended(life, "completed", event.reason) if _at_work(life) else life


def _failed(life: Life, event: Failed) -> Life:
    if not _at_work(life) and life.wish != "propose":
        return life
    return _ended(life, "budget-exhausted" if event.code in EXHAUSTIONS else "failed", event.reason, event.code)


def _dissolved(life: Life, event: Dissolved) -> Life:
    return life if has_ended(life) else _ended(life, "stopped", event.reason)


def _at_work(life: Life) -> bool:
    return life.wish in _LAUNCHED or life.state == "running"


def _ended(life: Life, state: State, reason: str, code: str | None = None) -> Life:
    return replace(life, state=state, wish="none", reason=reason, code=code)


def _paused(life: Life) -> Life:
    return _ended(life, "paused", "a person paused it")


def _stopped(life: Life) -> Life:
    return _ended(life, "stopped", "a person stopped it")


_RULES: Final[Mapping[type[Event], Callable[[Life, Any], Life]]] = MappingProxyType(
    {
        Launch: _launch, Pause: _pause, Resume: _resume, Stop: _stop, Offered: _offered, Approvals: _approvals, Began: _began,
        Halted: _halted, Completed: _completed, Failed: _failed, Dissolved: _dissolved,
    }
)  # fmt: skip
