"""One site's side of one batch, as a pure state machine: messages in, messages out. No IO, no clock, no randomness of its own.

Rules
    1. advertise → share → open, each once. The floors (threshold, quorum, cohort, colluders) were checked when `Batch` was
       built, from the approved manifest. Nothing is dealt to a key that the roster's key of its owner did not sign.
    2. `open` verifies every box against its dealer's signed root, and drops the channel key. Nothing is masked before every
       box of the batch was found good.
    3. `take` consumes a slot, before any data is read: only a slot, and an attempt, above all that were taken.
    4. `mask` masks one vector in the taken slot, then forgets the slot's mask key and seed.
    5. `confirm` signs one survivor set in a slot: this site must be in it, it must have sent its vector, and the set must have
       at least max(t, quorum) members.
    6. `unmask` reveals once a slot, for the very set it confirmed, shown the signatures of at least max(t, quorum) distinct
       survivors over that set and the same RoundCtx. Per (slot, peer) one kind of share ever leaves: the seed's for a
       survivor, the mask key's for a dropped one. The slot's shares are then forgotten.
    7. What does not fit raises `ProtocolError`, reveals nothing, and leaves the machine as it was. Who passed a false message on
       is blamed, the coordinator, not who is named in it; a dealer only for what it signed.
    8. A step is marked as done before it begins to do it: whatever interrupts it, a secret is not used twice.

Secrets live in this object alone and are never written anywhere: a restarted site has left the batch. They are overwritten when
they are dropped, as well as Python allows; a copy made inside a library may outlive them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedward.privacy.errors import InputError
from fedward.privacy.secagg import wire
from fedward.privacy.secagg.commitments import Tree
from fedward.privacy.secagg.contexts import Batch, RoundContext
from fedward.privacy.secagg.derivations import commitment, key_leaf, pair_key, seed_leaf, self_key, subtracts
from fedward.privacy.secagg.faults import COORDINATOR, ProtocolError
from fedward.privacy.secagg.keys import KEY_BYTES, agree, close_box, derive, is_small_order, open_box, public_of
from fedward.privacy.secagg.masks import Ring, apply, check
from fedward.privacy.secagg.ring import RingTerms
from fedward.privacy.secagg.shamir import SHARE_BYTES, Entropy, split, to_element
from fedward.privacy.secagg.transcript import setup_hash
from fedward.privacy.signing import Identity


class Phase(IntEnum):
    NEW = 0
    ADVERTISED = 1
    SHARED = 2
    OPEN = 3
    CLOSED = 4


class Step(IntEnum):
    TAKEN = 0
    MASKED = 1
    CONFIRMED = 2
    REVEALED = 3


@dataclass
class _Slot:
    """The slot in use: the only one whose secrets are still needed."""

    context: RoundContext
    step: Step = Step.TAKEN
    survivors: frozenset[int] = frozenset()


@dataclass
class _Held:
    """One dealer's shares for this site, and the tree that proves them."""

    shares: list[bytearray] = field(repr=False)
    tree: Tree


@dataclass
class _Secrets:
    """This site's own secrets of a batch, each overwritten as soon as it has done its work."""

    channel: X25519PrivateKey | None = field(repr=False)
    masks: list[bytearray] = field(repr=False)
    seeds: list[bytearray] = field(repr=False)
    held: list[_Held] = field(default_factory=list, repr=False)


class SiteParty:
    """A member of a batch.

    Args:
        batch: built by this site from the approved manifest.
        site: its own name.
        identity: its long-term key, the one in the roster.
        entropy: `os.urandom` at a hospital.
        seen: the highest attempt of the study that this site has ever taken part in, in any run. A coordinator numbers attempts
            upwards, whatever round they are of: one that lost a model goes back to an earlier round, and never to an attempt.
    """

    def __init__(self, batch: Batch, site: str, identity: Identity, entropy: Entropy, seen: int = 0) -> None:
        self.batch = batch
        self.site = site
        self._me = batch.index(site)
        if batch.keys[self._me] != identity.public:
            raise ProtocolError(
                "the roster names another key for this site", code="key-substituted", blamed=COORDINATOR
            )
        self._identity = identity
        self._entropy = entropy
        self._phase = Phase.NEW
        self._seen = seen
        self._last_slot = -1
        self._slot: _Slot | None = None
        self._used: set[bytes] = set()
        self._adverts: list[wire.Advert] = []
        self._adverts_digest = b""
        self._setup = b""
        self._secrets = _Secrets(None, [], [])

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def setup_hash(self) -> bytes:
        """SetupHash, 32 bytes.

        Raises:
            ProtocolError: the batch is not open.
        """
        self._expect(Phase.OPEN)
        return self._setup

    @property
    def seen(self) -> int:
        """The highest attempt taken so far."""
        return self._seen

    # setup, once a batch

    def advertise(self) -> bytes:
        """This site's signed public keys: one for the channel and one a slot.

        Raises:
            ProtocolError: it has advertised already.
        """
        self._expect(Phase.NEW)
        slots = self.batch.slots
        channel = X25519PrivateKey.from_private_bytes(self._entropy(KEY_BYTES))
        masks = [bytearray(self._entropy(KEY_BYTES)) for _ in range(slots)]
        seeds = [bytearray(self._entropy(KEY_BYTES)) for _ in range(slots)]
        self._secrets = _Secrets(channel, masks, seeds)
        advert = wire.Advert(channel.public_key().public_bytes_raw(), tuple(public_of(mask) for mask in masks))
        self._phase = Phase.ADVERTISED
        return wire.seal_advert(self.batch, self._me, advert, self._identity)

    def share(self, data: bytes) -> bytes:
        """Deal every secret to every member.

        Args:
            data: all members' signed adverts, in cohort order.

        Returns:
            This site's signed roots, then a box a peer, in cohort order.

        Raises:
            ProtocolError: an advert is false, missing or not this site's own; the batch must not be used.
        """
        self._expect(Phase.ADVERTISED)
        adverts = [
            wire.open_advert(self.batch, i, raw, COORDINATOR)
            for i, raw in enumerate(wire.split_adverts(self.batch, data))
        ]
        self._check_adverts(adverts)
        digest = sha256(data).digest()
        trees, contents = self._deal()
        boxes = {
            peer: self._close(peer, adverts[peer].channel, contents[peer], digest)
            for peer in range(self.batch.size)
            if peer != self._me
        }
        hashes = tuple(sha256(boxes[i]).digest() if i in boxes else bytes(32) for i in range(self.batch.size))
        signed = wire.Roots(tuple(tree.cap for tree in trees), hashes)
        roots = wire.seal_roots(self.batch, self._me, digest, signed, self._identity)
        # The dealer keeps its own share.
        self._secrets.held = [_Held(_cut(contents[self._me]), trees[self._me])]
        self._adverts, self._adverts_digest, self._phase = adverts, digest, Phase.SHARED
        return roots + b"".join(boxes.values())

    def open(self, data: bytes) -> bytes:
        """Open and verify every box.

        Args:
            data: all members' signed roots, then the other members' boxes for this site, in cohort order.

        Returns:
            This site's signature over SetupHash.

        Raises:
            ProtocolError: roots or a box are false; the batch must not be used.
        """
        self._expect(Phase.SHARED)
        raw_roots, boxes = wire.split_delivery(self.batch, data)
        roots = [
            wire.open_roots(self.batch, i, raw, self._adverts_digest, COORDINATOR) for i, raw in enumerate(raw_roots)
        ]
        own = self._secrets.held[0]
        if roots[self._me].caps[self._me] != own.tree.cap:
            raise ProtocolError("this site's own roots came back changed", code="roots-changed", blamed=COORDINATOR)
        dealers = [i for i in range(self.batch.size) if i != self._me]
        held = {i: self._open_box(i, box, roots[i]) for i, box in zip(dealers, boxes, strict=True)}
        held[self._me] = own
        self._secrets.held = [held[i] for i in range(self.batch.size)]
        self._secrets.channel = None
        self._setup = setup_hash(self.batch, self._adverts_digest, raw_roots)
        self._phase = Phase.OPEN
        return wire.seal_opened(self.batch, self._me, self._setup, self._identity)

    def _check_adverts(self, adverts: list[wire.Advert]) -> None:
        channel = self._secrets.channel
        own = wire.Advert(
            channel.public_key().public_bytes_raw() if channel else b"",
            tuple(public_of(mask) for mask in self._secrets.masks),
        )
        if adverts[self._me] != own:
            raise ProtocolError("this site's own keys came back changed", code="key-substituted", blamed=COORDINATOR)
        for index, advert in enumerate(adverts):
            if any(is_small_order(key) for key in (advert.channel, *advert.masks)):
                raise ProtocolError(
                    f"{self.batch.members[index]} advertises a key of small order",
                    code="weak-key",
                    blamed=self.batch.members[index],
                )

    def _deal(self) -> tuple[list[Tree], list[bytes]]:
        """A tree and the concatenated shares per recipient: seed and mask key of each slot, slot by slot."""
        batch = self.batch
        per_recipient: list[list[bytes]] = [[] for _ in range(batch.size)]
        for seed, mask in zip(self._secrets.seeds, self._secrets.masks, strict=True):
            for secret in (seed, mask):
                for shares, share in zip(
                    per_recipient, split(bytes(secret), batch.threshold, batch.size, self._entropy), strict=True
                ):
                    shares.append(share)
        trees = [Tree(batch.way(self._me, recipient), shares) for recipient, shares in enumerate(per_recipient)]
        return trees, [b"".join(shares) for shares in per_recipient]

    def _close(self, peer: int, public: bytes, content: bytes, adverts: bytes) -> bytes:
        context = self.batch.way(self._me, peer) + adverts
        return close_box(self._channel_key(public, context), content, context)

    def _open_box(self, dealer: int, box: bytes, signed: wire.Roots) -> _Held:
        way = self.batch.way(dealer, self._me)
        context = way + self._adverts_digest
        name = self.batch.members[dealer]
        if sha256(box).digest() != signed.boxes[self._me]:
            raise ProtocolError(f"the box of {name} is not the one it signed", code="box-changed", blamed=COORDINATOR)
        try:
            content = open_box(self._channel_key(self._adverts[dealer].channel, context), box, context)
            shares = _cut(content)
            for share in shares:
                to_element(bytes(share))
        except InputError:
            raise ProtocolError(f"the box of {name} does not open", code="box-invalid", blamed=name) from None
        tree = Tree(way, [bytes(share) for share in shares])
        if tree.cap != signed.caps[self._me]:
            raise ProtocolError(
                f"the shares of {name} are not the ones that it committed to", code="root-mismatch", blamed=name
            )
        return _Held(shares, tree)

    def _channel_key(self, public: bytes, context: bytes) -> bytes:
        if self._secrets.channel is None:
            raise ProtocolError("the channel key is gone", code="out-of-order")
        return derive(agree(self._secrets.channel, public), b"box", context)

    # a slot

    def take(self, context: RoundContext) -> None:
        """Consume a slot for one attempt, before any data is read.

        Raises:
            ProtocolError: another batch's context, a slot used already or beyond the batch, or an attempt not above all
                that were taken.
        """
        self._expect(Phase.OPEN)
        if context.setup != self._setup:
            raise ProtocolError("the request belongs to another batch", code="replayed", blamed=COORDINATOR)
        if not self._last_slot < context.slot < self.batch.slots:
            raise ProtocolError(
                "the slot is used or is not in the batch",
                code="slot-used",
                blamed=COORDINATOR,
                expected=f"{self._last_slot + 1} to {self.batch.slots - 1}",
                got=str(context.slot),
            )
        if not context.attempt > self._seen:
            raise ProtocolError(
                "the attempt is not above all that this site has taken part in",
                code="attempt-replayed",
                blamed=COORDINATOR,
                expected=f"above attempt {self._seen}",
                got=f"attempt {context.attempt}, of round {context.round}",
            )
        first, self._last_slot = max(self._last_slot, 0), context.slot
        self._seen, self._slot = context.attempt, None
        self._forget(first, context.slot)
        self._slot = _Slot(context)
        self._used.add(context.digest)

    def mask(self, vector: Ring, terms: RingTerms) -> bytes:
        """Mask a vector in the taken slot. The vector is changed in place.

        Args:
            vector: shape (m,), encoded in the ring of the terms.
            terms: the ring's terms, whose digest stands in RoundCtx.

        Returns:
            The masked message.

        Raises:
            ProtocolError: no slot is taken, or it was masked already.
            InputError: the vector does not fit the terms.
        """
        slot = self._at(Step.TAKEN)
        if slot.context.terms != terms.digest:
            raise InputError("the terms are not those that the slot was taken for")
        if vector.shape != (terms.length,) or vector.dtype != terms.dtype or terms.members != self.batch.size:
            raise InputError("the vector does not fit the terms", expected=f"({terms.length},)", code="wrong-shape")
        check(vector)
        number, me = slot.context.slot, self._me
        seed, private = self._secrets.seeds[number], self._secrets.masks[number]
        key = X25519PrivateKey.from_private_bytes(private)
        keys = [(self_key(seed, slot.context, me), False)]
        for peer, advert in enumerate(self._adverts):
            if peer != me:
                keys.append((pair_key(key, advert.masks[number], slot.context, me, peer), subtracts(me, peer)))
        sealed = commitment(seed, slot.context, me)
        slot.step = Step.MASKED
        apply(vector, keys)
        _erase(seed)
        _erase(private)
        return wire.seal_masked(me, slot.context, sealed, vector.data.cast("B"), self._identity)

    def confirm(self, data: bytes) -> bytes:
        """Sign a survivor set.

        Raises:
            ProtocolError: it is another slot's, too small, without this site, or a set was signed in this slot already.
        """
        digest, survivors = wire.open_survivors(self.batch, data)
        slot = self._current(digest)
        if slot.step >= Step.CONFIRMED:
            same = survivors == slot.survivors
            raise ProtocolError(
                "a survivor set was signed in this slot already",
                code="repeated" if same else "second-survivor-set",
                blamed=COORDINATOR,
                lie=not same,
            )
        self._at(Step.MASKED)
        self._check_survivors(survivors)
        slot.survivors, slot.step = survivors, Step.CONFIRMED
        return wire.seal_confirm(self.batch, self._me, slot.context, survivors, self._identity)

    def survivors_named(self, data: bytes) -> tuple[str, ...]:
        """The survivor set that a request to confirm or to unmask names, in cohort order; nothing else is checked.

        Raises:
            ProtocolError: the request is too short or names sites beyond the cohort.
        """
        size = len(wire.encode_set(self.batch, frozenset()))
        named = wire.open_survivors(self.batch, data[: 32 + size])[1]
        return tuple(self.batch.members[index] for index in sorted(named))

    def unmask(self, data: bytes) -> bytes:
        """Reveal one share a peer, for the survivor set that this site confirmed.

        Raises:
            ProtocolError: another set or slot, too few or false confirmations, or shares were revealed already.
        """
        digest, survivors, confirms = wire.open_confirmations(self.batch, data)
        slot = self._current(digest)
        if slot.step == Step.REVEALED:
            raise ProtocolError(
                "the shares of this slot were revealed already", code="second-unmask", blamed=COORDINATOR
            )
        self._at(Step.CONFIRMED)
        if survivors != slot.survivors:
            raise ProtocolError(
                "the set to unmask is not the one that this site confirmed",
                code="survivors-unequal",
                blamed=COORDINATOR,
            )
        self._check_confirmations(slot, confirms)
        number = slot.context.slot
        leaves = [seed_leaf(number) if i in survivors else key_leaf(number) for i in range(self.batch.size)]
        shares = tuple(
            (bytes(held.shares[at]), held.tree.path(at)) for held, at in zip(self._secrets.held, leaves, strict=True)
        )
        slot.step = Step.REVEALED
        self._forget_shares(number)
        return wire.seal_reveal(self.batch, self._me, wire.Reveal(slot.context, survivors, shares), self._identity)

    def _check_survivors(self, survivors: frozenset[int]) -> None:
        if self._me not in survivors:
            raise ProtocolError(
                "this site is not in the survivor set that it should sign", code="not-a-survivor", blamed=COORDINATOR
            )
        if len(survivors) < self.batch.floor:
            raise ProtocolError(
                "the survivor set is too small",
                code="survivors-too-few",
                blamed=COORDINATOR,
                expected=f"at least {self.batch.floor}",
                got=str(len(survivors)),
            )

    def _check_confirmations(self, slot: _Slot, confirms: list[tuple[int, bytes]]) -> None:
        if len(confirms) < self.batch.floor:
            raise ProtocolError(
                "too few sites confirmed the survivor set",
                code="confirmations-too-few",
                blamed=COORDINATOR,
                expected=f"at least {self.batch.floor}",
                got=str(len(confirms)),
            )
        for signer, raw in confirms:
            confirm = wire.open_confirm(self.batch, signer, raw, slot.context, COORDINATOR)
            if confirm.survivors != slot.survivors:
                raise ProtocolError(
                    f"{self.batch.members[signer]} confirmed another survivor set",
                    code="survivors-unequal",
                    blamed=COORDINATOR,
                )

    def _current(self, digest: bytes) -> _Slot:
        if self._slot is None or self._slot.context.digest != digest:
            raise ProtocolError(
                "the request belongs to another slot, attempt or batch than the one in use",
                code="replayed",
                blamed=COORDINATOR,
                # Of a slot before this one it may just be late, and a site that holds no slot cannot tell.
                lie=self._slot is not None and digest not in self._used,
            )
        return self._slot

    def _at(self, step: Step) -> _Slot:
        if self._slot is None or self._slot.step != step:
            came = "no slot" if self._slot is None else self._slot.step.name.lower()
            raise ProtocolError(
                "the request comes out of order", code="out-of-order", expected=step.name.lower(), got=came, lie=False
            )
        return self._slot

    def _expect(self, phase: Phase) -> None:
        if self._phase != phase:
            raise ProtocolError(
                "the request comes out of order",
                code="out-of-order",
                expected=phase.name.lower(),
                got=self._phase.name.lower(),
                lie=False,
            )

    # erasure

    def _forget(self, first: int, end: int) -> None:
        """Slots `first` to `end` − 1 are never used again."""
        for number in range(first, end):
            _erase(self._secrets.seeds[number])
            _erase(self._secrets.masks[number])
            self._forget_shares(number)

    def _forget_shares(self, slot: int) -> None:
        for held in self._secrets.held:
            _erase(held.shares[seed_leaf(slot)])
            _erase(held.shares[key_leaf(slot)])

    def close(self) -> None:
        """Leave the batch: every secret is dropped, and the machine answers nothing any more."""
        self._secrets.channel = None
        for secret in (*self._secrets.seeds, *self._secrets.masks):
            _erase(secret)
        for slot in range(self.batch.slots if self._secrets.held else 0):
            self._forget_shares(slot)
        self._slot, self._phase = None, Phase.CLOSED
        self._secrets = _Secrets(None, [], [])


def _cut(content: bytes) -> list[bytearray]:
    return [bytearray(content[at : at + SHARE_BYTES]) for at in range(0, len(content), SHARE_BYTES)]


def _erase(secret: bytearray) -> None:
    secret[:] = bytes(len(secret))
