"""A study's run: from approvals to the last round, every step journalled before it is acted on.

What it shares with other kinds of study is in `runs`: killed at any instant, a new run continues from the last committed model, or,
where its file is damaged, from the newest that is not (`lasting`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedward.privacy.errors import InputError, IntegrityError
from fedward.server import models as model_files
from fedward.server.aggregation import OptimiserState, step
from fedward.server.batches import Batches
from fedward.server.evaluation import evaluate
from fedward.server.exchanges import Gathered, PlainExchange, SecureExchange
from fedward.server.gates import verdicts
from fedward.server.lasting import Good, Lasting
from fedward.server.readings import history
from fedward.server.records import JUDGED, Checkpoint, Evaluation, StudyRow
from fedward.server.round import Outcome, plain_stages
from fedward.server.runs import BaseRun, Prepared, grace, opened, plan, secure_stages
from fedward.study.evaluation import bare
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.messages import Masked, Work
from fedward.study.terms import evaluates
from fedward.study.vectors import Vector


def load_start(folder: Path, manifest: Manifest, start: str) -> Vector:
    """The committed model that a study starts from, shape (d,).

    Raises:
        InputError: `start-unusable`: it is not here, or another model's.
    """
    from fedward.study.models import build, dimension  # noqa: PLC0415 - torch takes seconds

    expected = dimension(build(manifest))
    try:
        found: Vector | None = model_files.load_model(folder, start)
    except IntegrityError:
        found = None
    if found is None or len(found) != expected:
        raise InputError(
            f"the study cannot start from the model {start[:12]}",
            expected=f"a committed model of this coordinator with {expected} parameters",
            got="none that can be read" if found is None else f"one with {len(found)}",
            remedy="make the draft with `fedward coordinator extend`, or leave out model.start",
            code="start-unusable",
        )
    return found


class StudyRun(BaseRun[SealedManifest]):
    """Runs a study that trains, to its last round."""

    def _sealed(self, study: StudyRow) -> SealedManifest:
        sealed = opened(study)
        if not isinstance(sealed, SealedManifest):
            raise InputError(f'study "{study.study_id}" does not train', got=sealed.kind)
        return sealed

    def _go(self, study: StudyRow, sealed: SealedManifest) -> str:
        lasting = Lasting(self._home, self._store, study, lambda: self._initial(sealed), self._clock.unix, self._report)
        total = sealed.manifest.training.rounds
        # No name for what a round returns: its optimiser's bytes would be kept through the next.
        good = lasting.newest(self._store.checkpoint(study.key) or self._begin(study, sealed))
        while good.checkpoint.version < total:
            good = lasting.newest(self._round(study, sealed, good))
        last = self._store.attempts(study.key)[-1]
        if (last.round, last.outcome) != (total + 1, Outcome.COMMITTED):  # else the run died right after evaluating
            self._round(study, sealed, good)
        self._judge(study)
        return f"{total} rounds committed"

    def _judge(self, study: StudyRow) -> None:
        """Hold the last model against the gates and write down what came of it: it becomes a release by a person's word alone."""
        found = verdicts(history(self._store, self._store.study(study.key), whole=False))
        held, missed = [one.gate for one in found if one.holds], [(one.gate, one.why) for one in found if not one.holds]
        self._store.note(study.key, JUDGED, {"held": held, "missed": missed}, self._clock.unix())
        self._home.record(
            "gates-judged",
            at=self._clock.unix(),
            study=study.digest,
            outcome="missed" if missed else "held",
            count=len(missed),
        )
        self._report("every gate holds" if not missed else f"gates missed: {'; '.join(why for _, why in missed)}")

    def _initial(self, sealed: SealedManifest) -> Vector:
        """The model before the first round, shape (d,): an earlier version's, or made from the seed; errors as `load_start`."""
        from fedward.study.models import build, to_vector  # noqa: PLC0415 - torch takes seconds, and only a first run needs it

        start = sealed.manifest.model.start
        if start is not None:
            return load_start(self._home.models_folder, sealed.manifest, start)
        return to_vector(build(sealed.manifest))

    def _begin(self, study: StudyRow, sealed: SealedManifest) -> Checkpoint:
        vector = self._initial(sealed)
        name = model_files.save_model(self._home.models_folder, vector, sealed.digest, 0)
        optimiser = model_files.pack_optimiser(OptimiserState.zeros(len(vector)))
        checkpoint = Checkpoint(0, name, optimiser)
        self._store.start(study.key, checkpoint, self._clock.unix())
        return checkpoint

    def _round(self, study: StudyRow, sealed: SealedManifest, good: Good) -> Checkpoint:
        """The next round, which the round after the last one only evaluates; errors as `_until_committed`."""

        def attempt(number: int, cohort: tuple[str, ...]) -> tuple[Outcome, str, Checkpoint]:
            return self._attempt(study, sealed, good, number, cohort)

        return self._until_committed(study, sealed, good.checkpoint.version + 1, attempt)

    def _attempt(
        self, study: StudyRow, sealed: SealedManifest, good: Good, number: int, cohort: tuple[str, ...]
    ) -> tuple[Outcome, str, Checkpoint]:
        began, checkpoint = self._clock.monotonic(), good.checkpoint
        round_ = checkpoint.version + 1
        prepared = self._prepare(study, sealed, checkpoint, number, cohort, good.vector)
        done = self._conduct(study, sealed, number, round_, checkpoint.model, prepared, began)
        if done.gathered is None or done.sites is None:
            return done.outcome, done.reason, checkpoint
        after, evaluation = self._commit(sealed, good, done.survivors, done.gathered)
        self._close(
            study, sealed, number, done.outcome, done.reason, done.sites, done.took,
            commit=after, evaluation=evaluation, updates=done.updates,
        )  # fmt: skip
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
            "evaluate": evaluates(manifest, round_) and not self._saves_counts(study, manifest, round_),
        }
        before = self._opened_before(study, checkpoint.model)
        if before and manifest.federation.cohort is not None and set(before) <= set(cohort):
            cohort = before  # what was opened of this model stays the only set that is
        elif task["train"]:
            cohort = self._drawn(study, sealed, number, cohort)
        if self._batches is not None:
            slots = manifest.planned_attempts + 1 - self._store.attempts_made(study.key)
            if manifest.federation.cohort is not None:
                slots = 1  # the next round asks others, in a batch of their own
            return self._prepare_secure(study, sealed, self._batches, task, cohort, base, before, slots)
        federation = manifest.federation
        if len(cohort) < federation.quorum:
            return self._too_few(sealed, cohort)
        pace = self._pace(study, sealed, cohort)
        plain = PlainExchange(sealed, Work.model_validate(task), base, self._identity)
        return Prepared(
            plan(sealed, plain.request, cohort, plain_stages(federation.quorum, grace(sealed)), pace), plain
        )

    def _saves_counts(self, study: StudyRow, manifest: Manifest, round_: int) -> bool:
        """Whether a round that is tried again leaves out its evaluation: spare noised ones are kept for the last model."""
        again = any(row.round == round_ for row in self._store.attempts(study.key))
        return again and manifest.counting.noised and round_ <= manifest.training.rounds

    def _prepare_secure(
        self,
        study: StudyRow,
        sealed: SealedManifest,
        batches: Batches,
        task: dict[str, object],
        cohort: tuple[str, ...],
        base: Vector,
        opened_before: tuple[str, ...],
        slots: int,
    ) -> Prepared | str:
        train = bool(task["train"])
        bare_update = bare(sealed, train=train, evaluate=False)
        bare_counts = bare(sealed, train=False, evaluate=bool(task["evaluate"]))
        if opened_before and train and bare_counts and not bare_update:
            self._report("the model is not evaluated again: its counts may have been opened in an earlier attempt")
            task["evaluate"] = bare_counts = False
        ready = batches.ready(cohort, slots)
        if ready is None:
            return self._too_few(sealed, cohort)
        batch = ready.batch
        asked = tuple(site for site in batch.members if site in cohort)
        if opened_before and (bare_update or bare_counts):  # the sites open no other set's sum of un-noised numbers
            absent = [site for site in opened_before if site not in asked]
            if absent:
                return (
                    f"the sum of {', '.join(opened_before)} on this model may have been opened, and no other may be; "
                    f"not there: {', '.join(absent)}"
                )
            asked = opened_before
        pace = self._pace(study, sealed, asked)
        place = {"batch": batch.batch, "setup": ready.setup.hex(), "slot": batches.take_slot()}
        secure = SecureExchange(sealed, ready, Masked.model_validate(task | place), base, self._identity)
        return Prepared(plan(sealed, secure.request, asked, secure_stages(sealed, ready), pace), secure)

    def _opened_before(self, study: StudyRow, base: str) -> tuple[str, ...]:
        """The set whose sum on this base model may have been opened in an earlier attempt; empty when none was."""
        known = [e.data for e in self._store.journal(study.key, "unmasking") if e.data["base"] == base]
        return tuple(known[0]["survivors"]) if known else ()

    def _commit(
        self,
        sealed: SealedManifest,
        good: Good,
        sites: tuple[str, ...],
        gathered: Gathered,
    ) -> tuple[Checkpoint, Evaluation | None]:
        checkpoint, evaluation = good.checkpoint, None
        if gathered.counts is not None:
            # Every site noised its own counts.
            deviation = sealed.count_deviation * len(sites) ** 0.5
            evaluation = evaluate(sealed.manifest, checkpoint.version, sites, gathered.counts, deviation)
        if gathered.delta is None:
            return replace(checkpoint, optimiser=model_files.pack_optimiser(good.state)), evaluation
        vector, state = step(good.vector, gathered.delta, good.state, sealed.manifest.training)
        version = checkpoint.version + 1
        name = model_files.save_model(self._home.models_folder, vector, sealed.digest, version)
        return Checkpoint(version, name, model_files.pack_optimiser(state)), evaluation
