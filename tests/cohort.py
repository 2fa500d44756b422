"""Secure aggregation in one process: cohorts with all their keys at hand, and one slot's whole exchange.

A cohort is set up once for its arguments and copied for each test, so that every test has every slot to itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from fedward.privacy.secagg import (
    Batch,
    BatchSetup,
    Block,
    OpenBatch,
    RingTerms,
    RoundContext,
    SiteParty,
    SlotSum,
    least_threshold,
)
from fedward.privacy.secagg.commitments import Tree
from fedward.privacy.secagg.ring import most_per_member
from fedward.privacy.secagg.shamir import Entropy
from fedward.privacy.signing import Identity

STUDY, NAME, BASE, TERMS = "5" * 64, "b" * 32, b"\x01" * 32, b"\x02" * 32
NOBODY: frozenset[int] = frozenset()


def scripted(seed: str) -> Entropy:
    """Entropy that is the same in every run: SHAKE-256 of a seed and a counter of the calls."""
    calls = iter(range(2**32))

    def give(size: int) -> bytes:
        return hashlib.shake_256(seed.encode() + b"\x00" + struct.pack(">I", next(calls))).digest(size)

    return give


def drawing(seed: object) -> random.Random:
    """Numbers that are the same in every run."""
    return random.Random(str(seed))  # noqa: S311 - a seed names a case


@cache
def identity(site: str) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(site.encode()).digest()))


def batch_of(
    n: int, *, t: int | None = None, quorum: int = 1, slots: int = 4, study: str = STUDY, name: str = NAME
) -> Batch:
    members = tuple(f"s{index:03d}" for index in range(n))
    keys = tuple(identity(member).public for member in members)
    return Batch(study, name, members, keys, t or least_threshold(n), quorum, slots)


def sites_of(batch: Batch, seed: str = "") -> list[SiteParty]:
    return [SiteParty(batch, site, identity(site), scripted(f"{seed}/{site}")) for site in batch.members]


def small_terms(n: int, length: int = 5, bits: int = 32) -> RingTerms:
    return RingTerms(bits, n, (Block("update", length, most_per_member(bits, n)),))


@dataclass
class Cohort:
    """A batch that is open at every member."""

    batch: Batch
    parties: list[SiteParty]
    opened: OpenBatch

    def context(
        self, terms: RingTerms, slot: int = 0, round_: int = 1, attempt: int | None = None, base: bytes = BASE
    ) -> RoundContext:
        return RoundContext(self.opened.setup, slot, round_, attempt or slot + 1, base, terms.digest)

    def identity(self, index: int) -> Identity:
        return identity(self.batch.members[index])

    def taken(self, context: RoundContext, members: Collection[int] | None = None) -> None:
        for index, party in enumerate(self.parties):
            if members is None or index in members:
                party.take(context)

    def masked_in(
        self, context: RoundContext, terms: RingTerms, members: Collection[int] | None = None
    ) -> tuple[SlotSum, list[bytes]]:
        """The slot's sum, closed, after the members have sent vectors of zeros; and their messages."""
        slot = SlotSum(self.opened, context, terms)
        messages = []
        for index in range(self.batch.size) if members is None else sorted(members):
            party = self.parties[index]
            party.take(context)
            messages.append(party.mask(np.zeros(terms.length, dtype=terms.dtype), terms))
            slot.masked(party.site, messages[-1])
        slot.confirm_request()
        return slot, messages

    def confirmed_in(
        self, context: RoundContext, terms: RingTerms, members: Collection[int] | None = None
    ) -> tuple[SlotSum, bytes]:
        """The slot's sum after every survivor has confirmed, and the request to unmask."""
        slot, _ = self.masked_in(context, terms, members)
        request = slot.confirm_request()
        for site in slot.survivors:
            slot.confirmed(site, self.parties[self.batch.index(site)].confirm(request))
        return slot, slot.unmask_request()


def set_up(batch: Batch, parties: list[SiteParty]) -> OpenBatch:
    setup = BatchSetup(batch)
    for party in parties:
        setup.advertised(party.site, party.advertise())
    adverts = setup.adverts()
    for party in parties:
        setup.shared(party.site, party.share(adverts))
    for party in parties:
        setup.opened(party.site, party.open(setup.delivery(party.site)))
    return setup.finish()


@cache
def _ready(n: int, t: int | None, quorum: int, slots: int) -> Cohort:
    batch = batch_of(n, t=t, quorum=quorum, slots=slots)
    parties = sites_of(batch)
    return Cohort(batch, parties, set_up(batch, parties))


def cohort_of(n: int, *, t: int | None = None, quorum: int = 1, slots: int = 4) -> Cohort:
    """An open batch of n sites whose slots are all unused."""
    ready = _ready(n, t, quorum, slots)
    return Cohort(ready.batch, [twin(party) for party in ready.parties], ready.opened)


@dataclass(frozen=True)
class Dropouts:
    """Members that fall silent: before they send a vector, before they confirm, before they reveal."""

    before_masked: frozenset[int] = NOBODY
    before_confirm: frozenset[int] = NOBODY
    before_unmask: frozenset[int] = NOBODY


def securely_summed(
    cohort: Cohort,
    context: RoundContext,
    terms: RingTerms,
    vectors: Sequence[NDArray[np.int64]],
    dropouts: Dropouts = Dropouts(),
) -> list[NDArray[np.int64]]:
    """One slot's exchange; the sum as the coordinator opens it."""
    slot = SlotSum(cohort.opened, context, terms)
    silent = set(dropouts.before_masked)
    for index, party in enumerate(cohort.parties):
        if index in silent:
            continue
        party.take(context)
        slot.masked(party.site, party.mask(vectors[index].astype(terms.dtype), terms))
    for stage, late, answer, take in (
        (slot.confirm_request, dropouts.before_confirm, SiteParty.confirm, slot.confirmed),
        (slot.unmask_request, dropouts.before_unmask, SiteParty.unmask, slot.revealed),
    ):
        request = stage()
        silent |= late
        for index, party in enumerate(cohort.parties):
            if index not in silent:
                take(party.site, answer(party, request))
    return slot.open()


# What a machine holds, so that a test can say that nothing changed, and go back.


def state(value: Any) -> Any:  # noqa: PLR0911 - one a type
    """All that a machine remembers, as values that can be compared."""
    if isinstance(value, SiteParty | BatchSetup | SlotSum):
        return tuple((name, state(held)) for name, held in sorted(vars(value).items()) if name != "_entropy")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(state(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, X25519PrivateKey):
        return value.private_bytes_raw()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tobytes()
    if isinstance(value, Mapping):
        return tuple(sorted((key, state(held)) for key, held in value.items()))
    if isinstance(value, list | tuple):
        return tuple(state(held) for held in value)
    if isinstance(value, set):
        return frozenset(value)
    return value


def twin(machine: Any) -> Any:
    """A machine that holds the same and shares nothing that changes."""
    other = object.__new__(type(machine))
    vars(other).update({name: _copied(value) for name, value in vars(machine).items()})
    return other


def way_back(machine: Any) -> Callable[[], None]:
    """Takes a machine back to where it is now."""
    kept = twin(machine)

    def go_back() -> None:
        vars(machine).clear()
        vars(machine).update(vars(twin(kept)))

    return go_back


def _copied(value: Any) -> Any:
    if isinstance(value, bytearray | np.ndarray | set):
        return value.copy()
    if isinstance(value, list):
        return [_copied(held) for held in value]
    if isinstance(value, dict):
        return {key: _copied(held) for key, held in value.items()}
    frozen = isinstance(value, Batch | RoundContext | RingTerms | Tree)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not frozen:
        return dataclasses.replace(
            value, **{field.name: _copied(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    return value
