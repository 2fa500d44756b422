"""A study's run: from approvals to the last round, every step journalled before it is acted on.

The run holds no state that the store has not: killed at any instant, a new run continues from the last committed model.
An attempt that was open when a run died is closed as `interrupted`; its number is never used again, so that no reply to
it can count and no site is asked to train the same attempt twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedward.privacy.canonical import digest
from fedward.privacy.errors import FedwardError, IntegrityError, RefusalError, UnreachableError
from fedward.privacy.signing import Identity
from fedward.server import models as model_files
from fedward.server.admission import Admitted, Limits, admit, reason_of
from fedward.server.aggregation import OptimiserState, step, weighted_mean
from fedward.server.evaluation import evaluate
from fedward.server.home import CoordinatorHome
from fedward.server.proposal import collect_standings
from fedward.server.records import Checkpoint, Evaluation, StudyRow
from fedward.server.round import (
    Ask,
    Command,
    Event,
    Opened,
    Outcome,
    Plan,
    Refused,
    Replied,
    Round,
    SiteState,
    Status,
    Stopped,
    Tick,
)
from fedward.server.round import (
    Unreachable as SiteUnreachable,
)
from fedward.server.store import Store
from fedward.server.transport import Clock, Delivery, Transport
from fedward.study import messages
from fedward.study.manifest import SealedManifest, parse_sealed, seconds
from fedward.study.messages import Work
from fedward.study.metrics import histogram_shape
from fedward.study.models import Vector, build, to_vector
from fedward.study.terms import evaluates, most_patients, most_update, training_cohort

POLL_S = 0.03
ASK_AGAIN_S = 1.0
STOP_CHECK_S = 0.5


class _StopWishedError(Exception):
    """A person wants the study stopped."""


@dataclass
class _Attempt:
    """An open attempt: the machine, the request and what was admitted so far."""

    machine: Round
    request: Work
    payload: bytes
    request_digest: str
    admitted: dict[str, Admitted]
    ask_again: dict[str, float]


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
            self._await_approvals(study, sealed)
            self._rounds(study, sealed)
        except _StopWishedError:
            self._store.set_state(key, "stopped", "a person stopped it", self._clock.unix())
            self._report("stopped, as wished")
        except UnreachableError:
            raise  # a full disk or a lost SuperLink says nothing about the study: a new run goes on when it can
        except FedwardError as error:
            self._recover(study, sealed, f"the run failed: {error.what}")
            self._store.set_state(key, "failed", error.text(), self._clock.unix())
            self._report(f"failed: {error.text()}")
            raise

    def _recover(self, study: StudyRow, sealed: SealedManifest, reason: str) -> None:
        cohorts = {
            entry.data["attempt"]: entry.data["cohort"]
            for entry in self._store.journal(study.key)
            if entry.kind == "opened"
        }
        for attempt in self._store.attempts(study.key):
            if attempt.outcome is None:
                # What a site answered died with the run: nothing of it counts, whatever the site was charged.
                sites = {site: SiteState(Status.DROPPED, reason) for site in cohorts[attempt.attempt]}
                self._close(study, sealed, attempt.attempt, Outcome.INTERRUPTED, reason, sites, None)
                self._report(f"attempt {attempt.attempt} of round {attempt.round} was interrupted; continuing")

    def _await_approvals(self, study: StudyRow, sealed: SealedManifest) -> None:
        need, limit = sealed.manifest.federation.quorum, seconds(sealed.manifest.federation.approval_deadline)
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
                raise _StopWishedError
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
            if everybody or (len(cohort) >= federation.quorum and now >= settle) or now >= deadline:
                return cohort
            if len(cohort) < federation.quorum and not said:
                said = True
                self._report(f"waiting for sites: {len(cohort)} of at least {federation.quorum} are online")
            self._pause(0.2, study)

    def _attempt(
        self, study: StudyRow, sealed: SealedManifest, checkpoint: Checkpoint, number: int, cohort: tuple[str, ...]
    ) -> tuple[Outcome, str, Checkpoint]:
        federation, began = sealed.manifest.federation, self._clock.monotonic()
        round_ = checkpoint.version + 1
        self._store.open_attempt(
            study.key, round_, number, checkpoint.model, self._asked(sealed, cohort), self._clock.unix()
        )
        if len(cohort) < federation.quorum:
            reason = f"{len(cohort)} of at least {federation.quorum} sites are online"
            return self._close(study, sealed, number, Outcome.QUORUM_MISSED, reason, {}, None), reason, checkpoint
        plan = Plan(
            round=round_,
            attempt=number,
            cohort=cohort,
            quorum=federation.quorum,
            deadline=seconds(federation.deadline),
            grace=seconds(federation.grace),
        )
        base = model_files.load_model(self._home.models_folder, checkpoint.model)
        attempt = self._open(sealed, plan, base, checkpoint.model)
        self._drive(study, sealed, attempt)
        took = self._clock.monotonic() - began
        end = attempt.machine.ended
        if end is None:
            raise IntegrityError("an attempt ended without an outcome")
        if end.outcome != Outcome.COMMITTED:
            self._close(study, sealed, number, end.outcome, end.reason, attempt.machine.sites, took)
            if end.outcome == Outcome.STOPPED:
                raise _StopWishedError
            return end.outcome, end.reason, checkpoint
        after, evaluation = self._commit(sealed, checkpoint, attempt, base)
        self._close(
            study,
            sealed,
            number,
            end.outcome,
            end.reason,
            attempt.machine.sites,
            took,
            commit=after,
            evaluation=evaluation,
        )
        return end.outcome, end.reason, after

    def _asked(self, sealed: SealedManifest, cohort: tuple[str, ...]) -> tuple[str, ...]:
        return cohort if len(cohort) >= sealed.manifest.federation.quorum else ()

    def _open(self, sealed: SealedManifest, plan: Plan, base: Vector, name: str) -> _Attempt:
        training = sealed.manifest.training
        request = Work(
            study=sealed.digest,
            round=plan.round,
            attempt=plan.attempt,
            base=name,
            dimension=len(base),
            train=plan.round <= training.rounds,
            evaluate=evaluates(sealed.manifest, plan.round),
        )
        payload = messages.pack(request, messages.floats_to_bytes(base), self._identity)
        return _Attempt(Round(plan), request, payload, digest(payload), {}, {})

    def _drive(self, study: StudyRow, sealed: SealedManifest, attempt: _Attempt) -> None:
        """Feed the machine until it ends: replies, failures, the clock, and a person's wish to stop."""
        for command in attempt.machine.handle(Opened(self._clock.monotonic())):
            if isinstance(command, Ask):
                self._send(attempt, command.sites)
        while attempt.machine.ended is None:
            for delivery in self._transport.poll():
                event = self._event(sealed, attempt, delivery)
                if event is not None:
                    self._act(attempt, attempt.machine.handle(event))
            now = self._clock.monotonic()
            # A site that was lost may have answered meanwhile: it must not be asked for what it has given.
            waiting = attempt.machine.in_status(Status.ASKED)
            due = [site for site, at in attempt.ask_again.items() if now >= at and site in waiting]
            if due:
                self._send(attempt, tuple(due))
            event = Stopped("a person stopped the study", now) if self._stop_wished(study) else Tick(now)
            self._act(attempt, attempt.machine.handle(event))
            if attempt.machine.ended is None:
                self._clock.sleep(POLL_S)

    def _act(self, attempt: _Attempt, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Ask):
                for site in command.sites:
                    attempt.ask_again[site] = self._clock.monotonic() + ASK_AGAIN_S

    def _send(self, attempt: _Attempt, sites: tuple[str, ...]) -> None:
        for site in sites:
            attempt.ask_again.pop(site, None)
        self._transport.send(dict.fromkeys(sites, attempt.payload))

    def _event(self, sealed: SealedManifest, attempt: _Attempt, delivery: Delivery) -> Event | None:
        now, site, machine = self._clock.monotonic(), delivery.site, attempt.machine
        known = machine.sites.get(site)
        if known is None or known.status != Status.ASKED:
            return None
        if delivery.payload is None:
            return SiteUnreachable(site, f"unreachable: {delivery.failure}", now)
        try:
            admitted = admit(
                delivery.payload,
                site=site,
                key=sealed.entry(site).identity_key,
                request=attempt.request,
                request_digest=attempt.request_digest,
                limits=Limits(
                    histogram_shape(sealed.manifest),
                    most_patients(sealed, site),
                    most_update(sealed, site, attempt.request.dimension),
                ),
            )
        except FedwardError as error:
            if error.code == "stale":
                self._report(f"ignored a late reply of {site}")
                return None
            return Refused(site, reason_of(error), now)
        attempt.admitted[site] = admitted
        return Replied(site, machine.stage, now)

    def _commit(
        self, sealed: SealedManifest, checkpoint: Checkpoint, attempt: _Attempt, base: Vector
    ) -> tuple[Checkpoint, Evaluation | None]:
        # Roster order, so that a rerun sums in the same order and gives equal bits.
        sites = attempt.machine.in_status(Status.CONTRIBUTED)
        evaluation = None
        if attempt.request.evaluate:
            counts = [attempt.admitted[site].counts for site in sites]
            evaluation = evaluate(sealed.manifest, checkpoint.version, sites, [c for c in counts if c is not None])
        if not attempt.request.train:
            return checkpoint, evaluation
        updates = [attempt.admitted[site].update for site in sites]
        delta = weighted_mean([u for u in updates if u is not None], [training_cohort(sealed, site) for site in sites])
        state = model_files.unpack_optimiser(checkpoint.optimiser)
        vector, state = step(base, delta, state, sealed.manifest.training)
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
        for entry in sealed.roster:
            everyone.setdefault(entry.site, SiteState(Status.ABSENT, "not reachable, or it rejected the study"))
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
            raise _StopWishedError
        self._clock.sleep(wait)


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
