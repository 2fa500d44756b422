"""A long study with everyday trouble: sites go offline and come back, nodes die, the coordinator is restarted.

FEDWARD_SOAKS says how often, each time with troubles of another seed; FEDWARD_SOAK_SEED is the first.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from federation import Federation, MemoryTransport, heart_manifest
from invariants import Released, check_study

from fedward.privacy.errors import RefusalError
from fedward.privacy.ledger import Budget
from fedward.server.store import Store
from fedward.server.transport import Delivery

pytestmark = [pytest.mark.prove, pytest.mark.timeout(3600)]

ROUNDS = 50
SPARE = 200
SOAKS = int(os.environ.get("FEDWARD_SOAKS", "3"))
FIRST_SEED = int(os.environ.get("FEDWARD_SOAK_SEED", "1"))


class TroubledTransport(MemoryTransport):
    """With every message a site may vanish for a while, and a node may die before or after it works; `less` often."""

    def __init__(self, federation: Federation, chance: random.Random, released: Released, less: int) -> None:
        super().__init__(federation.transport.nodes)
        self._federation, self._chance, self._released, self._less = federation, chance, released, less
        self._away: dict[str, float] = {}
        self.troubles: Counter[str] = Counter()

    def online(self) -> frozenset[str]:
        now = self._federation.clock.monotonic()
        self.offline.clear()
        self.offline.update(site for site, until in self._away.items() if until > now)
        return super().online()

    def send(self, requests: Mapping[str, bytes]) -> None:
        for site, payload in requests.items():
            self.online()
            self._one(site, payload)

    def _one(self, site: str, payload: bytes) -> None:
        drawn = self._chance.random() if self._chance.random() * self._less < 1 else 0.5
        if drawn < 0.05:
            self.troubles["offline"] += 1
            self._away[site] = self._federation.clock.monotonic() + self._chance.uniform(0.5, 30)
            self.online()
        if site in self.offline:
            self._arrived.append(Delivery(site, None, "node-offline"))
            return
        if drawn > 0.97:
            self.troubles["died before it read"] += 1
            self._federation.restart(site)
            self._arrived.append(Delivery(site, None, "message-lost"))
            return
        reply = self.nodes[site](payload)
        self._released.note(self._federation, site, payload, reply)
        if drawn > 0.94:
            self.troubles["died after it answered"] += 1
            self._federation.restart(site)
            self._arrived.append(Delivery(site, None, "reply-lost"))
            return
        self._arrived.append(Delivery(site, reply))


class Restarted(BaseException):
    """The coordinator's machine was rebooted: no code of the product catches it."""


def _rebooting(store: Store, chance: random.Random) -> None:
    """Every fortieth attempt or so, the coordinator dies as it would open the next one."""
    original = store.open_attempt

    def open_attempt(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        if chance.random() < 0.025:
            raise Restarted

    store.open_attempt = open_attempt  # type: ignore[method-assign]


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SOAKS))
def test_fifty_rounds_of_everyday_trouble(seed: int, secure: bool, tmp_path: Path) -> None:
    chance = random.Random(seed)  # noqa: S311 - only the moments of trouble
    federation, released = Federation(tmp_path, budget=Budget(20.0, 1e-3)), Released()
    federation.ready(heart_manifest(secure=secure, training={"rounds": ROUNDS}, privacy={"spare_attempts": SPARE}))
    transport = TroubledTransport(federation, chance, released, less=3 if secure else 1)  # for three times the messages
    launches = 0
    while federation.store.study(federation.key).state != "completed":
        launches += 1
        assert launches <= 60, federation.store.study(federation.key).reason
        transport._arrived.clear()
        federation.transport = transport
        _rebooting(federation.store, chance)
        try:
            federation.run()
        except RefusalError as error:
            if error.code not in {"quorum-missed", "not-approved"}:
                raise
            federation.clock.sleep(60)  # then a person launches it again
        except Restarted:
            pass
        federation.store.close()
        federation.store = federation.home.open_store()
    assert len(transport.troubles) == 3, "the soak met no trouble"
    check_study(federation, released, ROUNDS)
    for site in federation.sites.values():
        with site.ledger() as ledger:
            assert ledger.spent() <= 3.0
