"""The protocol's messages as canonical bytes. Pure.

1. Every message has exactly one length, which the receiver knows from the batch and the terms before it reads it.
   Any other length is refused first: nothing is allocated for what a message claims.
2. There is nothing optional, no padding and no choice of encoding: bytes that parse re-encode to themselves.
3. A site's message is "FSA1" ‖ kind ‖ sender ‖ context ‖ fields ‖ Ed25519 signature by the key that the roster names for
   the sender, over all before it. The context is the batch's digest in setup and RoundCtx's in a slot.
4. The coordinator's messages are signed by the envelope that carries them, and have no signature of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from fedward.privacy.errors import IntegrityError
from fedward.privacy.secagg.commitments import CAP_BYTES, HASH_BYTES, depth
from fedward.privacy.secagg.contexts import Batch, RoundContext
from fedward.privacy.secagg.faults import COORDINATOR, ProtocolError
from fedward.privacy.secagg.keys import KEY_BYTES, TAG_BYTES
from fedward.privacy.secagg.shamir import SHARE_BYTES
from fedward.privacy.signing import SIGNATURE_BYTES, Identity, verify

MAGIC = b"FSA1"
_HEAD = 4 + 1 + 2 + 32


class Kind(IntEnum):
    ADVERT = 1
    ROOTS = 2
    OPENED = 3
    MASKED = 4
    CONFIRM = 5
    REVEAL = 6


@dataclass(frozen=True)
class Advert:
    """A site's public keys: one for the channel, one a slot for the masks."""

    channel: bytes
    masks: tuple[bytes, ...]


@dataclass(frozen=True)
class Masked:
    """A masked vector with the commitment to its self-mask's seed. `vector` is a view into the message."""

    context: RoundContext
    commitment: bytes
    vector: memoryview


@dataclass(frozen=True)
class Confirm:
    context: RoundContext
    survivors: frozenset[int]


@dataclass(frozen=True)
class Reveal:
    """One share and its path per dealer, in cohort order: of the seed of a survivor, of the mask key of a dropped one."""

    context: RoundContext
    survivors: frozenset[int]
    shares: tuple[tuple[bytes, bytes], ...]


def malformed(what: str, sender: str, *, expected: str | None = None, got: str | None = None) -> ProtocolError:
    return ProtocolError(what, code="malformed", blamed=sender, expected=expected, got=got)


# Sizes, each from the batch alone.


def advert_size(batch: Batch) -> int:
    return _HEAD + KEY_BYTES * (1 + batch.slots) + SIGNATURE_BYTES


def roots_size(batch: Batch) -> int:
    return _HEAD + 32 + (CAP_BYTES + HASH_BYTES) * batch.size + SIGNATURE_BYTES


def box_size(batch: Batch) -> int:
    return 2 * batch.slots * SHARE_BYTES + TAG_BYTES


def share_size(batch: Batch) -> int:
    """A dealer's signed roots and its boxes for the other members."""
    return roots_size(batch) + box_size(batch) * (batch.size - 1)


def opened_size(_batch: Batch) -> int:
    return _HEAD + 32 + SIGNATURE_BYTES


def _set_size(batch: Batch) -> int:
    return (batch.size + 7) // 8


def _path_size(batch: Batch) -> int:
    return HASH_BYTES * depth(2 * batch.slots)


def confirm_size(batch: Batch) -> int:
    return _HEAD + RoundContext.SIZE + _set_size(batch) + SIGNATURE_BYTES


def reveal_size(batch: Batch) -> int:
    each = SHARE_BYTES + _path_size(batch)
    return _HEAD + RoundContext.SIZE + _set_size(batch) + batch.size * each + SIGNATURE_BYTES


_MASKED_HEAD = _HEAD + RoundContext.SIZE + 32 + 32 + SIGNATURE_BYTES


def masked_size(vector_bytes: int) -> int:
    return _MASKED_HEAD + vector_bytes


# Signed messages of sites.


def _seal(kind: Kind, sender: int, context: bytes, fields: bytes, identity: Identity) -> bytes:
    data = MAGIC + bytes([kind]) + struct.pack(">H", sender) + context + fields
    return data + identity.sign("secagg", data)


def _open(
    batch: Batch, kind: Kind, sender: int, context: bytes | None, data: bytes | memoryview, size: int, blame: str
) -> bytes:
    """The fields of a signed message of exactly that size, its head and signature checked.

    `blame` is who is to blame for a false one: the sender where it comes from itself, else who passed it on.
    """
    name = blame or batch.members[sender]
    if len(data) != size:
        raise malformed(
            f"a {kind.name.lower()} message has the wrong length",
            name,
            expected=f"{size} bytes",
            got=f"{len(data)} bytes",
        )
    head = bytes(data[:_HEAD])
    if head[:4] != MAGIC or head[4] != kind:
        raise malformed(f"these bytes are no {kind.name.lower()} message", name)
    if struct.unpack(">H", head[5:7])[0] != sender:
        raise ProtocolError(
            "a message names another sender than the one it came from", code="wrong-sender", blamed=name
        )
    if context is not None and head[7:] != context:
        raise ProtocolError("a message belongs to another study, batch, slot or attempt", code="replayed", blamed=name)
    body = bytes(data[:-SIGNATURE_BYTES])
    try:
        verify(batch.keys[sender], "secagg", body, bytes(data[-SIGNATURE_BYTES:]), f"a {kind.name.lower()}")
    except IntegrityError:
        raise ProtocolError(
            f"a {kind.name.lower()} message is not signed by the key that the roster names for {batch.members[sender]}",
            code="key-substituted" if kind == Kind.ADVERT else "bad-signature",
            blamed=name,
        ) from None
    return body[_HEAD:]


def seal_advert(batch: Batch, sender: int, advert: Advert, identity: Identity) -> bytes:
    return _seal(Kind.ADVERT, sender, batch.digest, advert.channel + b"".join(advert.masks), identity)


def open_advert(batch: Batch, sender: int, data: bytes, blame: str = "") -> Advert:
    fields = _open(batch, Kind.ADVERT, sender, batch.digest, data, advert_size(batch), blame)
    keys = [fields[at : at + KEY_BYTES] for at in range(0, len(fields), KEY_BYTES)]
    return Advert(keys[0], tuple(keys[1:]))


@dataclass(frozen=True)
class Roots:
    """What a dealer signs for its shares: the tree's cap and the hash of the box per recipient, in cohort order.

    The hash for the dealer itself, which gets no box, is 32 zero bytes.
    """

    caps: tuple[bytes, ...]
    boxes: tuple[bytes, ...]


def seal_roots(batch: Batch, sender: int, adverts: bytes, roots: Roots, identity: Identity) -> bytes:
    """`adverts` is the digest of all adverts that the sender dealt for."""
    fields = adverts + b"".join(roots.caps) + b"".join(roots.boxes)
    return _seal(Kind.ROOTS, sender, batch.digest, fields, identity)


def open_roots(batch: Batch, sender: int, data: bytes, adverts: bytes, blame: str = "") -> Roots:
    """A dealer's roots and box hashes, for exactly these adverts."""
    fields = _open(batch, Kind.ROOTS, sender, batch.digest, data, roots_size(batch), blame)
    if fields[:32] != adverts:
        raise ProtocolError(
            f"{batch.members[sender]} dealt for other keys than these",
            code="adverts-unequal",
            blamed=blame or batch.members[sender],
        )
    end = 32 + CAP_BYTES * batch.size
    caps = [fields[at : at + CAP_BYTES] for at in range(32, end, CAP_BYTES)]
    boxes = [fields[at : at + HASH_BYTES] for at in range(end, len(fields), HASH_BYTES)]
    return Roots(tuple(caps), tuple(boxes))


def seal_opened(batch: Batch, sender: int, setup: bytes, identity: Identity) -> bytes:
    return _seal(Kind.OPENED, sender, batch.digest, setup, identity)


def open_opened(batch: Batch, sender: int, data: bytes) -> bytes:
    """The SetupHash that a member confirms."""
    return _open(batch, Kind.OPENED, sender, batch.digest, data, opened_size(batch), "")


def seal_masked(sender: int, context: RoundContext, commitment: bytes, vector: memoryview, identity: Identity) -> bytes:
    fields = context.encoded + commitment + sha256(vector).digest()
    return _seal(Kind.MASKED, sender, context.digest, fields, identity) + bytes(vector)


def open_masked(batch: Batch, sender: int, data: bytes, context: RoundContext, vector_bytes: int) -> Masked:
    """A member's masked vector, for exactly this use of the slot."""
    name = batch.members[sender]
    if len(data) != masked_size(vector_bytes):
        raise malformed(
            "a masked message has the wrong length",
            name,
            expected=f"{masked_size(vector_bytes)} bytes",
            got=f"{len(data)} bytes",
        )
    view = memoryview(data)
    fields = _open(batch, Kind.MASKED, sender, None, view[:_MASKED_HEAD], _MASKED_HEAD, "")
    said = _same_use(fields, data, context, batch.members[sender], name)
    commitment, digest = fields[-64:-32], fields[-32:]
    vector = view[_MASKED_HEAD:]
    if sha256(vector).digest() != digest:
        raise ProtocolError(f"the vector of {name} is not the one it signed", code="vector-damaged", blamed=name)
    return Masked(said, commitment, vector)


def seal_confirm(
    batch: Batch, sender: int, context: RoundContext, survivors: frozenset[int], identity: Identity
) -> bytes:
    fields = context.encoded + encode_set(batch, survivors)
    return _seal(Kind.CONFIRM, sender, context.digest, fields, identity)


def open_confirm(batch: Batch, sender: int, data: bytes, context: RoundContext, blame: str = "") -> Confirm:
    """A member's signature over the survivor set of exactly this use of the slot."""
    name = blame or batch.members[sender]
    fields = _open(batch, Kind.CONFIRM, sender, None, data, confirm_size(batch), blame)
    said = _same_use(fields, data, context, batch.members[sender], name)
    return Confirm(said, decode_set(batch, fields[RoundContext.SIZE :], name))


def seal_reveal(batch: Batch, sender: int, reveal: Reveal, identity: Identity) -> bytes:
    shares = b"".join(share + path for share, path in reveal.shares)
    fields = reveal.context.encoded + encode_set(batch, reveal.survivors) + shares
    return _seal(Kind.REVEAL, sender, reveal.context.digest, fields, identity)


def open_reveal(batch: Batch, sender: int, data: bytes, context: RoundContext) -> Reveal:
    """A member's shares for exactly this use of the slot; their paths are not checked here."""
    name = batch.members[sender]
    fields = _open(batch, Kind.REVEAL, sender, None, data, reveal_size(batch), "")
    said = _same_use(fields, data, context, batch.members[sender], name)
    start = RoundContext.SIZE + _set_size(batch)
    survivors = decode_set(batch, fields[RoundContext.SIZE : start], name)
    shares = tuple(struct.iter_unpack(f"{SHARE_BYTES}s{_path_size(batch)}s", memoryview(fields)[start:]))
    return Reveal(said, survivors, shares)


def _same_use(fields: bytes, data: bytes | memoryview, expected: RoundContext, sender: str, blame: str) -> RoundContext:
    """The context that a message names in full, if it is the expected one; the first difference is named."""
    try:
        said = RoundContext.decode(fields[: RoundContext.SIZE])
    except ProtocolError:
        raise malformed("a message's context is out of range", blame) from None
    if bytes(data[7:_HEAD]) != said.digest:
        raise malformed("a message's context is not the one that its head names", blame)
    differs = said.difference(expected)
    if differs == "base":
        raise ProtocolError(f"{sender} was sent another base model", code="base-mismatch", blamed=blame)
    if differs == "terms":
        raise ProtocolError(f"{sender} was sent other terms", code="terms-mismatch", blamed=blame)
    if differs:
        raise ProtocolError(f"a message of {sender} belongs to another {differs}", code="replayed", blamed=blame)
    return said


def is_of(data: bytes, kind: Kind, sender: int) -> bool:
    """Whether bytes begin as that member's signed message of that kind; nothing else of them is read."""
    return data[:7] == MAGIC + bytes([kind]) + struct.pack(">H", sender)


def sender_of(data: bytes) -> int | None:
    """The member that a signed message says it is by; None when it is too short to say."""
    return int(struct.unpack(">H", data[5:7])[0]) if len(data) >= _HEAD else None


# Messages of the coordinator.


def split_adverts(batch: Batch, data: bytes) -> list[bytes]:
    """Every member's signed advert, in cohort order."""
    return _split(data, advert_size(batch), batch.size, "adverts")


def join_delivery(roots: Sequence[bytes], boxes: Sequence[bytes]) -> bytes:
    return b"".join(roots) + b"".join(boxes)


def split_delivery(batch: Batch, data: bytes) -> tuple[list[bytes], list[bytes]]:
    """Every member's signed roots, and the other members' boxes for this site, in cohort order."""
    at = roots_size(batch) * batch.size
    boxes = _split(data, box_size(batch), batch.size - 1, "boxes", at)
    return _split(data[:at], roots_size(batch), batch.size, "roots"), boxes


def split_shares(batch: Batch, data: bytes, sender: str) -> tuple[bytes, list[bytes]]:
    """A dealer's signed roots and its boxes for the other members, in cohort order."""
    size = share_size(batch)
    if len(data) != size:
        raise malformed(
            "a share message has the wrong length", sender, expected=f"{size} bytes", got=f"{len(data)} bytes"
        )
    at = roots_size(batch)
    return data[:at], _split(data, box_size(batch), batch.size - 1, "boxes", at)


def survivors_message(batch: Batch, context: RoundContext, survivors: frozenset[int]) -> bytes:
    return context.digest + encode_set(batch, survivors)


def open_survivors(batch: Batch, data: bytes) -> tuple[bytes, frozenset[int]]:
    """(RoundCtx's digest, the survivor set) of a request to confirm."""
    size = 32 + _set_size(batch)
    if len(data) != size:
        raise malformed(
            "a survivor set has the wrong length", COORDINATOR, expected=f"{size} bytes", got=f"{len(data)} bytes"
        )
    return data[:32], decode_set(batch, data[32:], COORDINATOR)


def confirmations_message(
    batch: Batch, context: RoundContext, survivors: frozenset[int], confirms: Sequence[bytes]
) -> bytes:
    return survivors_message(batch, context, survivors) + struct.pack(">H", len(confirms)) + b"".join(confirms)


def open_confirmations(batch: Batch, data: bytes) -> tuple[bytes, frozenset[int], list[tuple[int, bytes]]]:
    """(RoundCtx's digest, the survivor set, (signer, its signed confirmation)…) of a request to unmask."""
    at = 32 + _set_size(batch)
    if len(data) < at + 2:
        raise malformed("a request to unmask is too short", COORDINATOR, got=f"{len(data)} bytes")
    digest, survivors = open_survivors(batch, data[:at])
    (count,) = struct.unpack(">H", data[at : at + 2])
    if count > batch.size:
        raise malformed(
            "more sites confirmed than there are", COORDINATOR, expected=f"at most {batch.size}", got=str(count)
        )
    confirms = _split(data, confirm_size(batch), count, "confirmations", at + 2)
    signers = [struct.unpack(">H", confirm[5:7])[0] for confirm in confirms]
    if signers != sorted(set(signers)) or not survivors.issuperset(signers):
        raise ProtocolError(
            "the confirmations are not by distinct survivors in cohort order",
            code="signers-not-distinct",
            blamed=COORDINATOR,
            got=str(signers)[:200],
        )
    return digest, survivors, list(zip(signers, confirms, strict=True))


def _split(data: bytes, size: int, count: int, what: str, start: int = 0) -> list[bytes]:
    """The equal parts from `start` on. Nothing is cut, and so copied, before the length is known to be right."""
    if len(data) - start != size * count:
        raise malformed(
            f"the list of {what} has the wrong length",
            COORDINATOR,
            expected=f"{count} of {size} bytes",
            got=f"{len(data) - start} bytes",
        )
    return [data[at : at + size] for at in range(start, len(data), size)]


def encode_set(batch: Batch, members: frozenset[int]) -> bytes:
    """A set of members as a bitmap: member i is bit i mod 8 of byte i // 8."""
    return sum(1 << index for index in members).to_bytes(_set_size(batch), "little")


def decode_set(batch: Batch, data: bytes, sender: str) -> frozenset[int]:
    """
    Raises:
        ProtocolError: it has the wrong length, or a bit beyond the cohort is set.
    """
    if len(data) != _set_size(batch):
        raise malformed(
            "a survivor set has the wrong length",
            sender,
            expected=f"{_set_size(batch)} bytes",
            got=f"{len(data)} bytes",
        )
    bits = int.from_bytes(data, "little")
    if bits >> batch.size:
        raise ProtocolError(
            "a survivor set names sites that are not in the cohort", code="survivors-not-in-cohort", blamed=sender
        )
    return frozenset(index for index in range(batch.size) if bits >> index & 1)
