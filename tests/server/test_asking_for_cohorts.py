"""How long the coordinator waits for what sites declare: longer for one that works on it than for one that cannot be reached."""

from __future__ import annotations

from collections.abc import Mapping

from federation import TestClock

from fedward.privacy.canonical import digest
from fedward.privacy.signing import Identity
from fedward.server.proposal import DECLARE_S, DECLARING_S, exchange
from fedward.server.transport import Delivery
from fedward.study import messages
from fedward.study.messages import Declared

SITE = Identity.generate()
KEYS = {"slow": SITE.public, "gone": SITE.public}


class Slow:
    """The site `slow` answers after so many seconds; the site `gone` cannot be reached."""

    def __init__(self, clock: TestClock, takes: float) -> None:
        self._clock, self._takes = clock, takes
        self._due: list[tuple[float, Delivery]] = []

    def online(self) -> frozenset[str]:
        return frozenset(KEYS)

    def send(self, requests: Mapping[str, bytes]) -> None:
        now = self._clock.monotonic()
        for site, request in requests.items():
            if site == "gone":
                self._due.append((now, Delivery(site, None, "node-offline")))
                continue
            reply = Declared(site=site, request=digest(request), study_id="a", patients=100, noise_multiplier=1.0)
            self._due.append((now + self._takes, Delivery(site, messages.pack(reply, b"", SITE))))

    def poll(self) -> list[Delivery]:
        now = self._clock.monotonic()
        arrived = [delivery for at, delivery in self._due if at <= now]
        self._due = [(at, delivery) for at, delivery in self._due if at > now]
        return arrived


def _ask(takes: float, *sites: str) -> tuple[dict[str, str], float]:
    """What became of each site, and the seconds that it took."""
    clock = TestClock()
    requests = {site: site.encode() for site in sites}
    answers = exchange(Slow(clock, takes), clock, requests, KEYS, DECLARE_S, DECLARING_S)
    return {site: answer.reason for site, answer in answers.items()}, clock.monotonic()


def test_a_site_that_computes_for_long_is_waited_for() -> None:
    reasons, took = _ask(DECLARE_S + 20, "slow")
    assert reasons == {"slow": ""}
    assert took < DECLARE_S + 21


def test_a_site_that_cannot_be_reached_is_not_waited_for_as_long() -> None:
    reasons, took = _ask(1, "slow", "gone")
    assert reasons == {"slow": "", "gone": "unreachable: node-offline"}
    assert took <= DECLARE_S + 2


def test_a_site_that_never_answers_ends_the_wait_too() -> None:
    reasons, took = _ask(2 * DECLARING_S, "slow")
    assert reasons == {"slow": "no answer in time"}
    assert DECLARING_S <= took < DECLARING_S + 1
