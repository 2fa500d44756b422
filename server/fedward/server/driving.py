"""Feeds a round machine until it ends: what arrives, what is lost, the clock, and a person's wish to stop.

What the stages say is an `Exchange`'s business; when they open and close is the machine's. The driver only carries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fedward.privacy.errors import FedwardError
from fedward.server.admission import reason_of
from fedward.server.round import (
    Ask,
    Command,
    Consult,
    Decided,
    End,
    Event,
    Opened,
    Refused,
    Replied,
    Round,
    Stopped,
    Tick,
)
from fedward.server.round import Unreachable as SiteUnreachable
from fedward.server.transport import Clock, Delivery, Transport

POLL_S = 0.03
ASK_AGAIN_S = 1.0


class HaltWishedError(Exception):
    """A person wants the study stopped or paused."""


class Exchange(Protocol):
    """What the stages of an attempt send and admit."""

    def requests(self, stage: str, sites: Sequence[str]) -> Mapping[str, bytes]:
        """The request of a stage for each of these sites; the same bytes whenever a site is asked again."""

    def admit(self, site: str, stage: str, data: bytes) -> None:
        """Check a reply in full, and keep it.

        Raises:
            FedwardError: it is refused, by name; with the code `stale` it answers an earlier request, and is ignored.
        """


class Consultation(Protocol):
    """A person who can say whether to wait for stragglers."""

    def ask(self, sites: tuple[str, ...]) -> None:
        """Ask it, durably."""

    def answer(self) -> str | None:
        """The newest answer, "wait" or "carry-on"; None if there is none, or nothing new."""


class Driver:
    """Drives one machine at a time over a transport. `cut_off` says why an attempt is to end now; nothing while it is not."""

    def __init__(
        self, transport: Transport, clock: Clock, report: Callable[[str], None], cut_off: Callable[[], str]
    ) -> None:
        self.transport = transport
        self.clock = clock
        self.report = report
        self.cut_off = cut_off

    def drive(
        self,
        machine: Round,
        exchange: Exchange,
        before: Callable[[str], None] = lambda _stage: None,
        consultation: Consultation | None = None,
    ) -> End:
        """Drive a machine that has not been opened to its end.

        Args:
            machine: the attempt.
            exchange: what its stages say.
            before: called with a stage's name before anything of it is sent.
            consultation: where the machine's plan is to ask about stragglers, whom it asks.
        """
        return _Drive(self, machine, exchange, before, consultation).run()


class _Drive:
    """One machine's way to its end."""

    def __init__(
        self,
        driver: Driver,
        machine: Round,
        exchange: Exchange,
        before: Callable[[str], None],
        consultation: Consultation | None,
    ) -> None:
        self._driver = driver
        self._machine = machine
        self._exchange = exchange
        self._before = before
        self._consultation = consultation
        self._again: dict[str, float] = {}

    def run(self) -> End:
        machine, clock = self._machine, self._driver.clock
        self._act(machine.handle(Opened(clock.monotonic())))
        while machine.ended is None:
            for delivery in self._driver.transport.poll():
                event = self._event(delivery)
                if event is not None:
                    self._act(machine.handle(event))
            self._hear_answer()
            now = clock.monotonic()
            # A site that was lost may have answered meanwhile: it must not be asked for what it has given.
            self._send([site for site, at in self._again.items() if now >= at and site in machine.waiting()])
            why = self._driver.cut_off()
            self._act(machine.handle(Stopped(why, now) if why else Tick(now)))
            if machine.ended is None:
                clock.sleep(POLL_S)
        return machine.ended

    def _hear_answer(self) -> None:
        answer = None if self._consultation is None else self._consultation.answer()
        if answer is not None:
            self._act(self._machine.handle(Decided(answer == "wait", self._driver.clock.monotonic())))

    def _act(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Consult) and self._consultation is not None:
                self._consultation.ask(command.sites)
            if not isinstance(command, Ask):
                continue
            if command.again:
                self._again.update(dict.fromkeys(command.sites, self._driver.clock.monotonic() + ASK_AGAIN_S))
            else:
                self._again.clear()
                self._before(command.stage)
                self._send(command.sites)

    def _send(self, sites: Sequence[str]) -> None:
        for site in sites:
            self._again.pop(site, None)
        if sites:
            self._driver.transport.send(self._exchange.requests(self._machine.stage, sites))

    def _event(self, delivery: Delivery) -> Event | None:
        now, site, stage = self._driver.clock.monotonic(), delivery.site, self._machine.stage
        if site not in self._machine.waiting():
            return None
        if delivery.payload is None:
            return SiteUnreachable(site, f"unreachable: {delivery.failure}", now)
        try:
            self._exchange.admit(site, stage, delivery.payload)
        except FedwardError as error:
            if error.code == "stale":
                self._driver.report(f"ignored a late reply of {site}")
                return None
            return Refused(site, reason_of(error), now)
        return Replied(site, stage, now)
