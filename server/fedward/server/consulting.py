"""The question whether a round waits for its stragglers: a run asks it, a person answers it, and both stand in the journal.

A question belongs to the attempt that asks; an answer to the round, so that neither a crash nor a further attempt asks again what
was answered. The newest answer counts. Without one, the attempt's deadline ends the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from fedward.privacy.errors import RefusalError
from fedward.server.records import ANSWERED, ASKED, AttemptRow, JournalEntry, Question, StudyRow
from fedward.server.round import Plan, Stragglers
from fedward.server.store import Store
from fedward.server.transport import Clock

CHECK_S: Final = 0.5
Choice = Literal["wait", "carry-on"]


def question(attempts: Sequence[AttemptRow], journal: Sequence[JournalEntry]) -> Question | None:
    """The question that the open attempt asks, answered or not; None where there is none. Other journal entries are passed over."""
    if not attempts or attempts[-1].outcome is not None:
        return None
    now = attempts[-1]
    asked = [entry for entry in journal if entry.kind == ASKED and entry.data["attempt"] == now.attempt]
    if not asked:
        return None
    answers = [entry.data["choice"] for entry in journal if _answers(entry, now.round)]
    data = asked[-1].data
    return Question(
        now.round, now.attempt, tuple(data["sites"]), asked[-1].at, data["until"], answers[-1] if answers else None
    )


def _answers(entry: JournalEntry, round_: int) -> bool:
    return entry.kind == ANSWERED and entry.data["round"] == round_


def pending(store: Store, study: StudyRow) -> Question:
    """The question that a person can answer now.

    Raises:
        RefusalError: `nothing-asked`.
    """
    found = question(store.attempts(study.key), store.journal(study.key, ASKED, ANSWERED))
    if found is None or study.state != "running":
        raise RefusalError(
            f'study "{study.study_id}" does not ask whether to wait for hospitals',
            expected='a study with federation.stragglers = "ask", whose round has its quorum and still waits for others',
            got=study.state,
            remedy=f"see `fedward coordinator status {study.study_id}`",
            code="nothing-asked",
        )
    return found


class Consultation:
    """One attempt's side of it."""

    def __init__(self, store: Store, study: StudyRow, plan: Plan, clock: Clock, report: Callable[[str], None]) -> None:
        self._store = store
        self._study = study
        self._plan = plan
        self._clock = clock
        self._report = report
        self._asks = plan.stragglers == Stragglers.ASK
        self._until = clock.unix() + int(plan.deadline)
        self._next_check = 0.0

    def ask(self, sites: tuple[str, ...]) -> None:
        """Enter the question, before anybody is told of it."""
        data = {"round": self._plan.round, "attempt": self._plan.attempt, "sites": list(sites), "until": self._until}
        self._store.note(self._study.key, ASKED, data, self._clock.unix())
        name = self._study.study_id
        self._report(
            f"round {self._plan.round} has its quorum and waits for {', '.join(sites)}: "
            f"`fedward coordinator carry-on {name}` goes on without, `fedward coordinator wait {name}` waits"
        )

    def answer(self) -> Choice | None:
        """What a person said of this round, as it stood at most a moment ago; None if nothing new."""
        now = self._clock.monotonic()
        if not self._asks or now < self._next_check:
            return None
        self._next_check = now + CHECK_S
        answers = [
            e.data["choice"] for e in self._store.journal(self._study.key, ANSWERED) if _answers(e, self._plan.round)
        ]
        if not answers:
            return None
        choice: Choice = answers[-1]
        return choice
