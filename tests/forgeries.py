"""False messages of secure aggregation: honest ones with changed bytes, as a network or a stranger would make them, and
changed ones that are sealed again with the right keys, as a party of the protocol would.

Each target takes messages: a parser, which gives back what its answer encodes to, or a method of a state machine.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from cohort import Cohort, batch_of, identity, set_up, sites_of, small_terms, state, twin, way_back
from hypothesis import strategies as st

from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.secagg import Batch, BatchSetup, ProtocolError, RoundContext, SiteParty, SlotSum, wire
from fedward.privacy.secagg.commitments import Tree
from fedward.privacy.secagg.keys import agree, close_box, derive, open_box
from fedward.privacy.secagg.shamir import SHARE_BYTES, P

OWN_ERRORS = (ProtocolError, InputError, IntegrityError)
HEAD, SIGNATURE = 39, 64
MASKED_HEAD = HEAD + RoundContext.SIZE + 64 + SIGNATURE

# ---- changes ---------------------------------------------------------------------------------------------------------

Change = tuple[str, float, float, bytes]
"""(kind, where, where else or how much, bytes to write); places are shares of the length."""

KEEPING = ("bit", "write", "zero", "ones", "copy", "swap", "add")
MOVING = ("insert", "delete", "repeat", "cut", "append")
TOKENS = [
    b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\x00\x00", b"\x00\x04", b"FSA1", b"FSA2", bytes(32),
    b"\x01" + bytes(31), (2**255 - 19).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little"), b"\xff" * 33,
    P.to_bytes(33, "big"), (P - 1).to_bytes(33, "big"), struct.pack(">I", 3 * 2**30), struct.pack(">Q", 3 * 2**30),
]  # fmt: skip

_places = st.floats(0, 1, exclude_max=True)
changes_of_bytes: st.SearchStrategy[list[Change]] = st.lists(
    st.tuples(
        st.sampled_from(KEEPING * 3 + MOVING),
        _places,
        _places,
        st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


def drawn_changes(draw: random.Random) -> list[Change]:
    """What Hypothesis would draw, faster and without shrinking."""
    return [
        (
            draw.choice(KEEPING if draw.random() < 0.85 else MOVING),
            draw.random(),
            draw.random(),
            draw.choice(TOKENS) if draw.random() < 0.5 else draw.randbytes(draw.randrange(1, 9)),
        )
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4)))
    ]


def changed(data: bytes, changes: Sequence[Change]) -> bytes:  # noqa: PLR0912 - one a kind
    made = bytearray(data)
    for kind, first, second, piece in changes:
        start, other = int(first * len(made)), int(second * len(made))
        length = min(len(made) - start, 1 + int(second * 40))
        if kind == "append":
            made += piece
        elif kind == "insert":
            made[start:start] = piece
        elif not made:
            continue
        elif kind == "bit":
            made[start] ^= 1 << int(second * 8)
        elif kind == "add":
            made[start] = (made[start] + len(piece)) % 256
        elif kind == "write":
            fitting = piece[: len(made) - start]
            made[start : start + len(fitting)] = fitting
        elif kind == "zero":
            made[start : start + length] = bytes(length)
        elif kind == "ones":
            made[start : start + length] = b"\xff" * length
        elif kind in ("copy", "swap"):
            length = min(32, len(made) - start, len(made) - other)
            one, two = made[start : start + length], made[other : other + length]
            made[start : start + length] = two
            if kind == "swap" and abs(start - other) >= length:
                made[other : other + length] = one
        elif kind == "delete":
            del made[start : start + length]
        elif kind == "repeat":
            made[start:start] = made[start : start + length]
        elif kind == "cut":
            del made[start:]
    return bytes(made)


# ---- sealing again ---------------------------------------------------------------------------------------------------

Seal = Callable[[bytes, int], bytes]
"""(plain message, which repairs: bit 1 the context's digest in the head, bit 2 what else a sender would make right)."""


def signed_again(batch: Batch, sender: int, data: bytes, repairs: int = 0) -> bytes:
    """With the sender's own signature; repaired, its head names the context that its fields hold."""
    if len(data) < HEAD + SIGNATURE:
        return data
    body = data[:-SIGNATURE]
    if repairs & 1 and body[4:5] > bytes([wire.Kind.OPENED]):
        context = sha256(b"fedward round context\x00" + body[HEAD : HEAD + RoundContext.SIZE]).digest()
        body = body[:7] + context + body[HEAD:]
    return body + identity(batch.members[sender]).sign("secagg", body)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _sealing_one(batch: Batch, sender: int) -> Seal:
    return lambda data, repairs: signed_again(batch, sender, data, repairs)


def _sealing_masked(batch: Batch, sender: int) -> Seal:
    def seal(data: bytes, repairs: int) -> bytes:
        head, vector = data[:MASKED_HEAD], data[MASKED_HEAD:]
        if repairs & 2:
            digest = sha256(vector).digest()
            head = head[: -32 - SIGNATURE] + digest + head[-SIGNATURE:]
        return signed_again(batch, sender, head, repairs) + vector

    return seal


def _sealing_list(batch: Batch, size: int) -> Seal:
    """The members' messages of one size, in cohort order, then anything."""

    def seal(data: bytes, repairs: int) -> bytes:
        whole = _pieces(data[: size * batch.size], size)
        return (
            b"".join(signed_again(batch, i, piece, repairs) for i, piece in enumerate(whole))
            + data[size * batch.size :]
        )

    return seal


def _sealing_first(batch: Batch, sender: int, size: int) -> Seal:
    return lambda data, repairs: signed_again(batch, sender, data[:size], repairs) + data[size:]


def _sealing_confirmations(batch: Batch) -> Seal:
    def seal(data: bytes, repairs: int) -> bytes:
        at = 34 + (batch.size + 7) // 8
        sealed = data[:at]
        for piece in _pieces(data[at:], wire.confirm_size(batch)):
            signer = int.from_bytes(piece[5:7], "big")
            sealed += signed_again(batch, signer, piece, repairs) if signer < batch.size else piece
        return sealed

    return seal


# ---- targets ---------------------------------------------------------------------------------------------------------


@dataclass
class Target:
    """What takes messages.

    Attributes:
        honest: a message that it takes.
        plain: the message that is changed before it is sealed; the same one where a seal is only a signature.
        take: takes a message; a parser's gives back what its answer encodes to.
        machine: the state machine whose method this is.
    """

    name: str
    honest: bytes
    take: Callable[[bytes], Any]
    seal: Seal | None = None
    plain: bytes = b""
    machine: Any = None

    def __post_init__(self) -> None:
        self.plain = self.plain or self.honest
        self._before = state(self.machine)
        self._go_back = way_back(self.machine) if self.machine is not None else None

    def try_(self, data: bytes) -> str:
        """Give it a message: the code of its refusal, or "accepted".

        Raises:
            AssertionError: a parser's answer encodes to something else, or a machine changed although it refused.
        """
        try:
            again = self.take(data)
        except OWN_ERRORS as error:
            assert self.machine is None or state(self.machine) == self._before, f"{self.name} refused, but it changed"
            return error.code
        if self._go_back is not None:
            assert state(self.machine) != self._before, f"{self.name} accepted, but nothing changed"
            self._go_back()
            assert state(self.machine) == self._before
        else:
            assert again == data, f"{self.name} took a message that it would encode otherwise"
        return "accepted"


def _nine() -> tuple[Cohort, Batch, list[bytes], list[bytes]]:
    """Nine sites, three slots: a survivor set of two bytes, a tree with missing leaves. With its adverts and shares."""
    batch = batch_of(9, slots=3)
    parties = sites_of(batch)
    adverts = [party.advertise() for party in parties]
    shares = [party.share(b"".join(adverts)) for party in parties]
    again = sites_of(batch)
    return Cohort(batch, again, set_up(batch, again)), batch, adverts, shares


def parsers() -> list[Target]:
    """Every function of `wire` that reads bytes, and the ones of `contexts`."""
    cohort, batch, adverts, shares = _nine()
    key, digest, setup = cohort.identity(1), sha256(b"".join(adverts)).digest(), cohort.opened.setup
    terms, everyone = small_terms(9, 3), frozenset(range(9))
    context = cohort.context(terms, 1)
    slot, masked = cohort.masked_in(context, terms, everyone - {4})
    request = slot.confirm_request()
    survivors = everyone - {4}
    for index in sorted(survivors):
        slot.confirmed(batch.members[index], cohort.parties[index].confirm(request))
    unmask = slot.unmask_request()
    reveal = cohort.parties[1].unmask(unmask)
    one = _sealing_one(batch, 1)

    def again_advert(data: bytes) -> bytes:
        return wire.seal_advert(batch, 1, wire.open_advert(batch, 1, data), key)

    def again_roots(data: bytes) -> bytes:
        return wire.seal_roots(batch, 1, digest, wire.open_roots(batch, 1, data, digest), key)

    def again_opened(data: bytes) -> bytes:
        return wire.seal_opened(batch, 1, wire.open_opened(batch, 1, data), key)

    def again_masked(data: bytes) -> bytes:
        read = wire.open_masked(batch, 1, data, context, terms.byte_length)
        return wire.seal_masked(1, read.context, read.commitment, read.vector, key)

    def again_confirm(data: bytes) -> bytes:
        read = wire.open_confirm(batch, 1, data, context)
        return wire.seal_confirm(batch, 1, read.context, read.survivors, key)

    def again_reveal(data: bytes) -> bytes:
        return wire.seal_reveal(batch, 1, wire.open_reveal(batch, 1, data, context), key)

    def again_survivors(data: bytes) -> bytes:
        said, named = wire.open_survivors(batch, data)
        return said + wire.encode_set(batch, named)

    def again_confirmations(data: bytes) -> bytes:
        said, named, confirms = wire.open_confirmations(batch, data)
        assert [int.from_bytes(raw[5:7], "big") for _, raw in confirms] == [signer for signer, _ in confirms]
        counted = struct.pack(">H", len(confirms)) + b"".join(raw for _, raw in confirms)
        return said + wire.encode_set(batch, named) + counted

    def again_set(data: bytes) -> bytes:
        return wire.encode_set(batch, wire.decode_set(batch, data, ""))

    roots, boxes = wire.roots_size(batch), wire.box_size(batch)
    delivery = b"".join(share[:roots] for share in shares) + b"".join(share[-boxes:] for share in shares[:-1])

    def again_shares(data: bytes) -> bytes:
        first, rest = wire.split_shares(batch, data, batch.members[1])
        return first + b"".join(rest)

    return [
        Target("open_advert", adverts[1], again_advert, one),
        Target("open_roots", shares[1][:roots], again_roots, one),
        Target("open_opened", wire.seal_opened(batch, 1, setup, key), again_opened, one),
        Target("open_masked", masked[1], again_masked, _sealing_masked(batch, 1)),
        Target("open_confirm", slot.confirmations[1], again_confirm, one),
        Target("open_reveal", reveal, again_reveal, one),
        Target("open_survivors", request, again_survivors),
        Target("open_confirmations", unmask, again_confirmations, _sealing_confirmations(batch)),
        Target("split_adverts", b"".join(adverts), lambda data: b"".join(wire.split_adverts(batch, data))),
        Target("split_delivery", delivery, lambda data: wire.join_delivery(*wire.split_delivery(batch, data))),
        Target("split_shares", shares[1], again_shares),
        Target("decode_set", wire.encode_set(batch, survivors), again_set),
        Target("RoundContext.decode", context.encoded, lambda data: RoundContext.decode(data).encoded),
    ]


def _sealing_delivery(batch: Batch, channels: list[bytes], recipient: int, adverts: bytes) -> Seal:
    """Roots, then the *contents* of the other members' boxes; repaired, each dealer commits to what its box holds.

    Args:
        channels: for each dealer, the secret that it agrees on with the recipient.
    """
    size, each, digest = wire.roots_size(batch), wire.box_size(batch) - 16, sha256(adverts).digest()

    def seal(data: bytes, repairs: int) -> bytes:
        roots = [bytearray(piece) for piece in _pieces(data[: size * batch.size], size)]
        boxes = b""
        dealers = [dealer for dealer in range(batch.size) if dealer != recipient]
        for dealer, content in zip(dealers, _pieces(data[size * batch.size :], each), strict=False):
            way = batch.way(dealer, recipient)
            boxes += close_box(derive(channels[dealer], b"box", way + digest), content, way + digest)
            if repairs & 2 and len(roots[dealer]) == size:
                cap, box = HEAD + 32 + 128 * recipient, HEAD + 32 + 128 * batch.size + 32 * recipient
                roots[dealer][cap : cap + 128] = Tree(way, _pieces(content, SHARE_BYTES)).cap
                roots[dealer][box : box + 32] = sha256(boxes[-each - 16 :]).digest()
        return b"".join(signed_again(batch, i, bytes(piece), repairs) for i, piece in enumerate(roots)) + boxes

    return seal


def machines() -> list[Target]:
    """Every method of a state machine that takes a message, each machine in the state that it takes it in."""
    batch = batch_of(4, slots=3)
    members, terms = batch.members, small_terms(4, 3)
    parties, setup = sites_of(batch), BatchSetup(batch)
    found: list[Target] = []

    def target(
        machine: Any, method: Callable[..., Any], honest: bytes, seal: Seal | None = None, plain: bytes = b""
    ) -> None:
        held = twin(machine)
        of_a_site = () if isinstance(machine, SiteParty) else (members[1],)
        found.append(
            Target(method.__qualname__, honest, lambda data: method(held, *of_a_site, data), seal, plain, held)
        )

    adverts = [party.advertise() for party in parties]
    one, whole = _sealing_one(batch, 1), b"".join(adverts)
    target(setup, BatchSetup.advertised, adverts[1], one)
    for site, data in zip(members, adverts, strict=True):
        setup.advertised(site, data)
    target(parties[1], SiteParty.share, whole, _sealing_list(batch, wire.advert_size(batch)))
    public = adverts[1][HEAD : HEAD + 32]
    channels = [agree(party._secrets.channel, public) for party in parties]
    shares = [party.share(whole) for party in parties]
    target(setup, BatchSetup.shared, shares[1], _sealing_first(batch, 1, wire.roots_size(batch)))
    for site, data in zip(members, shares, strict=True):
        setup.shared(site, data)
    delivery, dealers = setup.delivery(members[1]), (0, 2, 3)
    plain = delivery[: wire.roots_size(batch) * batch.size]
    for dealer, box in zip(dealers, _pieces(delivery[len(plain) :], wire.box_size(batch)), strict=True):
        context = batch.way(dealer, 1) + sha256(whole).digest()
        plain += open_box(derive(channels[dealer], b"box", context), box, context)
    target(parties[1], SiteParty.open, delivery, _sealing_delivery(batch, channels, 1, whole), plain)
    opened = [party.open(setup.delivery(party.site)) for party in parties]
    target(setup, BatchSetup.opened, opened[1], one)
    for site, data in zip(members, opened, strict=True):
        setup.opened(site, data)

    cohort = Cohort(batch, parties, setup.finish())
    context = cohort.context(terms, 1)
    slot = SlotSum(cohort.opened, context, terms)
    cohort.taken(context)
    masked = [party.mask(np.zeros(3, dtype=np.uint32), terms) for party in parties]
    target(slot, SlotSum.masked, masked[1], _sealing_masked(batch, 1))
    for index in (0, 1, 3):
        slot.masked(members[index], masked[index])
    request = slot.confirm_request()
    target(parties[1], SiteParty.confirm, request)
    confirms = {index: parties[index].confirm(request) for index in (0, 1, 3)}
    target(slot, SlotSum.confirmed, confirms[1], one)
    for index, data in confirms.items():
        slot.confirmed(members[index], data)
    unmask = slot.unmask_request()
    target(parties[1], SiteParty.unmask, unmask, _sealing_confirmations(batch))
    target(slot, SlotSum.revealed, parties[1].unmask(unmask), one)
    return found
