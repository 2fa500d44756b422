"""How requests reach sites and replies come back: injected, so that the coordinator's core never sees a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Delivery:
    """What became of a request: the reply's bytes, or why there is none."""

    site: str
    payload: bytes | None
    failure: str = ""


class Transport(Protocol):
    """Carries one request a site at a time. A newer request to a site replaces the one that it still owes."""

    def online(self) -> frozenset[str]:
        """Sites that the transport believes it can reach now."""

    def send(self, requests: Mapping[str, bytes]) -> None:
        """Start delivering, and return. Failures come by `poll`."""

    def poll(self) -> list[Delivery]:
        """What arrived since the last poll; never blocks long."""


class Clock(Protocol):
    """Time as the coordinator sees it, injected so that tests need not wait."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def unix(self) -> int:
        """Seconds since 1970."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
