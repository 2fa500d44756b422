"""A study's run: from approvals to the last round, every step journalled before it is acted on.

What it shares with other kinds of study is in `runs`: killed at any instant, a new run continues from the last committed model.
"""

from __future__ import annotations

from fedward.privacy.errors import InputError
from fedward.server import models as model_files
from fedward.server.aggregation import OptimiserState, step
from fedward.server.batches import Batches
from fedward.server.evaluation import evaluate
from fedward.server.exchanges import Gathered, PlainExchange, SecureExchange
from fedward.server.records import Checkpoint, Evaluation, StudyRow
from fedward.server.round import Outcome, plain_stages
from fedward.server.runs import BaseRun, Prepared, grace, opened, plan, secure_stages
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Masked, Work
from fedward.study.models import Vector, build, to_vector
from fedward.study.terms import evaluates


class StudyRun(BaseRun[SealedManifest]):
    """Runs a study that trains, to its last round."""

    def _sealed(self, study: StudyRow) -> SealedManifest:
        sealed = opened(study)
        if not isinstance(sealed, SealedManifest):
            raise InputError(f'study "{study.study_id}" does not train', got=sealed.kind)
        return sealed

    def _go(self, study: StudyRow, sealed: SealedManifest) -> None:
        checkpoint = self._store.checkpoint(study.key) or self._begin(study, sealed)
        total = sealed.manifest.training.rounds
        while checkpoint.version < total:
            checkpoint = self._round(study, sealed, checkpoint)
        last = self._store.attempts(study.key)[-1]
        if (last.round, last.outcome) != (total + 1, Outcome.COMMITTED):  # else the run died right after evaluating
            self._round(study, sealed, checkpoint)
        self._store.set_state(study.key, "completed", f"{total} rounds committed", self._clock.unix())
        self._report("completed")

    def _begin(self, study: StudyRow, sealed: SealedManifest) -> Checkpoint:
        vector = to_vector(build(sealed.manifest))
        name = model_files.save_model(self._home.models_folder, vector, sealed.digest, 0)
        optimiser = model_files.pack_optimiser(OptimiserState.zeros(len(vector)))
        checkpoint = Checkpoint(0, name, optimiser)
        self._store.start(study.key, checkpoint, self._clock.unix())
        return checkpoint

    def _round(self, study: StudyRow, sealed: SealedManifest, checkpoint: Checkpoint) -> Checkpoint:
        """The next round, which the round after the last one only evaluates; errors as `_until_committed`."""

        def attempt(number: int, cohort: tuple[str, ...]) -> tuple[Outcome, str, Checkpoint]:
            return self._attempt(study, sealed, checkpoint, number, cohort)

        return self._until_committed(study, sealed, checkpoint.version + 1, attempt)

    def _attempt(
        self, study: StudyRow, sealed: SealedManifest, checkpoint: Checkpoint, number: int, cohort: tuple[str, ...]
    ) -> tuple[Outcome, str, Checkpoint]:
        began, round_ = self._clock.monotonic(), checkpoint.version + 1
        base = model_files.load_model(self._home.models_folder, checkpoint.model)
        prepared = self._prepare(study, sealed, checkpoint, number, cohort, base)
        done = self._conduct(study, sealed, number, round_, checkpoint.model, prepared, began)
        if done.gathered is None or done.sites is None:
            return done.outcome, done.reason, checkpoint
        after, evaluation = self._commit(sealed, checkpoint, done.survivors, done.gathered, base)
        self._close(
            study, sealed, number, done.outcome, done.reason, done.sites, done.took, commit=after, evaluation=evaluation
        )
        return done.outcome, done.reason, after

    def _prepare(
        self,
        study: StudyRow,
        sealed: SealedManifest,
        checkpoint: Checkpoint,
        number: int,
        cohort: tuple[str, ...],
        base: Vector,
    ) -> Prepared | str:
        """Who is asked for what, or why too few sites can be. A batch is set up here if one is needed."""
        manifest, round_ = sealed.manifest, checkpoint.version + 1
        task: dict[str, object] = {
            "study": sealed.digest,
            "round": round_,
            "attempt": number,
            "base": checkpoint.model,
            "dimension": len(base),
            "train": round_ <= manifest.training.rounds,
            "evaluate": evaluates(manifest, round_),
        }
        if self._batches is not None:
            before = self._opened_before(study, checkpoint.model)
            slots = manifest.planned_attempts + 1 - self._store.attempts_made(study.key)
            return self._prepare_secure(sealed, self._batches, task, cohort, base, before, slots)
        federation = manifest.federation
        if len(cohort) < federation.quorum:
            return self._too_few(sealed, cohort)
        plain = PlainExchange(sealed, Work.model_validate(task), base, self._identity)
        return Prepared(plan(sealed, plain.request, cohort, plain_stages(federation.quorum, grace(sealed))), plain)

    def _prepare_secure(
        self,
        sealed: SealedManifest,
        batches: Batches,
        task: dict[str, object],
        cohort: tuple[str, ...],
        base: Vector,
        opened_before: tuple[str, ...],
        slots: int,
    ) -> Prepared | str:
        noised = sealed.manifest.privacy.mechanism != "none" and bool(task["train"])
        if opened_before and noised and task["evaluate"]:
            self._report("the model is not evaluated again: its counts may have been opened in an earlier attempt")
            task["evaluate"] = False
        ready = batches.ready(cohort, slots)
        if ready is None:
            return self._too_few(sealed, cohort)
        batch = ready.batch
        asked = tuple(site for site in batch.members if site in cohort)
        if opened_before and not noised:  # the sites open no other set's sum of un-noised numbers
            absent = [site for site in opened_before if site not in asked]
            if absent:
                return (
                    f"the sum of {', '.join(opened_before)} on this model may have been opened, and no other may be; "
                    f"not there: {', '.join(absent)}"
                )
            asked = opened_before
        place = {"batch": batch.batch, "setup": ready.setup.hex(), "slot": batches.take_slot()}
        secure = SecureExchange(sealed, ready, Masked.model_validate(task | place), base, self._identity)
        return Prepared(plan(sealed, secure.request, asked, secure_stages(sealed, ready)), secure)

    def _opened_before(self, study: StudyRow, base: str) -> tuple[str, ...]:
        """The set whose sum on this base model may have been opened in an earlier attempt; empty when none was."""
        known = [e.data for e in self._store.journal(study.key, "unmasking") if e.data["base"] == base]
        return tuple(known[0]["survivors"]) if known else ()

    def _commit(
        self,
        sealed: SealedManifest,
        checkpoint: Checkpoint,
        sites: tuple[str, ...],
        gathered: Gathered,
        base: Vector,
    ) -> tuple[Checkpoint, Evaluation | None]:
        evaluation = None
        if gathered.counts is not None:
            evaluation = evaluate(sealed.manifest, checkpoint.version, sites, gathered.counts)
        if gathered.delta is None:
            return checkpoint, evaluation
        state = model_files.unpack_optimiser(checkpoint.optimiser)
        vector, state = step(base, gathered.delta, state, sealed.manifest.training)
        version = checkpoint.version + 1
        name = model_files.save_model(self._home.models_folder, vector, sealed.digest, version)
        return Checkpoint(version, name, model_files.pack_optimiser(state)), evaluation
