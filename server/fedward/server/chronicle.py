"""What happened to a study, in order and in plain words: its states, the hospitals' decisions, and every round's outcome.

Equal rounds that follow each other are one event. Nothing in it comes from a patient: it is made of names, states and codes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from fedward.server.causes import BLAMELESS, NOT_ASKED, Cause, of_status
from fedward.server.histories import History
from fedward.server.records import ANSWERED, ASKED, JUDGED, AlarmRow, AttemptRow, JournalEntry

SAID_NO = ("refused", "revoked", "withdrawn")
DECISIONS = {
    "pending": "offered to {}; nobody there has decided yet",
    "approved": "approved by {}",
    "refused": "refused by {}",
    "revoked": "approval taken back by {}",
    "expired": "approval ran out at {}",
    "withdrawn": "data withdrawn by {}, for good",
    "unwilling": "turned down by the node of {}",
    "absent": "does not take part: {}",
}
_WISHES = {
    "run": "a person launched it",
    "pause": "a person asked to pause it after the attempt under way",
    "pause-now": "a person asked to pause it at once",
    "stop": "a person asked to stop it",
}
_NO_QUORUM = re.compile(r"round (\d+) found no quorum in (\d+) attempts\. Got (.*)", re.DOTALL)
_COUNTS = re.compile(r"(\d+) of at least (\d+) sites (.+)")


@dataclass(frozen=True)
class Out:
    """Sites that did not contribute to an attempt, for one and the same cause; `detail` is what the record says."""

    sites: tuple[str, ...]
    status: str
    cause: Cause
    detail: str


@dataclass(frozen=True)
class Attempt:
    """One attempt at a round. `seconds` is None where it was cut off, or asked nobody; `outcome` while it is open."""

    attempt: int
    round: int
    outcome: str | None
    reason: str
    at: int
    seconds: float | None
    contributed: tuple[str, ...]
    out: tuple[Out, ...]

    @property
    def likeness(self) -> tuple[object, ...]:
        """What two attempts have in common that can be told in one sentence."""
        out = tuple((one.sites, one.status, one.cause.name) for one in self.out)
        head = self.reason.partition(";")[0] if self.outcome in {"quorum-missed", "sum-refused"} else ""
        return (self.outcome, head, self.contributed, out)


@dataclass(frozen=True)
class Event:
    """One thing that happened, or several equal ones. `at` is unix time; `attempts` are of rounds `first` to `last`."""

    at: int
    kind: str
    words: str
    first: int | None = None
    last: int | None = None
    attempts: tuple[Attempt, ...] = ()


def attempts(history: History) -> tuple[Attempt, ...]:
    """Every attempt, in order, with a cause for every site that did not contribute."""
    said_no = _said_no(history)
    return tuple(_attempt(history, row, said_no) for row in history.view.attempts)


def _said_no(history: History) -> dict[int, frozenset[str]]:
    """By attempt: the sites that people there had taken out of the study when it was opened."""
    found, states = {}, dict[str, str]()
    for entry in history.journal:
        if entry.kind == "standing":
            states[entry.data["site"]] = entry.data["state"]
        elif entry.kind == "opened":
            found[entry.data["attempt"]] = frozenset(site for site, state in states.items() if state in SAID_NO)
    return found


def _attempt(history: History, row: AttemptRow, said_no: dict[int, frozenset[str]]) -> Attempt:
    statuses = history.by_attempt[row.attempt]
    gone = said_no.get(row.attempt, frozenset())
    alarmed = {alarm.site for alarm in history.alarms if alarm.at <= row.opened_at}
    # Records of earlier versions do not say who was there when nobody was asked.
    known_away = bool(history.asked.get(row.attempt)) or row.reason.startswith("0 of ")
    known_away = known_away or any(status.reason == NOT_ASKED for status in statuses)
    out: list[Out] = []
    for status in statuses:
        cause = of_status(
            status,
            said_no=status.site in gone,
            alarmed=status.site in alarmed,
            known_away=known_away,
        )
        if cause is None:
            continue
        same = next((one for one in out if (one.status, one.cause.name) == (status.status, cause.name)), None)
        if same is None:
            out.append(Out((status.site,), status.status, cause, status.reason))
        else:
            out[out.index(same)] = Out((*same.sites, status.site), same.status, same.cause, same.detail)
    done = tuple(status.site for status in statuses if status.status == "contributed")
    return Attempt(row.attempt, row.round, row.outcome, row.reason, row.opened_at, row.seconds, done, tuple(out))


def chronicle(history: History) -> tuple[Event, ...]:
    """Everything that happened, oldest first."""
    made = {one.attempt: one for one in attempts(history)}
    events: list[Event] = []
    open_: list[Attempt] = []
    waiting: list[JournalEntry] = []
    before = ""

    def flush() -> None:
        events.extend(_rounds(history, open_))
        events.extend(_decided(waiting))
        open_.clear()
        waiting.clear()

    for entry in history.journal:
        if entry.kind == "opened":
            if waiting:
                flush()
            open_.append(made[entry.data["attempt"]])
        elif entry.kind == "standing":
            if open_:
                flush()
            waiting.append(entry)
        elif (told := _told(history, entry, before)) is not None:
            flush()
            events.append(told)
        before = entry.data["state"] if entry.kind == "state" else before
    flush()
    return tuple(_with_alarms(events, history))


def _told(history: History, entry: JournalEntry, before: str) -> Event | None:
    """A state or a wish in words; None for what is told elsewhere, or is of no interest to people."""
    if entry.kind == "drafted":
        return Event(entry.at, "drafted", f"drafted for {_names(history.study.invited)}")
    if entry.kind == "sealed":
        sites = _names(history.sites)
        return Event(
            entry.at, "sealed", f"sealed, as digest {entry.data['digest'][:12]}, for {sites}: it can change no more"
        )
    if entry.kind == "wish":
        words = _WISHES.get(entry.data["wish"])
        if entry.data["wish"] == "run" and before == "paused":
            words = "a person resumed it"
        return None if words is None else Event(entry.at, "wish", words)
    if entry.kind in _TOLD:
        return _TOLD[entry.kind](entry)
    if entry.kind != "state":
        return None
    state, reason = entry.data["state"], entry.data["reason"]
    words = {
        "proposed": "an approval is missing again" if before == "ready" else "proposed: hospitals can approve it",
        "ready": "ready: enough hospitals have approved it",
        "paused": "paused: nobody is asked until it is resumed",
        "running": "the coordinator's program began anew and went on from its record"
        if before == "running"
        else "it began to run",
        "completed": f"completed: {reason}",
        "stopped": "stopped",
        "failed": f"failed: {bare(reason)}",
        "budget-exhausted": f"the privacy budget is exhausted: {bare(reason)}",
    }.get(state, f"{state}: {reason}" if reason else state)
    return Event(entry.at, state, words)


def _asked(entry: JournalEntry) -> Event:
    """A question about stragglers, or its answer."""
    if entry.kind == ASKED:
        return Event(
            entry.at,
            "asked",
            f"round {entry.data['round']} had its quorum and asked the coordinator whether to wait for "
            f"{_names(entry.data['sites'])}",
        )
    by = entry.data["by"] or "a person"
    words = "wait for them" if entry.data["choice"] == "wait" else "go on without them"
    return Event(entry.at, "decided", f"{by} decided that round {entry.data['round']} should {words}")


def _set_back(entry: JournalEntry) -> Event:
    """What the coordinator lost, by a damaged file or a restore."""
    if entry.kind == "restored":
        made, by = f"{datetime.fromtimestamp(entry.data['made_at'], UTC):%Y-%m-%d %H:%M} UTC", entry.data["by"]
        words = f"the coordinator was restored, by {by}, from a backup of {made}: what happened since is not told here"
        return Event(entry.at, "restored", words)
    kept, newest = entry.data["kept"], entry.data["lost"][0]
    rounds = f"round {newest['version']}" if newest["version"] == kept + 1 else f"rounds {kept + 1}–{newest['version']}"
    words = f"ALARM: {newest['why']}: {rounds} had to be given up, and it goes on after round {kept}"
    return Event(entry.at, "alarm", f"{words}; their privacy cost stays spent")


def _released(entry: JournalEntry) -> Event:
    """What became of the model after training: its gates, and releases."""
    if entry.kind == JUDGED:
        missed = [why for _, why in entry.data["missed"]]
        words = f"the last model missed its gates: {'; '.join(missed)}" if missed else "the last model held every gate"
        return Event(entry.at, "gates", words)
    if entry.kind == "metrics-shared":
        return Event(entry.at, "metrics-shared", f"{entry.data['site']} gave its own metrics")
    number, by = entry.data["number"], entry.data["by"]
    if entry.kind == "released":
        return Event(entry.at, "released", f"{by} released the model {entry.data['model'][:12]}, as release {number}")
    return Event(entry.at, "rolled-back", f"{by} took release {number} back")


_TOLD: Final = {
    ASKED: _asked,
    ANSWERED: _asked,
    "restored": _set_back,
    "lost": _set_back,
    JUDGED: _released,
    "released": _released,
    "rolled-back": _released,
    "metrics-shared": _released,
}


def bare(reason: str) -> str:
    """A failure's reason in a reader's words, without its remedy, which is told as what comes next."""
    short = reason.partition(" To fix it: ")[0].rstrip(".")
    missed = _NO_QUORUM.fullmatch(short)
    if missed is not None:
        count = "1 attempt" if missed[2] == "1" else f"each of {missed[2]} attempts"
        return f"in {count} too few hospitals took part in round {missed[1]}; the last time {_counts(missed[3])}"
    return short


def _counts(reason: str) -> str:
    """The counts with which a missed quorum's reason begins, as a sentence's rest; what follows them is told per site."""
    head = reason.partition(";")[0]
    found = _COUNTS.fullmatch(head)
    if found is None:
        return head
    what = {"are online": "were there", "contributed": "answered"}.get(found[3], found[3])
    return f"{found[1]} hospitals {what}, and it needs {found[2]}"


def _decided(entries: Sequence[JournalEntry]) -> Iterator[Event]:
    """What sites said of the proposal, those that said the same at once together."""
    for _, group in itertools.groupby(entries, lambda entry: (entry.data["state"], entry.data["reason"])):
        same = list(group)
        state, reason = same[0].data["state"], same[0].data["reason"]
        words = DECISIONS.get(state, f"{state}: {{}}").format(_names([entry.data["site"] for entry in same]))
        yield Event(same[0].at, "standing", f"{words} ({reason})" if reason else words)


def _rounds(history: History, made: Sequence[Attempt]) -> Iterator[Event]:
    """Rounds in words: an event for each run of rounds that went alike."""
    by_round = [tuple(group) for _, group in itertools.groupby(made, lambda one: one.round)]
    for _, group in itertools.groupby(by_round, lambda tries: (_is_test(history, tries), *(t.likeness for t in tries))):
        alike = list(group)
        yield from _told_rounds(history, alike)


def _told_rounds(history: History, alike: Sequence[tuple[Attempt, ...]]) -> Iterator[Event]:
    """Rounds that went alike, attempts that went alike within each put together."""
    name = _named(history, alike)
    runs = [[*group] for _, group in itertools.groupby(range(len(alike[0])), lambda n: alike[0][n].likeness)]
    for run in runs:
        tries = tuple(tries[n] for tries in alike for n in run)
        words = f"{name}: {_outcome(history, tries[0], len(run))}{_took(tries)}"
        yield Event(tries[0].at, "round", words, alike[0][0].round, alike[-1][0].round, tries)


def _is_test(history: History, tries: tuple[Attempt, ...]) -> bool:
    return tries[0].round > history.view.rounds


def _named(history: History, alike: Sequence[tuple[Attempt, ...]]) -> str:
    first, last = alike[0][0].round, alike[-1][0].round
    if history.view.kind == "explore":
        return "the questions"
    if first > history.view.rounds:
        return "test of the last model"
    return f"round {first}" if first == last else f"rounds {first}–{last}"


def _outcome(history: History, one: Attempt, times: int) -> str:
    """An attempt's end, for a person; `times` attempts in a row ended so."""
    everyone, done = len(history.sites), len(one.contributed)
    if one.outcome is None:
        return "under way"
    if one.outcome == "committed":
        words = f"committed by all {everyone}" if done == everyone else f"committed by {done} of {everyone}"
    else:
        failed = "an attempt failed" if times == 1 else f"{times} attempts failed"
        words = {
            "quorum-missed": f"{failed}: {_counts(one.reason)}",
            "stopped": f"cut off before it was done: {one.reason}",
            "interrupted": "cut off: " + bare(one.reason),
            "lost": f"committed by {done} of {everyone}, and given up later: the model's file was not what it had been",
            "sum-refused": f"{failed}: the sum did not pass its checks and was thrown away ({bare(one.reason)})",
        }.get(one.outcome, f"{one.outcome}: {one.reason}")
    told = [out for out in one.out if out.cause.name not in BLAMELESS or out.cause.name == "not-asked"]
    return "".join([words, *(f"; {_names(out.sites)} {_missing(out)}" for out in told)])


def _missing(out: Out) -> str:
    """How sites were out, and why."""
    if out.cause.name == "not-asked":
        return "there, but not asked"
    verb = {"refused": "refused", "dropped": "dropped", "absent": "absent"}.get(out.status, out.status)
    why = out.detail if out.cause.name == "other" else out.cause.means
    return f"{verb}: {why} [{out.cause.name}]" if why else verb


def _took(tries: Sequence[Attempt]) -> str:
    """How long attempts took."""
    took = [one.seconds for one in tries if one.seconds is not None]
    if not took:
        return ""
    low, high = f"{min(took):.1f}", f"{max(took):.1f}"
    return f" ({low} s{' each' if len(took) > 1 else ''})" if low == high else f" ({low} to {high} s each)"


def _with_alarms(events: Sequence[Event], history: History) -> Iterator[Event]:
    """The events, with the alarms about this study's sites where they belong."""
    left = sorted((a for a in history.alarms if a.site in history.sites), key=lambda alarm: alarm.at)
    for event in events:
        while left and left[0].at < event.at:
            yield _alarm(left.pop(0))
        yield event
    yield from map(_alarm, left)


def _alarm(alarm: AlarmRow) -> Event:
    return Event(
        alarm.at, "alarm", f"ALARM about {alarm.site}: {alarm.what}; it is asked nothing more until a person clears it"
    )


def _names(sites: Sequence[str]) -> str:
    if not sites:
        return "nobody"
    return sites[0] if len(sites) == 1 else f"{', '.join(sites[:-1])} and {sites[-1]}"
