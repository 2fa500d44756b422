"""An exploration's run: one round without a model, whose answers are summed like any round's, and kept as one noisy vector.

What follows from the sum (`fedward.study.answers`) is derived whenever it is shown; only the sum is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedward.privacy.errors import InputError
from fedward.server.exchanges import PlainExchange, SecureExchange
from fedward.server.home import CoordinatorHome
from fedward.server.records import ANSWERS, Evaluation, StudyRow
from fedward.server.round import Outcome, plain_stages
from fedward.server.runs import BaseRun, Prepared, grace, opened, plan, secure_stages
from fedward.server.store import Store
from fedward.server.transport import Clock, Transport
from fedward.study.exploration import SealedExploration
from fedward.study.messages import Masked, Work, counts_to_bytes
from fedward.study.sums import counts_shape

NO_MODEL = np.zeros(0, dtype=np.float32)


class ExplorationRun(BaseRun[SealedExploration]):
    """Runs an exploration to its answers."""

    def _sealed(self, study: StudyRow) -> SealedExploration:
        sealed = opened(study)
        if not isinstance(sealed, SealedExploration):
            raise InputError(f'study "{study.study_id}" is no exploration', got=sealed.kind)
        return sealed

    def _go(self, study: StudyRow, sealed: SealedExploration) -> str:
        def attempt(number: int, cohort: tuple[str, ...]) -> tuple[Outcome, str, None]:
            return self._attempt(study, sealed, number, cohort)

        if self._store.evaluation(study.key, ANSWERS) is None:  # else the run died right after it was committed
            self._until_committed(study, sealed, 1, attempt)
        return "answered"

    def _attempt(
        self, study: StudyRow, sealed: SealedExploration, number: int, cohort: tuple[str, ...]
    ) -> tuple[Outcome, str, None]:
        began = self._clock.monotonic()
        prepared = self._prepare(study, sealed, number, cohort)
        done = self._conduct(study, sealed, number, 1, sealed.digest, prepared, began)
        if done.gathered is None or done.gathered.counts is None or done.sites is None:
            return done.outcome, done.reason, None
        total = Evaluation(ANSWERS, counts_to_bytes(done.gathered.counts), done.survivors, ())
        self._close(
            study,
            sealed,
            number,
            done.outcome,
            done.reason,
            done.sites,
            done.took,
            evaluation=total,
            updates=done.updates,
        )
        return done.outcome, done.reason, None

    def _prepare(
        self, study: StudyRow, sealed: SealedExploration, number: int, cohort: tuple[str, ...]
    ) -> Prepared | str:
        """Every site is asked for all answers, or why too few sites can be. A batch is set up here if one is needed."""
        task: dict[str, object] = {
            "study": sealed.digest,
            "round": 1,
            "attempt": number,
            "base": sealed.digest,
            "dimension": counts_shape(sealed)[0],
            "train": False,
            "evaluate": True,
        }
        if self._batches is None:
            quorum = sealed.manifest.federation.quorum
            if len(cohort) < quorum:
                return self._too_few(sealed, cohort)
            pace = self._pace(study, sealed, cohort)
            plain = PlainExchange(sealed, Work.model_validate(task), NO_MODEL, self._identity)
            return Prepared(plan(sealed, plain.request, cohort, plain_stages(quorum, grace(sealed)), pace), plain)
        slots = sealed.manifest.planned_attempts + 1 - self._store.attempts_made(study.key)
        ready = self._batches.ready(cohort, slots)
        if ready is None:
            return self._too_few(sealed, cohort)
        asked = tuple(site for site in ready.batch.members if site in cohort)
        pace = self._pace(study, sealed, asked)
        place = {"batch": ready.batch.batch, "setup": ready.setup.hex(), "slot": self._batches.take_slot()}
        secure = SecureExchange(sealed, ready, Masked.model_validate(task | place), NO_MODEL, self._identity)
        return Prepared(plan(sealed, secure.request, asked, secure_stages(sealed, ready), pace), secure)


def run_study(
    home: CoordinatorHome, store: Store, transport: Transport, clock: Clock, report: Callable[[str], None], key: int
) -> None:
    """Continue a study of either kind until it ends; errors as `BaseRun.run`."""
    from fedward.server.running import StudyRun  # noqa: PLC0415 - an exploration needs no model, and torch takes seconds

    explores = isinstance(opened(store.study(key)), SealedExploration)
    run = (ExplorationRun if explores else StudyRun)(home, store, transport, clock, report)
    run.run(key)
