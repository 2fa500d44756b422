"""Hospitals that answer by a script instead of training: what they send follows from the base model alone, and costs nothing.

They outlive the coordinator in no memory: what each was asked to spend stands in one file, a line a charge, as in a ledger.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import shake_256
from pathlib import Path

import numpy as np
from federation import Federation, MemoryTransport

from fedward.privacy.canonical import digest
from fedward.privacy.secagg.contexts import RoundContext
from fedward.privacy.secagg.ring import repeatable
from fedward.privacy.secagg.site import SiteParty
from fedward.privacy.signing import Identity
from fedward.study import messages
from fedward.study.manifest import SealedManifest
from fedward.study.messages import (
    Advertise,
    Ended,
    Masked,
    Offer,
    Refusal,
    Reply,
    Result,
    Secured,
    Standing,
    Step,
    Work,
)
from fedward.study.metrics import Counts, histogram_shape
from fedward.study.secure import batch_of
from fedward.study.sums import sum_terms
from fedward.study.vectors import Vector


def update_of(site: str, base: str, dimension: int) -> Vector:
    """What a hospital learns from a base model, shape (d,): small numbers that anyone can work out."""
    drawn = np.frombuffer(shake_256(f"{site} {base}".encode()).digest(2 * dimension), dtype="<i2")
    return (drawn / 2.0**20).astype(np.float32)


def counts_of(site: str, base: str, sealed: SealedManifest) -> Counts:
    """Its histogram: everybody, and in each group about half of them."""
    shape = histogram_shape(sealed.manifest)
    drawn = np.frombuffer(shake_256(f"counts {site} {base}".encode()).digest(shape[1] * shape[2]), dtype="u1") % 3
    counts: Counts = np.zeros(shape, dtype=np.int64)
    counts[0] = drawn.reshape(shape[1:])
    counts[1:] = counts[0] // 2
    return counts


@dataclass
class Hospital:
    """One hospital, as its coordinator sees it."""

    site: str
    identity: Identity
    coordinator: str
    sealed: SealedManifest
    ledger: Path
    _parties: dict[str, SiteParty] = field(default_factory=dict)

    def __call__(self, payload: bytes) -> bytes:
        request, body = messages.open_request(payload, self.coordinator)
        head = {"site": self.site, "request": digest(payload)}
        reply, out = self._answer(request, body, head)
        return messages.pack(reply, out, self.identity)

    def _answer(self, request: messages.Request, body: bytes, head: dict[str, str]) -> tuple[Reply, bytes]:
        if isinstance(request, Offer | Ended):
            return Standing.model_validate(head | {"study": self.sealed.digest, "state": "approved", "at": 0}), b""
        if isinstance(request, Work):
            return self._work(request, head)
        if isinstance(request, Advertise | Step | Masked):
            place = {"study": self.sealed.digest, "batch": request.batch}
            return Secured.model_validate(head | place), self._secured(request, body)
        return Refusal.model_validate(head | {"code": "audit-unwritable", "reference": "0" * 12}), b""

    def _work(self, request: Work, head: dict[str, str]) -> tuple[Reply, bytes]:
        self._charge(request)
        update = update_of(self.site, request.base, request.dimension) if request.train else np.zeros(0, np.float32)
        counts = counts_of(self.site, request.base, self.sealed) if request.evaluate else np.zeros(0, np.int64)
        place = {"study": request.study, "round": request.round, "attempt": request.attempt, "base": request.base}
        sizes = {"update_values": update.size, "histogram_values": counts.size}
        reply = Result.model_validate(head | place | sizes)
        return reply, messages.floats_to_bytes(update) + messages.counts_to_bytes(counts)

    def _secured(self, request: Advertise | Step | Masked, body: bytes) -> bytes:
        if isinstance(request, Advertise):
            batch = batch_of(self.sealed, request.batch, request.cohort, request.threshold, request.slots)
            self._parties = {request.batch: SiteParty(batch, self.site, self.identity, os.urandom)}
            return self._parties[request.batch].advertise()
        party = self._parties[request.batch]
        if isinstance(request, Masked):
            return self._masked(party, request)
        take = {"share": party.share, "open": party.open, "confirm": party.confirm, "unmask": party.unmask}
        return take[request.kind](body)

    def _masked(self, party: SiteParty, request: Masked) -> bytes:
        terms = sum_terms(
            self.sealed, party.batch.size, dimension=request.dimension, train=request.train, evaluate=request.evaluate
        )
        setup, base = bytes.fromhex(request.setup), bytes.fromhex(request.base)
        party.take(RoundContext(setup, request.slot, request.round, request.attempt, base, terms.ring.digest))
        self._charge(request)
        update = update_of(self.site, request.base, request.dimension) if request.train else None
        counts = counts_of(self.site, request.base, self.sealed) if request.evaluate else None
        entropy = os.urandom if update is None else repeatable(update)
        return party.mask(terms.encode(self.site, update, counts, entropy)[0], terms.ring)

    def _charge(self, request: Work | Masked) -> None:
        with self.ledger.open("a") as file:
            file.write(f"{self.site} {request.round} {request.attempt}\n")


def charges(ledger: Path) -> Mapping[str, list[tuple[int, int]]]:
    """(round, attempt) of every charge, by site, in order."""
    found: dict[str, list[tuple[int, int]]] = {}
    for line in ledger.read_text().splitlines() if ledger.exists() else []:
        site, round_, attempt = line.split()
        found.setdefault(site, []).append((int(round_), int(attempt)))
    return found


def script(federation: Federation, ledger: Path) -> None:
    """Let scripted hospitals answer from now on, with the keys of those that enrolled."""
    sealed = federation.sealed()
    assert isinstance(sealed, SealedManifest)
    coordinator = federation.home.identity().public
    federation.transport = MemoryTransport(
        {site: Hospital(site, home.identity(), coordinator, sealed, ledger) for site, home in federation.sites.items()}
    )
