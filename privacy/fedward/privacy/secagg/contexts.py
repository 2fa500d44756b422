"""What a message belongs to: the batch, a message's way within it, a slot's attempt at a round. Pure.

    SetupCtx  = (protocol, study, batch, cohort and keys, threshold, quorum, slots; sender, recipient); the stage is a
                message's kind
    SetupHash = hash of all signed adverts and share roots of the batch
    RoundCtx  = (SetupHash, slot, round, attempt, base-model digest, terms digest)

A site builds `Batch` itself, from the manifest that its hospital approved and the cohort that the coordinator names.
Everything derived, signed or encrypted is bound to one of these, in one canonical form.

The bound on collusion. Against a lying coordinator with c of the n sites, the promise holds for
    c ≤ min(2t − n − 1, t − 2).
Two different (RoundCtx, survivor set) pairs opened in one slot need t signers each, hence at least 2t − n common ones, of which
2t − n − c are honest, and an honest site signs once a slot. And a sum has at least t members, of which t − c ≥ 2 are honest, so
that it is not one site's vector. One colluder more, and split views can open a vector whole. As the coordinator picks the
cohort, the approved manifest says how many colluders every batch must withstand, and a site refuses a batch that does not.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from fedward.privacy.secagg.faults import COORDINATOR, ProtocolError

PROTOCOL = 1
MIN_MEMBERS = 3
MAX_MEMBERS = 200
MAX_SLOTS = 64

_HEX_64 = re.compile(r"[0-9a-f]{64}")
_HEX_32 = re.compile(r"[0-9a-f]{32}")


def least_threshold(members: int, withstands: int = 1) -> int:
    """The least t ≥ ⌊2n/3⌋ + 1 whose promise holds against so many colluders; above n where none does."""
    return max(2 * members // 3 + 1, (members + withstands + 2) // 2, withstands + 2)


def framed(*parts: bytes) -> bytes:
    """Parts with their lengths, so that no two lists of parts have the same bytes."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


@dataclass(frozen=True)
class Batch:
    """A fixed cohort with its threshold, set up once for a number of one-time slots.

    Attributes:
        study: the study digest, 64 hex characters.
        batch: the coordinator's name for the batch, 32 hex characters.
        members: the cohort, in roster order.
        keys: their Ed25519 public keys from the roster, 64 hex characters each.
        threshold: shares that open a secret.
        quorum: the fewest survivors that the study releases a sum of.
        slots: how many sums the batch serves.
        withstands: colluders that the study promised to withstand.

    Raises:
        ProtocolError: a floor is violated or the cohort is malformed; nothing may be trained or masked in it.
    """

    study: str
    batch: str
    members: tuple[str, ...]
    keys: tuple[str, ...]
    threshold: int
    quorum: int
    slots: int
    withstands: int = 1

    def __post_init__(self) -> None:
        n = len(self.members)
        numbers = (self.threshold, self.quorum, self.slots, self.withstands)
        if any(type(number) is not int for number in numbers):
            raise _refused("a batch's numbers are whole numbers", "malformed", got=str(numbers)[:80])
        if any(
            type(text) is not str or not text.isascii() for text in (self.study, self.batch, *self.members, *self.keys)
        ):
            raise _refused("a batch's names and keys are ASCII text", "malformed")
        if not _HEX_64.fullmatch(self.study) or not _HEX_32.fullmatch(self.batch):
            raise _refused("a batch needs the digest of its study and a name", "malformed", got=self.batch[:80])
        if not MIN_MEMBERS <= n <= MAX_MEMBERS:
            raise _refused(
                "the cohort is too small or too large for a secure sum",
                "cohort-size",
                expected=f"{MIN_MEMBERS} to {MAX_MEMBERS} sites",
                got=str(n),
            )
        distinct = len(set(self.members)) == n and len(set(self.keys)) == n
        if len(self.keys) != n or not distinct or not all(_HEX_64.fullmatch(key) for key in self.keys):
            raise _refused("the cohort must name each site and key once", "cohort-doubles", got=str(self.members)[:200])
        if not least_threshold(n) <= self.threshold <= n:
            raise _refused(
                "the threshold is too low for the cohort",
                "threshold-too-low",
                expected=f"{least_threshold(n)} to {n} of {n}",
                got=str(self.threshold),
            )
        if not 1 <= self.withstands <= self.colluders:
            raise _refused(
                "the batch would not withstand the colluders that the study promised",
                "threshold-too-low",
                expected=f"a promise against {self.withstands} colluding sites",
                got=f"{self.threshold} of {n}, which holds against {self.colluders}",
            )
        if not 1 <= self.quorum <= n:
            raise _refused(
                "the cohort cannot make the study's quorum",
                "cohort-size",
                expected=f"at least {self.quorum} sites",
                got=str(n),
            )
        if not 1 <= self.slots <= MAX_SLOTS:
            raise _refused("a batch has 1 to 64 slots", "malformed", got=str(self.slots))

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def floor(self) -> int:
        """The fewest survivors of a sum: max(t, quorum)."""
        return max(self.threshold, self.quorum)

    @property
    def tolerated(self) -> int:
        """Sites that may drop out of a sum without costing it: 0 for three sites."""
        return self.size - self.floor

    @property
    def colluders(self) -> int:
        """Sites that may collude with a lying coordinator without breaking the promise for the others."""
        return min(2 * self.threshold - self.size - 1, self.threshold - 2)

    @cached_property
    def digest(self) -> bytes:
        cohort = framed(*(name.encode() for name in self.members))
        numbers = struct.pack(">BHHHH", PROTOCOL, self.threshold, self.quorum, self.slots, self.withstands)
        keys = b"".join(bytes.fromhex(key) for key in self.keys)
        return sha256(
            framed(b"batch", numbers, bytes.fromhex(self.study), bytes.fromhex(self.batch), cohort, keys)
        ).digest()

    def index(self, site: str) -> int:
        """A member's place in the cohort.

        Raises:
            ProtocolError: it is no member.
        """
        try:
            return self.members.index(site)
        except ValueError:
            raise _refused(f'site "{site}" is not in the cohort', "not-a-member") from None

    def way(self, dealer: int, recipient: int) -> bytes:
        """SetupCtx of what a dealer shares with a recipient, 36 bytes."""
        return self.digest + struct.pack(">HH", dealer, recipient)


@dataclass(frozen=True)
class RoundContext:
    """RoundCtx: one slot's use. All members must be told the same, or their masks do not cancel."""

    setup: bytes
    slot: int
    round: int
    attempt: int
    base: bytes
    terms: bytes

    SIZE = 106

    def __post_init__(self) -> None:
        if not (len(self.setup) == len(self.base) == len(self.terms) == 32):
            raise _refused("a round's context needs three digests of 32 bytes", "malformed")
        if not (0 <= self.slot < MAX_SLOTS and 1 <= self.round < 2**32 and 1 <= self.attempt < 2**32):
            raise _refused(
                "a slot, round or attempt is out of range",
                "malformed",
                got=f"slot {self.slot}, round {self.round}, attempt {self.attempt}",
            )

    @cached_property
    def encoded(self) -> bytes:
        numbers = struct.pack(">HII", self.slot, self.round, self.attempt)
        return self.setup + numbers + self.base + self.terms

    @cached_property
    def digest(self) -> bytes:
        return sha256(b"fedward round context\x00" + self.encoded).digest()

    @classmethod
    def decode(cls, data: bytes) -> RoundContext:
        """
        Raises:
            ProtocolError: not 106 bytes, or a number is out of range.
        """
        if len(data) != cls.SIZE:
            raise _refused("a round's context has the wrong length", "malformed", got=f"{len(data)} bytes")
        slot, round_, attempt = struct.unpack(">HII", data[32:42])
        return cls(data[:32], slot, round_, attempt, data[42:74], data[74:])

    def difference(self, other: RoundContext) -> str:
        """The name of the first field in which two contexts differ; "" when they are equal."""
        for name in ("setup", "slot", "round", "attempt", "base", "terms"):
            if getattr(self, name) != getattr(other, name):
                return name
        return ""


def _refused(what: str, code: str, *, expected: str | None = None, got: str | None = None) -> ProtocolError:
    return ProtocolError(what, code=code, blamed=COORDINATOR, expected=expected, got=got)
