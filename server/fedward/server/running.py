"""A study's run: from approvals to the last round, every step journalled before it is acted on.

The run holds no state that the store has not: killed at any instant, a new run continues from the last committed model.
An attempt that was open when a run died is closed as `interrupted`; its number is never used again, so that no reply to
it can count and no site is asked to train the same attempt twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedward.privacy.errors import FedwardError, IntegrityError, RefusalError, UnreachableError
from fedward.privacy.secagg.coordinator import OpenBatch
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.signing import Identity
from fedward.server import models as model_files
from fedward.server import transcripts
from fedward.server.aggregation import OptimiserState, step
from fedward.server.batches import Batches
from fedward.server.driving import Driver, StopWishedError
from fedward.server.evaluation import evaluate
from fedward.server.exchanges import Gathered, PlainExchange, SecureExchange
from fedward.server.home import CoordinatorHome
from fedward.server.notices import tell_ended
from fedward.server.proposal import collect_standings
from fedward.server.records import Checkpoint, Evaluation, StudyRow
from fedward.server.round import Outcome, Plan, Round, SiteState, Stage, Status, plain_stages
from fedward.server.store import Store
from fedward.server.transport import Clock, Transport
from fedward.study.manifest import SealedManifest, parse_sealed, seconds
from fedward.study.messages import Masked, Task, Work
from fedward.study.models import Vector, build, to_vector
from fedward.study.terms import evaluates

STOP_CHECK_S = 0.5
HELPER_GRACE_S = 2.0
"""How long a stage of helpers waits for the others once enough have answered: the sum lacks nothing without them."""


@dataclass(frozen=True)
class _Prepared:
    plan: Plan
    exchange: PlainExchange | SecureExchange


class StudyRun:
    """Runs one study over a transport. `report` is told, in words, what happens."""

    def __init__(
        self,
        home: CoordinatorHome,
        store: Store,
        transport: Transport,
        clock: Clock,
        report: Callable[[str], None],
    ) -> None:
        self._home = home
        self._store = store
        self._transport = transport
        self._clock = clock
        self._report = report
        self._identity: Identity = home.identity()
        self._next_stop_check = 0.0
        self._batches: Batches | None = None

    def run(self, key: int) -> None:
        """Continue the study until it ends. Its end, with the reason, stands in the store.

        Raises:
            UnreachableError: the SuperLink or the store cannot be used now; the study stays as it is.
            FedwardError: something is wrong that a person must see; the study is then `failed`.
        """
        study = self._store.study(key)
        sealed = _sealed(study)
        try:
            self._recover(study, sealed, "the coordinator stopped during this attempt")
            self._store.set_state(key, "running", "", self._clock.unix())
            self._tell_ended()
            self._await_approvals(study, sealed)
            self._batches = self._new_batches(study, sealed)
            self._rounds(study, sealed)
            self._tell_ended()
        except StopWishedError:
            self._store.set_state(key, "stopped", "a person stopped it", self._clock.unix())
            self._report("stopped, as wished")
            self._tell_ended()
        except UnreachableError:
            raise  # a full disk or a lost SuperLink says nothing about the study: a new run goes on when it can
        except FedwardError as error:
            self._recover(study, sealed, f"the run failed: {error.what}")
            self._store.set_state(key, "failed", error.text(), self._clock.unix())
            self._report(f"failed: {error.text()}")
            raise

    def _tell_ended(self) -> None:
        tell_ended(self._store, self._transport, self._clock, self._identity, self._report)

    def _recover(self, study: StudyRow, sealed: SealedManifest, reason: str) -> None:
        cohorts = {entry.data["attempt"]: entry.data["cohort"] for entry in self._store.journal(study.key, "opened")}
        for attempt in self._store.attempts(study.key):
            if attempt.outcome is None:
                # What a site answered died with the run: nothing of it counts, whatever the site was charged.
                sites = {site: SiteState(Status.DROPPED, reason) for site in cohorts[attempt.attempt]}
                self._close(study, sealed, attempt.attempt, Outcome.INTERRUPTED, reason, sites, None)
                self._report(f"attempt {attempt.attempt} of round {attempt.round} was interrupted; continuing")

    def _await_approvals(self, study: StudyRow, sealed: SealedManifest) -> None:
        need, limit = sealed.manifest.least_sites, seconds(sealed.manifest.federation.approval_deadline)
        deadline, said = self._clock.monotonic() + limit, ""
        while True:
            standings = collect_standings(self._store, self._transport, self._clock, study, self._identity)
            approved = sorted(site for site, state in standings.items() if state == "approved")
            rejected = sorted(site for site, state in standings.items() if state == "rejected")
            if len(approved) >= need:
                self._report(f"approved by {', '.join(approved)}")
                return
            if len(sealed.roster) - len(rejected) < need:
                raise RefusalError(
                    "too few sites can still approve the study",
                    expected=f"at least {need}",
                    got=f"rejected by {', '.join(rejected)}",
                    code="not-approved",
                )
            if self._clock.monotonic() >= deadline:
                raise RefusalError(
                    "too few sites approved in time",
                    expected=f"{need} within {sealed.manifest.federation.approval_deadline}",
                    got=f"{len(approved)}: {', '.join(approved) or 'nobody'}",
                    remedy="ask the others, then launch again",
                    code="not-approved",
                )
            text = f"waiting for approvals: {len(approved)} of {need} ({', '.join(approved) or 'nobody yet'})"
            if text != said:
                said = text
                self._report(text)
            self._pause(1.0, study)

    def _rounds(self, study: StudyRow, sealed: SealedManifest) -> None:
        self._check_time(sealed)
        checkpoint = self._store.checkpoint(study.key) or self._begin(study, sealed)
        total = sealed.manifest.training.rounds
        while checkpoint.version < total:
            checkpoint = self._round(study, sealed, checkpoint)
        last = self._store.attempts(study.key)[-1]
        if (last.round, last.outcome) != (total + 1, Outcome.COMMITTED):  # else the run died right after evaluating
            self._round(study, sealed, checkpoint)
        self._store.set_state(study.key, "completed", f"{total} rounds committed", self._clock.unix())
        self._report("completed")

    def _check_time(self, sealed: SealedManifest) -> None:
        if self._clock.unix() >= sealed.expires_at:
            raise RefusalError("the study has expired", remedy="propose it again", code="expired")

    def _begin(self, study: StudyRow, sealed: SealedManifest) -> Checkpoint:
        vector = to_vector(build(sealed.manifest))
        name = model_files.save_model(self._home.models_folder, vector, sealed.digest, 0)
        optimiser = model_files.pack_optimiser(OptimiserState.zeros(len(vector)))
        checkpoint = Checkpoint(0, name, optimiser)
        self._store.start(study.key, checkpoint, self._clock.unix())
        return checkpoint

    def _round(self, study: StudyRow, sealed: SealedManifest, checkpoint: Checkpoint) -> Checkpoint:
        """Attempt the next round until one is committed. The round after the last one only evaluates.

        Raises:
            RefusalError: no attempt reached the quorum, or the planned attempts are used up.
        """
        federation, reason = sealed.manifest.federation, ""
        for _ in range(federation.max_attempts):
            if self._store.study(study.key).wish == "stop":  # rounds may be shorter than the time between stop checks
                raise StopWishedError
            number = self._store.attempts_made(study.key) + 1
            trained = checkpoint.version < sealed.manifest.training.rounds
            asked = self._store.attempts_asked(study.key, sealed.manifest.training.rounds)
            if trained and asked >= sealed.manifest.planned_attempts:
                raise RefusalError(
                    "the planned attempts are used up",
                    expected=f"{sealed.manifest.planned_attempts} with the spare ones",
                    remedy="propose the study again with more spare_attempts",
                    code="budget-exhausted",
                )
            cohort = self._cohort(study, sealed)
            outcome, reason, after = self._attempt(study, sealed, checkpoint, number, cohort)
            if outcome == Outcome.COMMITTED:
                return after
        raise RefusalError(
            f"round {checkpoint.version + 1} found no quorum in {federation.max_attempts} attempts",
            got=reason,
            remedy="see `fedward coordinator status`, help the sites that are missing, then launch again: it continues here",
            code="quorum-missed",
        )

    def _cohort(self, study: StudyRow, sealed: SealedManifest) -> tuple[str, ...]:
        """Reachable sites of the roster, once they make a quorum or the deadline passes. Who rejected is not asked."""
        federation = sealed.manifest.federation
        rejected = {row.site for row in self._store.standings(study.key) if row.state == "rejected"}
        deadline = self._clock.monotonic() + seconds(federation.deadline)
        settle, said = self._clock.monotonic() + min(3.0, seconds(federation.grace)), False
        while True:
            online = self._transport.online() - rejected
            cohort = tuple(entry.site for entry in sealed.roster if entry.site in online)
            everybody = len(cohort) == len(sealed.roster) - len(rejected)
            now = self._clock.monotonic()
            if everybody or (len(cohort) >= sealed.manifest.least_sites and now >= settle) or now >= deadline:
                return cohort
            if len(cohort) < sealed.manifest.least_sites and not said:
                said = True
                self._report(f"waiting for sites: {len(cohort)} of at least {sealed.manifest.least_sites} are online")
            self._pause(0.2, study)

    def _attempt(
        self, study: StudyRow, sealed: SealedManifest, checkpoint: Checkpoint, number: int, cohort: tuple[str, ...]
    ) -> tuple[Outcome, str, Checkpoint]:
        began, round_ = self._clock.monotonic(), checkpoint.version + 1
        base = model_files.load_model(self._home.models_folder, checkpoint.model)
        prepared = self._prepare(study, sealed, checkpoint, number, cohort, base)
        asked = prepared.plan.cohort if isinstance(prepared, _Prepared) else ()
        self._store.open_attempt(study.key, round_, number, checkpoint.model, asked, self._clock.unix())
        if not isinstance(prepared, _Prepared):
            return self._close(study, sealed, number, Outcome.QUORUM_MISSED, prepared, {}, None), prepared, checkpoint
        machine, exchange = Round(prepared.plan), prepared.exchange
        end = self._driver(study).drive(
            machine, exchange, lambda stage: self._journal_stage(study, number, exchange, stage)
        )
        took = self._clock.monotonic() - began
        if isinstance(exchange, SecureExchange) and self._batches is not None:
            self._batches.lost(exchange.left)
        if end.outcome != Outcome.COMMITTED:
            self._close(study, sealed, number, end.outcome, end.reason, machine.sites, took)
            if end.outcome == Outcome.STOPPED:
                raise StopWishedError
            return end.outcome, end.reason, checkpoint
        try:
            gathered = exchange.gather(machine.survivors)
        except ProtocolError as error:
            return self._refuse_sum(study, sealed, number, error, machine.sites, took), error.text(), checkpoint
        after, evaluation = self._commit(sealed, checkpoint, machine.survivors, gathered, base)
        self._close(
            study, sealed, number, end.outcome, end.reason, machine.sites, took, commit=after, evaluation=evaluation
        )
        return end.outcome, end.reason, after

    def _prepare(
        self,
        study: StudyRow,
        sealed: SealedManifest,
        checkpoint: Checkpoint,
        number: int,
        cohort: tuple[str, ...],
        base: Vector,
    ) -> _Prepared | str:
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
        return _Prepared(_plan(sealed, plain.request, cohort, plain_stages(federation.quorum, _grace(sealed))), plain)

    def _prepare_secure(
        self,
        sealed: SealedManifest,
        batches: Batches,
        task: dict[str, object],
        cohort: tuple[str, ...],
        base: Vector,
        opened_before: tuple[str, ...],
        slots: int,
    ) -> _Prepared | str:
        noised = sealed.manifest.privacy.mechanism != "none" and bool(task["train"])
        if opened_before and noised and task["evaluate"]:
            self._report("the model is not evaluated again: its counts may have been opened in an earlier attempt")
            task["evaluate"] = False
        opened = batches.ready(cohort, slots)
        if opened is None:
            return self._too_few(sealed, cohort)
        batch = opened.batch
        asked = tuple(site for site in batch.members if site in cohort)
        if opened_before and not noised:  # the sites open no other set's sum of un-noised numbers
            absent = [site for site in opened_before if site not in asked]
            if absent:
                return (
                    f"the sum of {', '.join(opened_before)} on this model may have been opened, and no other may be; "
                    f"not there: {', '.join(absent)}"
                )
            asked = opened_before
        place = {"batch": batch.batch, "setup": opened.setup.hex(), "slot": batches.take_slot()}
        secure = SecureExchange(sealed, opened, Masked.model_validate(task | place), base, self._identity)
        helper_grace = min(_grace(sealed), HELPER_GRACE_S)
        stages = (
            Stage("masked", batch.floor, _grace(sealed)),
            Stage("confirm", batch.floor, helper_grace),
            Stage("unmask", batch.threshold, helper_grace),
        )
        return _Prepared(_plan(sealed, secure.request, asked, stages), secure)

    def _new_batches(self, study: StudyRow, sealed: SealedManifest) -> Batches | None:
        if not sealed.manifest.privacy.secure_aggregation:
            return None

        def journal(opened: OpenBatch) -> None:
            self._store.note(study.key, "batch", transcripts.batch_entry(opened), self._clock.unix())

        return Batches(sealed, self._identity, self._driver(study), self._clock, self._report, journal)

    def _driver(self, study: StudyRow) -> Driver:
        return Driver(self._transport, self._clock, self._report, lambda: self._stop_wished(study))

    def _journal_stage(
        self, study: StudyRow, number: int, exchange: PlainExchange | SecureExchange, stage: str
    ) -> None:
        """Before shares are asked for: from then on the sum of these sites may be known, whatever becomes of the attempt."""
        if stage == "unmask" and isinstance(exchange, SecureExchange):
            data = transcripts.sum_entry(number, exchange.context, exchange.survivors, exchange.confirmations)
            self._store.note(study.key, "unmasking", data, self._clock.unix())

    def _opened_before(self, study: StudyRow, base: str) -> tuple[str, ...]:
        """The set whose sum on this base model may have been opened in an earlier attempt; empty when none was."""
        known = [e.data for e in self._store.journal(study.key, "unmasking") if e.data["base"] == base]
        return tuple(known[0]["survivors"]) if known else ()

    def _too_few(self, sealed: SealedManifest, cohort: tuple[str, ...]) -> str:
        left = {} if self._batches is None else self._batches.left_out
        reasons = "".join(f"; {site} {state.reason}" for site, state in left.items())
        return f"{len(cohort)} of at least {sealed.manifest.least_sites} sites are online{reasons}"

    def _refuse_sum(
        self,
        study: StudyRow,
        sealed: SealedManifest,
        number: int,
        error: ProtocolError,
        sites: dict[str, SiteState],
        took: float,
    ) -> Outcome:
        if self._batches is not None and error.blamed in sites:
            self._batches.distrust(error.blamed, error.what)
        return self._close(study, sealed, number, Outcome.SUM_REFUSED, error.text(), sites, took)

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

    def _close(
        self,
        study: StudyRow,
        sealed: SealedManifest,
        number: int,
        outcome: Outcome,
        reason: str,
        sites: dict[str, SiteState],
        took: float | None,
        *,
        commit: Checkpoint | None = None,
        evaluation: Evaluation | None = None,
    ) -> Outcome:
        everyone = dict(sites)
        left_out = {} if self._batches is None else self._batches.left_out
        for entry in sealed.roster:
            elsewhere = SiteState(Status.ABSENT, "not reachable, or it rejected the study")
            everyone.setdefault(entry.site, left_out.get(entry.site, elsewhere))
        self._store.close_attempt(
            study.key, number, outcome, reason, everyone, took, self._clock.unix(), commit=commit, evaluation=evaluation
        )
        self._report(f"attempt {number}: {outcome} ({reason})")
        return outcome

    def _stop_wished(self, study: StudyRow) -> bool:
        now = self._clock.monotonic()
        if now < self._next_stop_check:
            return False
        self._next_stop_check = now + STOP_CHECK_S
        return self._store.study(study.key).wish == "stop"

    def _pause(self, wait: float, study: StudyRow) -> None:
        if self._stop_wished(study):
            raise StopWishedError
        self._clock.sleep(wait)


def _grace(sealed: SealedManifest) -> float:
    return seconds(sealed.manifest.federation.grace)


def _plan(sealed: SealedManifest, task: Task, cohort: tuple[str, ...], stages: tuple[Stage, ...]) -> Plan:
    deadline = seconds(sealed.manifest.federation.deadline)
    return Plan(round=task.round, attempt=task.attempt, cohort=cohort, stages=stages, deadline=deadline)


def _sealed(study: StudyRow) -> SealedManifest:
    if study.sealed is None:
        raise RefusalError(
            f'study "{study.study_id}" has not been proposed', remedy="run `fedward coordinator propose` first"
        )
    sealed = parse_sealed(study.sealed)
    if sealed.digest != study.digest:
        raise IntegrityError(
            "the stored study is not the one that its digest names", remedy="restore the store from a backup"
        )
    return sealed
