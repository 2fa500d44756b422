"""A cohort whose secure sums are timed: every site and the coordinator in this process, messages passed as bytes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.secagg import (
    Batch,
    BatchSetup,
    Block,
    RingTerms,
    RoundContext,
    SiteParty,
    SlotSum,
    least_threshold,
)
from fedward.privacy.secagg.ring import encode, most_per_member
from fedward.privacy.signing import Identity

BOUND = 1.0
_BASE = bytes(32)


class Cohort:
    """Sites of one batch, set up in the constructor.

    Attributes:
        parties: the sites, in the batch's order.
        identities: their long-term keys.
        opened: the coordinator's side of the batch.
        set_up_s: seconds of the setup, all sites one after the other.
    """

    def __init__(self, members: int, slots: int) -> None:
        names = tuple(f"site-{place:03d}" for place in range(members))
        self.identities = [Identity.generate() for _ in names]
        keys = tuple(identity.public for identity in self.identities)
        began = time.perf_counter()
        self.batch = Batch("a" * 64, "b" * 32, names, keys, least_threshold(members), 2, slots)
        self.parties = [
            SiteParty(self.batch, name, identity, os.urandom)
            for name, identity in zip(names, self.identities, strict=True)
        ]
        setup = BatchSetup(self.batch)
        for party in self.parties:
            setup.advertised(party.site, party.advertise())
        adverts = setup.adverts()
        for party in self.parties:
            setup.shared(party.site, party.share(adverts))
        for party in self.parties:
            setup.opened(party.site, party.open(setup.delivery(party.site)))
        self.opened = setup.finish()
        self.set_up_s = time.perf_counter() - began
        self._slots = iter(range(slots))

    def terms(self, length: int) -> RingTerms:
        """A vector of one block in the ring of 32 bits."""
        return RingTerms(32, self.batch.size, (Block("update", length, most_per_member(32, self.batch.size)),))

    def context(self, terms: RingTerms) -> RoundContext:
        """The use of the next slot."""
        slot = next(self._slots)
        return RoundContext(self.opened.setup, slot, 1, slot + 1, _BASE, terms.digest)

    def exchange(self, length: int, dropped: int) -> Exchange:
        """What one slot's coordinator is sent when the first sites drop out; the sum is checked to be exact."""
        terms = self.terms(length)
        context = self.context(terms)
        for party in self.parties:
            party.take(context)
        survivors = self.parties[dropped:]
        vectors = [np.full(length, place, dtype=terms.dtype) for place in range(len(survivors))]
        total = SlotSum(self.opened, context, terms)
        masked = [(party.site, party.mask(vector, terms)) for party, vector in zip(survivors, vectors, strict=True)]
        for site, message in masked:
            total.masked(site, message)
        request = total.confirm_request()
        confirmed = [(party.site, party.confirm(request)) for party in survivors]
        for site, message in confirmed:
            total.confirmed(site, message)
        request = total.unmask_request()
        revealed = [(party.site, party.unmask(request)) for party in survivors]
        for site, message in revealed:
            total.revealed(site, message)
        (opened,) = total.open()
        if not (opened == sum(range(len(survivors)))).all():
            raise RuntimeError("the sum is not the sum of its vectors")
        return Exchange(self, terms, context, masked, confirmed, revealed)


@dataclass(frozen=True)
class Exchange:
    """Every message of one slot. A coordinator keeps no secret, so it can be timed over the same messages again."""

    cohort: Cohort
    terms: RingTerms
    context: RoundContext
    masked: list[tuple[str, bytes]]
    confirmed: list[tuple[str, bytes]]
    revealed: list[tuple[str, bytes]]

    def coordinator(self) -> SlotSum:
        """A coordinator that has heard nothing yet."""
        return SlotSum(self.cohort.opened, self.context, self.terms)

    def up_to_reveals(self) -> SlotSum:
        """A coordinator that waits for the reveals."""
        total = self.coordinator()
        for site, message in self.masked:
            total.masked(site, message)
        total.confirm_request()
        for site, message in self.confirmed:
            total.confirmed(site, message)
        total.unmask_request()
        return total

    def whole(self) -> None:
        """All that a coordinator does in a slot."""
        total = self.up_to_reveals()
        for site, message in self.revealed:
            total.revealed(site, message)
        total.open()


def encoded(values: NDArray[np.float32], terms: RingTerms) -> NDArray[np.uint32]:
    """An update as a site puts it into the ring, on the finest grid that the bound allows."""
    out = np.empty(values.size, dtype=np.uint32)
    most = terms.blocks[0].most
    encode(values, bound=BOUND, weight=1.0, grid=BOUND / most, most=most, out=out, entropy=os.urandom)
    return out


def update(length: int, seed: int = 0) -> NDArray[np.float32]:
    """A vector of reals whose norm is about half the bound."""
    draws = np.random.default_rng(seed).standard_normal(length, dtype=np.float32)
    draws *= np.float32(0.5 * BOUND / length**0.5)
    return draws


@cache
def hundred() -> Cohort:
    """The cohort of 100 sites and 64 slots that several parts share: its paths are as long as they get."""
    return Cohort(100, 64)
