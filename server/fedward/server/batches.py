"""Which batch of secure aggregation a round uses, and when a new one is set up.

Rules
    1. A batch is kept while it has a slot left, at least max(t, quorum) of its members are online and hold their place in it,
       and no site outside it could join. An absent member is a dropout; it returns at the next slot.
    2. Else a new batch is set up with the sites that are online and trusted. A setup needs every member: sites that refuse or
       do not answer are left out, by name, and the setup is tried with the others while they are enough.
    3. A site that was left out is asked again after a minute, and a site that dealt false shares not in this run.
    4. A batch lives in this process alone: a new run sets up a new one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from fedward.privacy.errors import IntegrityError
from fedward.privacy.secagg.contexts import MAX_SLOTS, Batch, least_threshold
from fedward.privacy.secagg.coordinator import OpenBatch
from fedward.privacy.signing import Identity
from fedward.server.driving import Driver, HaltWishedError
from fedward.server.exchanges import SetupExchange
from fedward.server.round import Outcome, Plan, Round, SiteState, Stage, Status
from fedward.server.transport import Clock
from fedward.study.kinds import AnySealed
from fedward.study.manifest import seconds
from fedward.study.secure import batch_of

SETUP_S = 60.0
"""The most that one stage of a setup may take."""
LEFT_OUT_S = 60.0
SPARE_SLOTS = 4
RESTARTS = 3
"""Setups that may be lost to sites that restart during them, before an attempt is given up."""


class Batches:
    """The batches of one study's run.

    Args:
        journal: called with what a batch is, once it is open and before it is used.
    """

    def __init__(
        self,
        sealed: AnySealed,
        identity: Identity,
        driver: Driver,
        clock: Clock,
        report: Callable[[str], None],
        journal: Callable[[OpenBatch], None],
    ) -> None:
        self._sealed = sealed
        self._identity = identity
        self._driver = driver
        self._clock = clock
        self._report = report
        self._journal = journal
        self._open: OpenBatch | None = None
        self._next_slot = 0
        self._lost: set[str] = set()
        self._left_out: dict[str, tuple[SiteState, float]] = {}
        self._distrusted: dict[str, SiteState] = {}

    @property
    def left_out(self) -> dict[str, SiteState]:
        """Sites that are in no batch, and why: `refused` who refused the setup, `absent` the others."""
        return {site: state for site, (state, _) in self._left_out.items()} | self._distrusted

    def lost(self, sites: set[str]) -> None:
        """These members have no place in the batch any more."""
        self._lost |= sites

    def distrust(self, site: str, reason: str) -> None:
        """Never again in this run: the site's shares were false."""
        self._distrusted[site] = SiteState(Status.ABSENT, reason)
        self._open = None

    def ready(self, online: tuple[str, ...], slots: int) -> OpenBatch | None:
        """A batch with a free slot that enough of these sites can serve; None when there are too few.

        Args:
            online: sites of the roster that can be reached, in roster order.
            slots: sums that the study may still need; a new batch has some more.
        """
        now = self._clock.monotonic()
        self._left_out = {site: (why, at) for site, (why, at) in self._left_out.items() if now < at + LEFT_OUT_S}
        able = tuple(site for site in online if site not in self._left_out and site not in self._distrusted)
        if self._open is not None and self._fits(self._open.batch, able):
            return self._open
        self._open, self._lost, self._next_slot = None, set(), 0
        for _ in range(len(able) + RESTARTS):
            if len(able) < self.least:
                break
            self._open = self._set_up(able, min(MAX_SLOTS, max(slots, 0) + SPARE_SLOTS))
            if self._open is not None:
                return self._open
            able = tuple(site for site in able if site not in self._left_out)
        return None

    @property
    def least(self) -> int:
        """The fewest sites of a batch."""
        return self._sealed.manifest.least_sites

    def take_slot(self) -> int:
        """The next slot of the open batch. It is consumed, whatever becomes of it."""
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        return slot

    def _fits(self, batch: Batch, able: tuple[str, ...]) -> bool:
        holding = [site for site in batch.members if site in able and site not in self._lost]
        joining = [site for site in able if site not in batch.members or site in self._lost]
        return self._next_slot < batch.slots and len(holding) >= batch.floor and not joining

    def _set_up(self, cohort: tuple[str, ...], slots: int) -> OpenBatch | None:
        """Set up a batch; None when a site failed, which is then left out unless it merely restarted.

        Raises:
            HaltWishedError: a person stopped or paused the study meanwhile.
        """
        began = self._clock.monotonic()
        threshold = least_threshold(len(cohort), self._sealed.manifest.privacy.colluders)
        batch = batch_of(self._sealed, secrets.token_hex(16), cohort, threshold, slots)
        exchange = SetupExchange(self._sealed, batch, self._identity)
        limit = min(SETUP_S, seconds(self._sealed.manifest.federation.deadline))
        machine = Round(
            Plan(
                round=0,
                attempt=0,
                cohort=cohort,
                stages=tuple(Stage(name, len(cohort), limit) for name in exchange.STAGES),
                deadline=limit,
                counted=len(exchange.STAGES) - 1,
            )
        )
        end = self._driver.drive(machine, exchange)
        if end.outcome == Outcome.STOPPED:
            raise HaltWishedError
        if end.outcome == Outcome.COMMITTED:
            opened = exchange.finish()
            self._journal(opened)
            self._report(_described(batch, self._clock.monotonic() - began))
            return opened
        # Who refused ended the setup for the others, whose answers were not waited for.
        refused = _reasons(machine, Status.REFUSED)
        failed = refused or _reasons(machine, Status.DROPPED)
        if not failed:
            raise IntegrityError("a setup failed and named nobody", got=end.reason)
        if failed.keys() <= exchange.left:
            self._report(f"the setup is tried again: {', '.join(failed)} restarted meanwhile")
            return None
        at = self._clock.monotonic()
        status = Status.REFUSED if refused else Status.ABSENT
        for site, reason in failed.items():
            self._left_out[site] = (SiteState(status, f"left out of the batch: {reason}"), at)
        self._report("setup without " + "; ".join(f"{site} ({reason})" for site, reason in failed.items()))
        return None


def _reasons(machine: Round, status: Status) -> dict[str, str]:
    return {site: state.reason for site, state in machine.sites.items() if state.status == status}


def _described(batch: Batch, took: float) -> str:
    spare = f"{batch.tolerated} may drop out" if batch.tolerated else "none may drop out"
    return (
        f"secure sums of {batch.size} sites set up in {took:.1f} s for {batch.slots} rounds: {batch.floor} must answer, {spare}; "
        f"nobody sees one site's update unless the coordinator and more than {batch.colluders} sites collude"
    )
