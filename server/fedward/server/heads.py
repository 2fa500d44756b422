"""The newest ledger head of every site, kept in a second place, and an alarm when one goes backwards or forks.

`WitnessTransport` stands before the real transport: it reads the signed head of every reply. A site whose ledger is older than
the coordinator has seen, or another one, is not asked any more until a named person clears the alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from fedward.privacy.errors import FedwardError, IntegrityError
from fedward.privacy.signing import Identity
from fedward.server import alarms
from fedward.server.store import Store
from fedward.server.transport import Clock, Delivery, Transport
from fedward.study import messages
from fedward.study.witness import SignedHead, Witnessed, witness


def witnessed(store: Store, identity: Identity, sites: Iterable[str], at: int) -> dict[str, Witnessed | None]:
    """The newest head of each site, countersigned; None before it said one with the identity that it has now."""
    keys = {row.site: row.identity_key for row in store.sites()}
    heads = {site: store.head(site) for site in sites}
    return {
        site: None if head is None or not _said_with(head, keys.get(site, "")) else witness(head, identity, at)
        for site, head in heads.items()
    }


def _said_with(head: SignedHead, key: str) -> bool:
    try:
        head.check(head.site, key)
    except IntegrityError:
        return False
    return True


def note_head(store: Store, head: SignedHead, at: int) -> str:
    """Keep a site's head if it is newer.

    Returns:
        why it cannot be: it goes backwards or forks, and an alarm was raised; empty if all is well.
    """
    known = store.head(head.site)
    if known is None or head.sequence > known.sequence:
        store.set_head(head, at)
        return ""
    if (head.sequence, head.digest) == (known.sequence, known.digest):
        return ""
    if head.sequence < known.sequence:
        what = alarms.ledger_went_back(known.sequence, head.sequence)
    else:
        what = alarms.ledger_forked(head.sequence)
    store.raise_alarm(head.site, what, at)
    return what


class WitnessTransport:
    """A transport that holds every reply's head against what was seen before."""

    def __init__(self, transport: Transport, store: Store, clock: Clock) -> None:
        self._transport = transport
        self._store = store
        self._clock = clock
        self._keys: dict[str, str] = {}

    def online(self) -> frozenset[str]:
        return self._transport.online() - {alarm.site for alarm in self._store.alarms()}

    def send(self, requests: Mapping[str, bytes]) -> None:
        self._transport.send(requests)

    def poll(self) -> list[Delivery]:
        return [self._checked(delivery) for delivery in self._transport.poll()]

    def _checked(self, delivery: Delivery) -> Delivery:
        if delivery.payload is None:
            return delivery
        try:
            reply, _ = messages.open_reply(delivery.payload, self._key(delivery.site))
            head = getattr(reply, "head", None)
            if head is None:
                return delivery
            head.check(delivery.site, self._key(delivery.site))
            wrong = note_head(self._store, head, self._clock.unix())
        except FedwardError:
            return delivery  # whoever asked checks the reply in full, and says what is wrong with it
        return replace(delivery, payload=None, failure=f"ledger alarm: {wrong}") if wrong else delivery

    def _key(self, site: str) -> str:
        if site not in self._keys:
            self._keys = {row.site: row.identity_key for row in self._store.sites()}
        return self._keys.get(site, "")
