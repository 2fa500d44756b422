"""What anyone can check of a batch afterwards, from signed messages alone: who took part in which sum, and that all agreed. Pure.

Rules
    1. Every member signed an advert, roots for exactly these adverts, and the SetupHash of all of them.
    2. Each sum's survivors signed the same set for the same RoundCtx of this batch: at least max(t, quorum) distinct survivors,
       each by the key in the batch.
    3. Slots rise from sum to sum: none was used twice.
A transcript holds no vector and no share. That the sum is what the coordinator committed cannot be seen from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from fedward.privacy.secagg import wire
from fedward.privacy.secagg.contexts import Batch, RoundContext
from fedward.privacy.secagg.faults import ProtocolError


@dataclass(frozen=True)
class BatchRecord:
    """The signed messages of a setup, each list in cohort order."""

    batch: Batch
    adverts: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    opened: tuple[bytes, ...]


@dataclass(frozen=True)
class SumRecord:
    """The survivors' signatures over their set, in cohort order."""

    context: RoundContext
    confirmations: tuple[bytes, ...]


@dataclass(frozen=True)
class CheckedSum:
    """A sum whose signatures hold: its use of the slot, its survivors, and those who signed."""

    context: RoundContext
    survivors: tuple[str, ...]
    signers: tuple[str, ...]


def setup_hash(batch: Batch, adverts: bytes, roots: Sequence[bytes]) -> bytes:
    """SetupHash, 32 bytes: the batch, the digest of all signed adverts, and all signed share roots, in cohort order."""
    return sha256(b"fedward setup\x00" + batch.digest + adverts + b"".join(roots)).digest()


def check_batch(record: BatchRecord) -> bytes:
    """The SetupHash, if every member signed all of the setup.

    Raises:
        ProtocolError: a message is missing or false; it says whose.
    """
    batch = record.batch
    if not len(record.adverts) == len(record.roots) == len(record.opened) == batch.size:
        raise ProtocolError("the setup's messages are not one a member", code="setup-incomplete", lie=False)
    for index, raw in enumerate(record.adverts):
        wire.open_advert(batch, index, raw)
    digest = sha256(b"".join(record.adverts)).digest()
    for index, raw in enumerate(record.roots):
        wire.open_roots(batch, index, raw, digest)
    setup = setup_hash(batch, digest, record.roots)
    for index, raw in enumerate(record.opened):
        if wire.open_opened(batch, index, raw) != setup:
            name = batch.members[index]
            raise ProtocolError(f"{name} opened another setup", code="setup-mismatch", blamed=name)
    return setup


def check_sums(record: BatchRecord, setup: bytes, sums: Sequence[SumRecord]) -> list[CheckedSum]:
    """The batch's sums, in the order given, if all of their signatures hold.

    Raises:
        ProtocolError: a sum is of another batch, reuses a slot, or lacks signatures.
    """
    checked: list[CheckedSum] = []
    for one in sums:
        if one.context.setup != setup:
            raise ProtocolError("a sum belongs to another batch", code="replayed")
        if checked and one.context.slot <= checked[-1].context.slot:
            raise ProtocolError("a slot was used twice", code="slot-used", got=str(one.context.slot))
        if one.context.slot >= record.batch.slots:
            raise ProtocolError("a slot is not in the batch", code="slot-used", got=str(one.context.slot))
        checked.append(_check_sum(record.batch, one))
    return checked


def _check_sum(batch: Batch, one: SumRecord) -> CheckedSum:
    sets: set[frozenset[int]] = set()
    signers: list[int] = []
    for raw in one.confirmations:
        signer = wire.sender_of(raw)
        if signer is None or signer >= batch.size or signer in signers:
            raise ProtocolError("a confirmation is not by a member of its own", code="signers-not-distinct")
        sets.add(wire.open_confirm(batch, signer, raw, one.context).survivors)
        signers.append(signer)
    if len(signers) < batch.floor:
        raise ProtocolError(
            "too few sites confirmed a sum",
            code="confirmations-too-few",
            expected=f"at least {batch.floor}",
            got=str(len(signers)),
        )
    survivors = next(iter(sets))
    if len(sets) != 1 or not survivors.issuperset(signers) or len(survivors) < batch.floor:
        raise ProtocolError("the confirmations of a sum are not over one set of survivors", code="survivors-unequal")
    return CheckedSum(
        one.context,
        tuple(batch.members[index] for index in sorted(survivors)),
        tuple(batch.members[index] for index in sorted(signers)),
    )
