"""What every run of a study does, whichever its kind: approvals, cohorts, attempts, and the record of each.

The run holds no state that the store has not: killed at any instant, a new run continues from what was committed last. An
attempt that was open when a run died is closed as `interrupted`; its number is never used again, so that no reply to it can
count and no site is asked the same attempt twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fedward.privacy.errors import FedwardError, IntegrityError, RefusalError, UnreachableError
from fedward.privacy.secagg.coordinator import OpenBatch
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.signing import Identity
from fedward.server import transcripts
from fedward.server.batches import Batches
from fedward.server.driving import Driver, StopWishedError
from fedward.server.exchanges import Gathered, PlainExchange, SecureExchange
from fedward.server.home import CoordinatorHome
from fedward.server.notices import tell_ended
from fedward.server.proposal import collect_standings
from fedward.server.records import Checkpoint, Evaluation, StudyRow
from fedward.server.round import Outcome, Plan, Round, SiteState, Stage, Status
from fedward.server.store import Store
from fedward.server.transport import Clock, Transport
from fedward.study.kinds import AnySealed, parse_sealed
from fedward.study.manifest import BaseSealed, seconds
from fedward.study.messages import Task

STOP_CHECK_S = 0.5
HELPER_GRACE_S = 2.0
"""How long a stage of helpers waits for the others once enough have answered: the sum lacks nothing without them."""

S = TypeVar("S", bound=AnySealed)
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """An attempt that can be opened."""

    plan: Plan
    exchange: PlainExchange | SecureExchange


@dataclass(frozen=True)
class Conducted:
    """How an attempt ended. With a sum, `gathered` is it and nothing is recorded yet; without one, all is."""

    outcome: Outcome
    reason: str
    gathered: Gathered | None = None
    survivors: tuple[str, ...] = ()
    sites: dict[str, SiteState] | None = None
    took: float | None = None


class BaseRun(ABC, Generic[S]):
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

    @abstractmethod
    def _sealed(self, study: StudyRow) -> S:
        """The study as it was sealed; see `opened`."""

    @abstractmethod
    def _go(self, study: StudyRow, sealed: S) -> None:
        """All rounds that are still to do, once enough sites have approved."""

    def run(self, key: int) -> None:
        """Continue the study until it ends. Its end, with the reason, stands in the store.

        Raises:
            UnreachableError: the SuperLink or the store cannot be used now; the study stays as it is.
            FedwardError: something is wrong that a person must see; the study is then `failed`.
        """
        study = self._store.study(key)
        sealed = self._sealed(study)
        try:
            self._recover(study, sealed, "the coordinator stopped during this attempt")
            self._store.set_state(key, "running", "", self._clock.unix())
            self._tell_ended()
            self._await_approvals(study, sealed)
            self._batches = self._new_batches(study, sealed)
            self._check_time(sealed)
            self._go(study, sealed)
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

    def _until_committed(
        self,
        study: StudyRow,
        sealed: S,
        round_: int,
        attempt: Callable[[int, tuple[str, ...]], tuple[Outcome, str, T]],
    ) -> T:
        """Attempt a round until one attempt is committed; what that one gave.

        Args:
            attempt: makes the attempt of this number with this cohort, and records its end.

        Raises:
            RefusalError: no attempt reached the quorum, or the planned attempts are used up.
        """
        federation, charged, reason = sealed.manifest.federation, sealed.manifest.planned_rounds, ""
        for _ in range(federation.max_attempts):
            if self._store.study(study.key).wish == "stop":  # rounds may be shorter than the time between stop checks
                raise StopWishedError
            number = self._store.attempts_made(study.key) + 1
            asked = self._store.attempts_asked(study.key, charged)
            if round_ <= charged and asked >= sealed.manifest.planned_attempts:
                raise RefusalError(
                    "the planned attempts are used up",
                    expected=f"{sealed.manifest.planned_attempts} with the spare ones",
                    remedy="propose the study again with more spare_attempts",
                    code="budget-exhausted",
                )
            outcome, reason, after = attempt(number, self._cohort(study, sealed))
            if outcome == Outcome.COMMITTED:
                return after
        raise RefusalError(
            f"round {round_} found no quorum in {federation.max_attempts} attempts",
            got=reason,
            remedy="see `fedward coordinator status`, help the sites that are missing, then launch again: it continues here",
            code="quorum-missed",
        )

    def _conduct(
        self, study: StudyRow, sealed: S, number: int, round_: int, base: str, prepared: Prepared | str, began: float
    ) -> Conducted:
        """Open an attempt and drive it. Without a sum its end is recorded here; `StopWishedError` if a person stopped it."""
        asked = prepared.plan.cohort if isinstance(prepared, Prepared) else ()
        self._store.open_attempt(study.key, round_, number, base, asked, self._clock.unix())
        if not isinstance(prepared, Prepared):
            return Conducted(self._close(study, sealed, number, Outcome.QUORUM_MISSED, prepared, {}, None), prepared)
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
            return Conducted(end.outcome, end.reason)
        try:
            gathered = exchange.gather(machine.survivors)
        except ProtocolError as error:
            return Conducted(self._refuse_sum(study, sealed, number, error, machine.sites, took), error.text())
        return Conducted(end.outcome, end.reason, gathered, machine.survivors, machine.sites, took)

    def _recover(self, study: StudyRow, sealed: S, reason: str) -> None:
        cohorts = {entry.data["attempt"]: entry.data["cohort"] for entry in self._store.journal(study.key, "opened")}
        for attempt in self._store.attempts(study.key):
            if attempt.outcome is None:
                # What a site answered died with the run: nothing of it counts, whatever the site was charged.
                sites = {site: SiteState(Status.DROPPED, reason) for site in cohorts[attempt.attempt]}
                self._close(study, sealed, attempt.attempt, Outcome.INTERRUPTED, reason, sites, None)
                self._report(f"attempt {attempt.attempt} of round {attempt.round} was interrupted; continuing")

    def _await_approvals(self, study: StudyRow, sealed: S) -> None:
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

    def _check_time(self, sealed: S) -> None:
        if self._clock.unix() >= sealed.expires_at:
            raise RefusalError("the study has expired", remedy="propose it again", code="expired")

    def _cohort(self, study: StudyRow, sealed: S) -> tuple[str, ...]:
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

    def _new_batches(self, study: StudyRow, sealed: S) -> Batches | None:
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

    def _too_few(self, sealed: S, cohort: tuple[str, ...]) -> str:
        left = {} if self._batches is None else self._batches.left_out
        reasons = "".join(f"; {site} {state.reason}" for site, state in left.items())
        return f"{len(cohort)} of at least {sealed.manifest.least_sites} sites are online{reasons}"

    def _refuse_sum(
        self,
        study: StudyRow,
        sealed: S,
        number: int,
        error: ProtocolError,
        sites: dict[str, SiteState],
        took: float,
    ) -> Outcome:
        if self._batches is not None and error.blamed in sites:
            self._batches.distrust(error.blamed, error.what)
        return self._close(study, sealed, number, Outcome.SUM_REFUSED, error.text(), sites, took)

    def _close(
        self,
        study: StudyRow,
        sealed: S,
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


def opened(study: StudyRow) -> AnySealed:
    """The sealed manifest of a stored study.

    Raises:
        RefusalError: it has not been proposed.
        IntegrityError: it is not the one that its digest names.
    """
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


def grace(sealed: BaseSealed) -> float:
    """Seconds that the others have once the quorum has answered."""
    return seconds(sealed.manifest.federation.grace)


def plan(sealed: BaseSealed, task: Task, cohort: tuple[str, ...], stages: tuple[Stage, ...]) -> Plan:
    """An attempt's plan: its stages over a cohort, each within the study's deadline."""
    deadline = seconds(sealed.manifest.federation.deadline)
    return Plan(round=task.round, attempt=task.attempt, cohort=cohort, stages=stages, deadline=deadline)


def secure_stages(sealed: BaseSealed, opened_batch: OpenBatch) -> tuple[Stage, ...]:
    """The stages of a secure round in a batch."""
    batch, helper_grace = opened_batch.batch, min(grace(sealed), HELPER_GRACE_S)
    return (
        Stage("masked", batch.floor, grace(sealed)),
        Stage("confirm", batch.floor, helper_grace),
        Stage("unmask", batch.threshold, helper_grace),
    )
