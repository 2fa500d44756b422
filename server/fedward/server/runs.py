"""What every run of a study does, whichever its kind: approvals, cohorts, attempts, and the record of each.

The run holds no state that the store has not: killed at any instant, a new run continues from what was committed last. An
attempt that was open when a run died is closed as `interrupted`; its number is never used again, so that no reply to it can
count and no site is asked the same attempt twice.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fedward.privacy.errors import FedwardError, IntegrityError, RefusalError, UnreachableError
from fedward.privacy.secagg.coordinator import OpenBatch
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.signing import Identity
from fedward.server import transcripts
from fedward.server.batches import Batches
from fedward.server.causes import NOT_ASKED, SPENT, of_reason
from fedward.server.checkpoints import exchange_checkpoints
from fedward.server.cohorts import NOT_DRAWN, draw
from fedward.server.consulting import Consultation
from fedward.server.driving import Driver, HaltWishedError
from fedward.server.exchanges import Gathered, PlainExchange, SecureExchange
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import Began, Completed, Failed, Halted, Order, after, order
from fedward.server.notices import tell_ended
from fedward.server.pacing import WINDOW, Pace, pace
from fedward.server.proposal import collect_standings
from fedward.server.records import Checkpoint, Evaluation, StudyRow
from fedward.server.round import Outcome, Plan, Round, SiteState, Stage, Status
from fedward.server.store import Store
from fedward.server.transport import Clock, Transport
from fedward.study.kinds import AnySealed, parse_sealed
from fedward.study.manifest import BaseSealed, seconds
from fedward.study.messages import Task

SAID_NO = frozenset({"refused", "revoked", "withdrawn"})
"""Standings of sites that people there took out of a study."""
ORDER_CHECK_S = 0.5
CUT_OFF = {"stop": "a person stopped the study", "pause-now": "a person paused the study"}
"""By what a run is ordered, why the attempt under way ends at once."""
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
    """How an attempt ended. With a sum, `gathered` is it and nothing is recorded yet; without one, all is. `updates` is by survivor
    the digest of what is in the sum."""

    outcome: Outcome
    reason: str
    gathered: Gathered | None = None
    survivors: tuple[str, ...] = ()
    sites: dict[str, SiteState] | None = None
    took: float | None = None
    updates: Mapping[str, str] = field(default_factory=dict)


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
        self._next_order_check = 0.0
        self._ordered: Order = "go"
        self._run = 0
        self._batches: Batches | None = None
        self._online: tuple[str, ...] = ()
        self._not_drawn: frozenset[str] = frozenset()

    @abstractmethod
    def _sealed(self, study: StudyRow) -> S:
        """The study as it was sealed; see `opened`."""

    @abstractmethod
    def _go(self, study: StudyRow, sealed: S) -> str:
        """All rounds that are still to do, once enough sites have approved; what is done then, in words."""

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
            self._heed(study)
            self._store.happened(key, Began(), self._clock.unix())
            begun = (entry.data["state"] for entry in self._store.journal(key, "state"))
            self._run = sum(state == "running" for state in begun)
            self._tell_ended()
            self._compare_logs()
            self._await_approvals(study, sealed)
            self._batches = self._new_batches(study, sealed)
            self._check_time(sealed)
            self._end(study, Completed(self._go(study, sealed)))
            self._tell_ended()
            self._compare_logs()
        except HaltWishedError:
            self._end(study, Halted())
            self._tell_ended()
            self._compare_logs()
        except UnreachableError:
            raise  # a full disk or a lost SuperLink says nothing about the study: a new run goes on when it can
        except FedwardError as error:
            self._recover(study, sealed, f"the run failed: {error.what}")
            self._end(study, Failed(error.text(), error.code))
            self._tell_ended()
            raise

    def _end(self, study: StudyRow, event: Completed | Halted | Failed) -> None:
        now, code = self._clock.unix(), event.code if isinstance(event, Failed) else None
        state = after(self._store.study(study.key).life, event).state
        # Before it is so: a crash in between is told twice, and never not at all.
        self._home.record("run-ended", at=now, study=study.digest, state=state, code=code)
        self._store.happened(study.key, event, now)
        how = f": {event.reason}" if isinstance(event, Failed) else ", as wished" if isinstance(event, Halted) else ""
        self._report(f"{state}{how}")

    def _tell_ended(self) -> None:
        tell_ended(self._store, self._transport, self._clock, self._identity, self._report)

    def _compare_logs(self) -> None:
        exchange_checkpoints(self._home, self._store, self._transport, self._clock, self._report)

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
            RefusalError: no attempt reached the quorum, the planned attempts are used up, or too few sites have budget left.
        """
        federation, charged, reason = sealed.manifest.federation, sealed.manifest.planned_rounds, ""
        for _ in range(federation.max_attempts):
            self._next_order_check = 0.0  # rounds may be shorter than the time between checks
            self._heed(study)
            number = self._store.next_attempt(study.key)
            asked = self._store.attempts_asked(study.key, charged)
            if round_ <= charged and asked >= sealed.manifest.planned_attempts:
                raise RefusalError(
                    "the planned attempts are used up",
                    expected=f"{sealed.manifest.planned_attempts} with the spare ones",
                    got=self._used_up(study, asked),
                    remedy=f"make a version with more for the hospitals to approve: fedward coordinator extend {study.study_id}",
                    code="plan-used-up",
                )
            self._online, self._not_drawn = self._cohort(study, sealed), frozenset()
            outcome, reason, committed = attempt(number, self._online)
            if outcome == Outcome.COMMITTED:
                return committed
            self._require_budget(study, sealed, number)
        raise RefusalError(
            f"round {round_} found no quorum in {federation.max_attempts} attempts",
            got=reason,
            remedy="see `fedward coordinator explain`, help the sites that are missing, then launch again: it continues here",
            code="quorum-missed",
        )

    def _require_budget(self, study: StudyRow, sealed: S, number: int) -> None:
        """That the sites which an attempt found without budget leave enough others: trying again would cost those for nothing."""
        spent = {
            row.site: of_reason(row.reason).name
            for row in self._store.statuses(study.key)
            if row.attempt == number and of_reason(row.reason).name in SPENT
        }
        gone = {row.site for row in self._store.standings(study.key) if row.state in SAID_NO}
        least, left = sealed.manifest.least_sites, len(sealed.roster) - len(gone | spent.keys())
        if spent and left < least:
            raise RefusalError(
                "too few hospitals have privacy budget left for the study",
                expected=f"at least {least}",
                got=f"{left}; " + "; ".join(f"{site}: {code}" for site, code in spent.items()),
                remedy=f"`fedward coordinator explain {study.study_id}` says who can do what",
                code="sites-exhausted",
            )

    def _conduct(
        self, study: StudyRow, sealed: S, number: int, round_: int, base: str, prepared: Prepared | str, began: float
    ) -> Conducted:
        """Open an attempt and drive it. Without a sum its end is recorded here; `HaltWishedError` if a person ended it."""
        asked = prepared.plan.cohort if isinstance(prepared, Prepared) else ()
        self._store.open_attempt(study.key, round_, number, base, asked, self._clock.unix(), run=self._run)
        if not isinstance(prepared, Prepared):
            return Conducted(self._close(study, sealed, number, Outcome.QUORUM_MISSED, prepared, {}, None), prepared)
        machine, exchange = Round(prepared.plan), prepared.exchange
        asks = Consultation(self._store, study, prepared.plan, self._clock, self._report)
        before = lambda stage: self._journal_stage(study, number, exchange, stage)  # noqa: E731
        end = self._driver(study).drive(machine, exchange, before, asks)
        took = self._clock.monotonic() - began
        if isinstance(exchange, SecureExchange) and self._batches is not None:
            self._batches.lost(exchange.left)
        if end.outcome != Outcome.COMMITTED:
            self._close(study, sealed, number, end.outcome, end.reason, machine.sites, took)
            if end.outcome == Outcome.STOPPED:
                raise HaltWishedError
            return Conducted(end.outcome, end.reason)
        try:
            gathered = exchange.gather(machine.survivors)
        except ProtocolError as error:
            return Conducted(self._refuse_sum(study, sealed, number, error, machine.sites, took), error.text())
        updates = {site: exchange.received[site] for site in machine.survivors}
        return Conducted(end.outcome, end.reason, gathered, machine.survivors, machine.sites, took, updates)

    def _recover(self, study: StudyRow, sealed: S, reason: str) -> None:
        cohorts = {entry.data["attempt"]: entry.data["cohort"] for entry in self._store.journal(study.key, "opened")}
        for attempt in self._store.attempts(study.key):
            if attempt.outcome is None:
                # What a site answered died with the run: nothing of it counts, whatever the site was charged.
                sites = {site: SiteState(Status.DROPPED, reason) for site in cohorts[attempt.attempt]}
                self._close(study, sealed, attempt.attempt, Outcome.INTERRUPTED, reason, sites, None)
                self._report(f"attempt {attempt.attempt} of round {attempt.round} was interrupted; continuing")

    def _used_up(self, study: StudyRow, asked: int) -> str:
        lost = sum(row.outcome == Outcome.LOST for row in self._store.attempts(study.key))
        return f"{asked}, {lost} of them in rounds whose models were lost" if lost else str(asked)

    def _await_approvals(self, study: StudyRow, sealed: S) -> None:
        need, limit = sealed.manifest.least_sites, seconds(sealed.manifest.federation.approval_deadline)
        deadline, said = self._clock.monotonic() + limit, ""
        while True:
            self._check_time(sealed)
            standings = collect_standings(self._store, self._transport, self._clock, study, self._identity)
            approved = sorted(site for site, state in standings.items() if state == "approved")
            gone = sorted(site for site, state in standings.items() if state in SAID_NO)
            if len(approved) >= need:
                self._report(f"approved by {', '.join(approved)}")
                return
            if len(sealed.roster) - len(gone) < need:
                raise RefusalError(
                    "too few sites can still approve the study",
                    expected=f"at least {need}",
                    got="; ".join(f"{standings[site]} by {site}" for site in gone),
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
        """Reachable sites of the roster, once they make a quorum or the deadline passes. Who said no is not asked."""
        federation = sealed.manifest.federation
        gone = {row.site for row in self._store.standings(study.key) if row.state in SAID_NO}
        deadline = self._clock.monotonic() + seconds(federation.deadline)
        settle, said = self._clock.monotonic() + min(3.0, seconds(federation.grace)), False
        while True:
            online = self._transport.online() - gone
            cohort = tuple(entry.site for entry in sealed.roster if entry.site in online)
            everybody = len(cohort) == len(sealed.roster) - len(gone)
            now = self._clock.monotonic()
            if everybody or (len(cohort) >= sealed.manifest.least_sites and now >= settle) or now >= deadline:
                return cohort
            if len(cohort) < sealed.manifest.least_sites and not said:
                said = True
                self._report(f"waiting for sites: {len(cohort)} of at least {sealed.manifest.least_sites} are online")
            self._pause(0.2, study)

    def _drawn(self, study: StudyRow, sealed: S, number: int, there: tuple[str, ...]) -> tuple[str, ...]:
        """Whom the attempt asks of those that are there; the lots stand in the journal before anybody is asked."""
        size = sealed.manifest.federation.cohort
        if size is None or len(there) <= size:
            return there
        seed = secrets.token_hex(16)
        drawn = draw(there, self._store.times_asked(study.key), size, seed)
        data = {"attempt": number, "seed": seed, "there": list(there), "cohort": list(drawn)}
        self._store.note(study.key, "drawn", data, self._clock.unix())
        self._not_drawn = frozenset(there) - frozenset(drawn)
        self._report(f"attempt {number} asks {', '.join(drawn)}")
        return drawn

    def _new_batches(self, study: StudyRow, sealed: S) -> Batches | None:
        if not sealed.manifest.privacy.secure_aggregation:
            return None

        def journal(opened: OpenBatch) -> None:
            self._store.note(study.key, "batch", transcripts.batch_entry(opened), self._clock.unix())

        return Batches(sealed, self._identity, self._driver(study), self._clock, self._report, journal)

    def _pace(self, study: StudyRow, sealed: S, cohort: tuple[str, ...]) -> Pace:
        """How long the next attempt waits for whom: from what the record tells of the sites' speed."""
        newest = self._store.attempts_made(study.key)
        return pace(self._store.statuses(study.key, newest - WINDOW + 1), cohort, sealed.manifest.federation)

    def _driver(self, study: StudyRow) -> Driver:
        return Driver(self._transport, self._clock, self._report, lambda: CUT_OFF.get(self._order(study), ""))

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
        updates: Mapping[str, str] | None = None,
    ) -> Outcome:
        everyone = dict(sites)
        left_out = {} if self._batches is None else self._batches.left_out
        for entry in sealed.roster:
            there = entry.site in self._online  # it must not look as if it were to blame
            unasked = NOT_DRAWN if entry.site in self._not_drawn else NOT_ASKED
            elsewhere = SiteState(Status.ABSENT, unasked if there else "not reachable, or it refused the study")
            everyone.setdefault(entry.site, left_out.get(entry.site, elsewhere))
        # Before it is committed: a crash in between is told twice, as this and as interrupted, and never not at all.
        opened_ = [row for row in self._store.attempts(study.key) if row.attempt == number]
        self._home.record(
            "round-outcome", at=self._clock.unix(), study=sealed.digest, attempt=number, outcome=str(outcome),
            round=opened_[0].round, size=sum(state.status == Status.CONTRIBUTED for state in everyone.values()),
            model=None if commit is None else commit.model,
        )  # fmt: skip
        self._store.close_attempt(
            study.key, number, outcome, reason, everyone, took, self._clock.unix(),
            commit=commit, evaluation=evaluation, updates=updates,
        )  # fmt: skip
        self._report(f"attempt {number}: {outcome} ({reason})")
        return outcome

    def _order(self, study: StudyRow) -> Order:
        """What a person wishes, as it stood at most a moment ago."""
        now = self._clock.monotonic()
        if now >= self._next_order_check:
            self._next_order_check, self._ordered = now + ORDER_CHECK_S, order(self._store.study(study.key).life)
        return self._ordered

    def _heed(self, study: StudyRow) -> None:
        """Where no attempt is under way."""
        if self._order(study) != "go":
            raise HaltWishedError

    def _pause(self, wait: float, study: StudyRow) -> None:
        self._heed(study)
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


def plan(sealed: BaseSealed, task: Task, cohort: tuple[str, ...], stages: tuple[Stage, ...], pace: Pace) -> Plan:
    """An attempt's plan: its stages over a cohort, each within the study's deadline."""
    return Plan(
        round=task.round,
        attempt=task.attempt,
        cohort=cohort,
        stages=stages,
        deadline=seconds(sealed.manifest.federation.deadline),
        stragglers=pace.stragglers,
        usual=pace.usual,
        enough=pace.enough,
    )


def secure_stages(sealed: BaseSealed, opened_batch: OpenBatch) -> tuple[Stage, ...]:
    """The stages of a secure round in a batch."""
    batch, helper_grace = opened_batch.batch, min(grace(sealed), HELPER_GRACE_S)
    return (
        Stage("masked", batch.floor, grace(sealed)),
        Stage("confirm", batch.floor, helper_grace),
        Stage("unmask", batch.threshold, helper_grace),
    )
