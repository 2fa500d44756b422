"""The coordinator's side, as pure state machines: messages in, messages out. No IO, no clock, no secret of its own.

Rules
    1. `BatchSetup`: adverts of every member, then roots and boxes of every member, then every member's word that it opened
       its boxes. A batch that lacks one member's word is not used. A member's boxes are delivered as they came, once.
    2. `SlotSum`: masked vectors are added as they come, never kept. The survivors are those whose vector is in the sum.
    3. A confirmation or a reveal is checked in full when it comes; a false one names its sender and counts for nothing. A path
       that does not lead to the dealer's signed root blames the revealer.
    4. The sum is opened with t reveals: the first t in cohort order, one set of Lagrange coefficients for every secret.
       Proven shares that rebuild a key or seed other than the one advertised or committed to blame the dealer; the sum is
       then refused.
    5. A sum beyond what its survivors could have made is refused; nobody can be named.
    6. What does not fit raises `ProtocolError` and leaves the machine as it was. Only a sum that was opened is used up.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from hashlib import sha256
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.privacy.secagg import wire
from fedward.privacy.secagg.commitments import depth, leaf, prove
from fedward.privacy.secagg.contexts import Batch, RoundContext
from fedward.privacy.secagg.derivations import commitment, key_leaf, pair_key, seed_leaf, self_key, subtracts
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.secagg.keys import is_small_order, public_of
from fedward.privacy.secagg.masks import apply
from fedward.privacy.secagg.ring import RingTerms
from fedward.privacy.secagg.shamir import SECRET_BYTES, coefficients, combine, to_element
from fedward.privacy.secagg.transcript import BatchRecord, check_batch, setup_hash

T = TypeVar("T")


class OpenBatch:
    """A batch that every member opened: its public part, all that the coordinator knows of it.

    Raises:
        ProtocolError: the record lacks a member's message, or one is false.
    """

    def __init__(self, record: BatchRecord) -> None:
        batch = record.batch
        self.record = record
        self.batch = batch
        self.setup = check_batch(record)
        self.adverts = [wire.open_advert(batch, i, raw) for i, raw in enumerate(record.adverts)]
        digest = sha256(b"".join(record.adverts)).digest()
        self.roots = [wire.open_roots(batch, i, raw, digest) for i, raw in enumerate(record.roots)]


class BatchSetup:
    """Carries the setup of a batch between its members."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self._adverts: dict[int, bytes] = {}
        self._shares: dict[int, tuple[bytes, list[bytes]]] = {}
        self._opened: dict[int, bytes] = {}

    def advertised(self, site: str, data: bytes) -> None:
        """Take a member's advert.

        Raises:
            ProtocolError: it is not by the member, or not of this batch.
        """
        index = self._fresh(site, self._adverts)
        advert = wire.open_advert(self.batch, index, data)
        if any(is_small_order(key) for key in (advert.channel, *advert.masks)):
            raise ProtocolError(f"{site} advertises a key of small order", code="weak-key", blamed=site)
        self._adverts[index] = data

    def adverts(self) -> bytes:
        """All adverts, for every member.

        Raises:
            ProtocolError: a member's is missing.
        """
        return b"".join(self._all(self._adverts, "advertised"))

    def shared(self, site: str, data: bytes) -> None:
        """Take a member's roots and boxes.

        Raises:
            ProtocolError: the roots are not by the member, or for other adverts.
        """
        index = self._fresh(site, self._shares)
        roots, boxes = wire.split_shares(self.batch, data, site)
        signed = wire.open_roots(self.batch, index, roots, sha256(self.adverts()).digest())
        expected = [name for recipient, name in enumerate(signed.boxes) if recipient != index]
        if [sha256(box).digest() for box in boxes] != expected:
            raise ProtocolError(f"a box of {site} is not the one it signed", code="box-changed", blamed=site)
        self._shares[index] = (roots, boxes)

    def delivery(self, site: str) -> bytes:
        """All roots, and the other members' boxes for this member.

        Raises:
            ProtocolError: a member has not shared.
        """
        shares, me = self._all(self._shares, "shared"), self.batch.index(site)
        # A dealer's list of boxes leaves itself out.
        boxes = [box[me - (me > dealer)] for dealer, (_, box) in enumerate(shares) if dealer != me]
        return wire.join_delivery([roots for roots, _ in shares], boxes)

    def opened(self, site: str, data: bytes) -> None:
        """Take a member's word that it opened its boxes.

        Raises:
            ProtocolError: it is not by the member, or for another setup.
        """
        index = self._fresh(site, self._opened)
        if wire.open_opened(self.batch, index, data) != self._setup():
            raise ProtocolError(f"{site} opened another setup", code="setup-mismatch", blamed=site)
        self._opened[index] = data

    def finish(self) -> OpenBatch:
        """The batch, ready for its slots.

        Raises:
            ProtocolError: a member's word is missing.
        """
        opened = self._all(self._opened, "opened its boxes")
        roots = [roots for roots, _ in self._all(self._shares, "shared")]
        adverts = self._all(self._adverts, "advertised")
        return OpenBatch(BatchRecord(self.batch, tuple(adverts), tuple(roots), tuple(opened)))

    def _setup(self) -> bytes:
        roots = [roots for roots, _ in self._all(self._shares, "shared")]
        return setup_hash(self.batch, sha256(self.adverts()).digest(), roots)

    def _fresh(self, site: str, done: Container[int]) -> int:
        return _fresh(self.batch, site, done)

    def _all(self, done: Mapping[int, T], what: str) -> list[T]:
        missing = [name for index, name in enumerate(self.batch.members) if index not in done]
        if missing:
            raise ProtocolError(
                f"not every member has {what}", code="setup-incomplete", got=f"without {', '.join(missing)}", lie=False
            )
        return [done[index] for index in range(self.batch.size)]


class SlotSum:
    """One slot's sum over an open batch.

    Args:
        opened: the batch.
        context: RoundCtx, as every member is told it.
        terms: the ring's terms, whose digest stands in RoundCtx.
    """

    def __init__(self, opened: OpenBatch, context: RoundContext, terms: RingTerms) -> None:
        if (terms.members, context.setup) != (opened.batch.size, opened.setup) or context.slot >= opened.batch.slots:
            raise InputError("the terms or the context are not of this batch", expected=f"{opened.batch.size} members")
        if context.terms != terms.digest:
            raise InputError("the context names other terms")
        self._opened = opened
        self._batch = opened.batch
        self._context = context
        self._terms = terms
        self._sum = np.zeros(terms.length, dtype=terms.dtype)
        self._commitments: dict[int, bytes] = {}
        self._confirms: dict[int, bytes] = {}
        self._reveals: dict[int, list[int]] = {}
        self._closed = False
        self._is_open = False

    @property
    def survivors(self) -> tuple[str, ...]:
        """Members whose vector is in the sum, in cohort order."""
        return tuple(self._batch.members[index] for index in sorted(self._commitments))

    @property
    def confirmations(self) -> tuple[bytes, ...]:
        """The survivors' signatures over their set, in cohort order: what an auditor checks."""
        return tuple(raw for _, raw in sorted(self._confirms.items()))

    def masked(self, site: str, data: bytes) -> None:
        """Add a member's masked vector to the sum.

        Raises:
            ProtocolError: it is malformed, false, another attempt's, or comes too late.
        """
        index = _fresh(self._batch, site, self._commitments)
        if self._closed:
            raise ProtocolError("the survivor set is closed", code="out-of-order", lie=False)
        message = wire.open_masked(self._batch, index, data, self._context, self._terms.byte_length)
        # The ring's addition wraps by definition.
        self._sum += np.frombuffer(message.vector, dtype=self._terms.dtype)
        self._commitments[index] = message.commitment

    def confirm_request(self) -> bytes:
        """Close the survivor set; the request that every survivor is sent.

        Raises:
            ProtocolError: there are fewer survivors than max(t, quorum).
        """
        self._need(len(self._commitments), self._batch.floor, "sites sent a masked vector")
        self._closed = True
        return wire.survivors_message(self._batch, self._context, self._set())

    def confirmed(self, site: str, data: bytes) -> None:
        """Take a survivor's signature over the survivor set.

        Raises:
            ProtocolError: it is false, over another set or use of the slot, or not a survivor's.
        """
        index = self._survivor(site, self._confirms)
        confirm = wire.open_confirm(self._batch, index, data, self._context)
        if confirm.survivors != self._set():
            raise ProtocolError(f"{site} confirmed another survivor set", code="survivors-unequal", blamed=site)
        self._confirms[index] = data

    def unmask_request(self) -> bytes:
        """The request that every survivor is sent: the survivors' signatures over their set.

        Raises:
            ProtocolError: fewer than max(t, quorum) confirmed.
        """
        self._need(len(self._confirms), self._batch.floor, "sites confirmed the survivor set")
        return wire.confirmations_message(self._batch, self._context, self._set(), self.confirmations)

    def revealed(self, site: str, data: bytes) -> None:
        """Take a survivor's shares, each path checked against its dealer's root.

        Raises:
            ProtocolError: a share is not the one that was dealt to this site, or the message is false.
        """
        index = self._survivor(site, self._reveals)
        reveal = wire.open_reveal(self._batch, index, data, self._context)
        if reveal.survivors != self._set():
            raise ProtocolError(f"{site} revealed for another survivor set", code="survivors-unequal", blamed=site)
        self._check_paths(site, index, reveal.shares)
        try:
            self._reveals[index] = [to_element(share) for share, _ in reveal.shares]
        except InputError:
            raise ProtocolError(f"{site} revealed no share", code="false-share", blamed=site) from None

    def _check_paths(self, site: str, index: int, shares: Sequence[tuple[bytes, bytes]]) -> None:
        """Every share is the one that was dealt: seeds' shares lie at one index of their trees, mask keys' at another."""
        slot, height = self._context.slot, depth(2 * self._batch.slots)
        dropped = [dealer for dealer in range(self._batch.size) if dealer not in self._commitments]
        for at, dealers in ((seed_leaf(slot), sorted(self._commitments)), (key_leaf(slot), dropped)):
            leaves = [leaf(self._batch.way(dealer, index), at, shares[dealer][0]) for dealer in dealers]
            caps = [self._opened.roots[dealer].caps[index] for dealer in dealers]
            proven = prove(leaves, at, [shares[dealer][1] for dealer in dealers], caps, height)
            for dealer, holds in zip(dealers, proven, strict=True):
                if not holds:
                    raise ProtocolError(
                        f"{site} revealed a share that {self._batch.members[dealer]} did not deal to it",
                        code="false-share",
                        blamed=site,
                    )

    def open(self) -> list[NDArray[np.int64]]:
        """The exact sum of the survivors' vectors: its blocks, as signed integers. Once: the masks are taken out in place.

        Raises:
            ProtocolError: it was opened already, fewer than t reveals, a dealer's false secret, or a sum beyond what its
                survivors could make.
        """
        self._need(len(self._reveals), self._batch.threshold, "sites revealed their shares")
        if self._is_open:
            raise ProtocolError("the sum was opened already", code="repeated", lie=False)
        masks = self._masks(self._secrets())
        self._is_open = True
        apply(self._sum, masks)
        return self._terms.open_sum(self._sum, len(self._commitments))

    def _secrets(self) -> list[bytes]:
        """Every member's rebuilt secret: the seed of a survivor, the mask key of a dropped one; each checked."""
        revealers = sorted(self._reveals)[: self._batch.threshold]
        lambdas = coefficients([index + 1 for index in revealers])
        secrets = []
        for dealer in range(self._batch.size):
            value = combine([self._reveals[index][dealer] for index in revealers], lambdas)
            if value >> (8 * SECRET_BYTES) or not self._is_true(dealer, value.to_bytes(SECRET_BYTES, "big")):
                name = self._batch.members[dealer]
                raise ProtocolError(
                    f"the shares that {name} dealt rebuild a secret that is not the one it advertised",
                    code="false-dealer",
                    blamed=name,
                )
            secrets.append(value.to_bytes(SECRET_BYTES, "big"))
        return secrets

    def _is_true(self, dealer: int, secret: bytes) -> bool:
        if dealer in self._commitments:
            return commitment(secret, self._context, dealer) == self._commitments[dealer]
        return public_of(secret) == self._opened.adverts[dealer].masks[self._context.slot]

    def _masks(self, secrets: list[bytes]) -> list[tuple[bytes, bool]]:
        """The masks that are left in the sum, each to be taken out."""
        masks = []
        for dealer, secret in enumerate(secrets):
            if dealer in self._commitments:
                masks.append((self_key(secret, self._context, dealer), True))
                continue
            private = X25519PrivateKey.from_private_bytes(secret)
            for peer in sorted(self._commitments):
                public = self._opened.adverts[peer].masks[self._context.slot]
                key = pair_key(private, public, self._context, dealer, peer)
                masks.append((key, not subtracts(peer, dealer)))
        return masks

    def _set(self) -> frozenset[int]:
        return frozenset(self._commitments)

    def _survivor(self, site: str, done: Container[int]) -> int:
        index = _fresh(self._batch, site, done)
        if not self._closed or index not in self._commitments:
            raise ProtocolError(f"{site} is not in the survivor set", code="not-a-survivor", blamed=site)
        return index

    def _need(self, count: int, least: int, what: str) -> None:
        if count < least:
            raise ProtocolError(
                f"too few {what}", code="survivors-too-few", expected=f"at least {least}", got=str(count), lie=False
            )


def _fresh(batch: Batch, site: str, done: Container[int]) -> int:
    index = batch.index(site)
    if index in done:
        raise ProtocolError(f"{site} has done this already", code="repeated", blamed=site, lie=False)
    return index
