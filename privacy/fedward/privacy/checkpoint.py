"""Checkpoints of audit logs: a log's size and root, signed, and cosigned by others who saw it only grow. Pure.

    origin                       the log's name, for its whole life
    20852163                     how many entries it has
    CsUYapGGPo4dkMgIAUqom…       the root of their Merkle tree, base64
                                 an empty line, then signatures, a line each
    — origin base64(key id ‖ signature)                by the log's own key, over the three lines
    — cosigner base64(key id ‖ time ‖ signature)       by who verified its consistency, at that time

Follows C2SP signed-note, tlog-checkpoint and tlog-cosignature (type 0x04), so that other tools read it. No extension lines are
written, and none are taken.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fedward.privacy.errors import InputError, IntegrityError, UsageError
from fedward.privacy.merkle import HASH_BYTES
from fedward.privacy.signing import SIGNATURE_BYTES, Identity, from_text, to_text, verify_note

ORIGIN: Final = r"fedward/(site|coordinator)/[a-z0-9][a-z0-9_-]{0,63}(/[0-9a-f]{16})?"
"""What Fedward's logs and cosigners are called."""

MAX_NOTE_BYTES: Final = 40_000
MAX_SIGNATURES: Final = 256
MAX_SIZE: Final = 2**53

_ED25519: Final = 1
_COSIGNATURE: Final = 4
_KEY_ID_BYTES: Final = 4
_TIME_BYTES: Final = 8
_DASH: Final = "\N{EM DASH}"


@dataclass(frozen=True)
class Checkpoint:
    """What a log had come to: `size` entries under `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note's text: what is signed."""
        return f"{self.origin}\n{self.size}\n{to_text(self.root)}\n"


@dataclass(frozen=True)
class Signature:
    """One signature line of a note, not checked."""

    name: str
    key_id: bytes
    data: bytes

    @property
    def line(self) -> str:
        return f"{_DASH} {self.name} {to_text(self.key_id + self.data)}\n"


@dataclass(frozen=True)
class Note:
    """A checkpoint and the lines under it, none of them checked."""

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]

    @property
    def text(self) -> str:
        """The whole note."""
        return f"{self.checkpoint.text}\n{''.join(signature.line for signature in self.signatures)}"

    def with_signatures(self, more: Iterable[Signature]) -> Note:
        """The note with further lines; one of the same key replaces the one that was there."""
        kept = {(one.name, one.key_id): one for one in self.signatures}
        kept |= {(one.name, one.key_id): one for one in more}
        return Note(self.checkpoint, tuple(kept.values()))


def sign_checkpoint(checkpoint: Checkpoint, identity: Identity) -> Note:
    """The checkpoint signed by its log's key."""
    _check_name(checkpoint.origin)
    data = identity.sign_note(checkpoint.text)
    return Note(checkpoint, (Signature(checkpoint.origin, key_id(checkpoint.origin, identity.public), data),))


def cosign(checkpoint: Checkpoint, name: str, identity: Identity, at: int) -> Signature:
    """A cosignature: at `at` (Unix seconds) this is the newest checkpoint that `name` has seen of the log, consistent with
    all before. The caller has verified that."""
    _check_name(name)
    data = struct.pack(">Q", at) + identity.sign_note(_cosigned(checkpoint, at))
    return Signature(name, key_id(name, identity.public, cosignature=True), data)


def parse_note(text: str) -> Note:
    """A note's parts, in the one form in which they can be written; nothing is verified.

    Raises:
        InputError: it is no checkpoint of an audit log, or its form is another.
    """
    if len(text.encode(errors="replace")) > MAX_NOTE_BYTES:
        raise _no_note("it is too large")
    body, separator, below = text.rpartition("\n\n")
    lines = body.split("\n")
    if not separator or len(lines) != 3 or not re.fullmatch(ORIGIN, lines[0]):
        raise _no_note("its lines are not an origin, a size and a root")
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", lines[1]):
        raise _no_note("its size is no number")
    root = _exact(lines[2], HASH_BYTES, "root")
    found = [_signature(line) for line in below.removesuffix("\n").split("\n")]
    note = Note(Checkpoint(lines[0], int(lines[1]), root), tuple(found))
    if not 1 <= len(found) <= MAX_SIGNATURES or note.text != text or note.checkpoint.size > MAX_SIZE:
        raise _no_note("it has another form")
    return note


def check_signed(note: Note, key: str) -> Checkpoint:
    """The checkpoint, its log's own signature verified by the key (64 hex digits).

    Raises:
        IntegrityError: the log's key did not sign it.
    """
    origin = note.checkpoint.origin
    own = [one for one in note.signatures if (one.name, one.key_id) == (origin, key_id(origin, key))]
    if len(own) != 1:
        raise IntegrityError(
            f"the checkpoint of {origin} is not signed by the log's key",
            remedy="compare the key with the log's owner",
            code="bad-signature",
        )
    verify_note(key, note.checkpoint.text, own[0].data, f"the checkpoint of {origin}")
    return note.checkpoint


def cosigned_at(note: Note, name: str, key: str) -> int | None:
    """When `name` cosigned the checkpoint (Unix seconds); None if it did not.

    Raises:
        IntegrityError: a cosignature that says to be of that key is not.
    """
    wanted = (name, key_id(name, key, cosignature=True))
    found = [one for one in note.signatures if (one.name, one.key_id) == wanted]
    if not found:
        return None
    data = found[0].data
    if len(found) != 1 or len(data) != _TIME_BYTES + SIGNATURE_BYTES:
        raise IntegrityError(f"the cosignature of {name} is damaged", code="bad-signature")
    (at,) = struct.unpack(">Q", data[:_TIME_BYTES])
    if at >= 2**63:
        raise IntegrityError(f"the cosignature of {name} is damaged", code="bad-signature")
    verify_note(key, _cosigned(note.checkpoint, at), data[_TIME_BYTES:], f"the cosignature of {name}")
    return int(at)


def cosigners(note: Note, keys: Mapping[str, str]) -> dict[str, int]:
    """Who of `keys` (name → public key) cosigned the checkpoint, and when; errors as `cosigned_at`. Others are ignored."""
    times = {name: cosigned_at(note, name, key) for name, key in keys.items()}
    return {name: at for name, at in times.items() if at is not None}


def key_id(name: str, public: str, *, cosignature: bool = False) -> bytes:
    """SHA-256(name ‖ 0x0A ‖ type ‖ public key)[:4]: tells keys apart, and proves nothing.

    Raises:
        InputError: `public` is no key in hex.
    """
    kind = _COSIGNATURE if cosignature else _ED25519
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + _raw(public)).digest()[:_KEY_ID_BYTES]


def verifier_key(name: str, public: str, *, cosignature: bool = False) -> str:
    """The key as other tools of C2SP's signed notes take it (vkey)."""
    kind = _COSIGNATURE if cosignature else _ED25519
    return f"{name}+{key_id(name, public, cosignature=cosignature).hex()}+{to_text(bytes([kind]) + _raw(public))}"


def _cosigned(checkpoint: Checkpoint, at: int) -> str:
    return f"cosignature/v1\ntime {at}\n{checkpoint.text}"


def _signature(line: str) -> Signature:
    found = re.fullmatch(rf"{_DASH} ([^\s+]+) ([A-Za-z0-9+/]+={{0,2}})", line)
    if found is None:
        raise _no_note("a line below it is no signature")
    raw = from_text(found[2], "a note's signature")
    if len(raw) <= _KEY_ID_BYTES:
        raise _no_note("a signature is too short")
    return Signature(found[1], raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:])


def _exact(text: str, size: int, what: str) -> bytes:
    try:
        raw = from_text(text, what)
    except IntegrityError:
        raise _no_note(f"its {what} is no base64") from None
    if len(raw) != size:
        raise _no_note(f"its {what} has {len(raw)} bytes")
    return raw


def _raw(public: str) -> bytes:
    try:
        return bytes.fromhex(public)
    except ValueError:
        raise InputError("this is no public key", expected="64 hex digits") from None


def _check_name(name: str) -> None:
    if not re.fullmatch(ORIGIN, name):
        raise UsageError("no audit log is called so", expected=ORIGIN, got=name[:100])


def _no_note(why: str) -> InputError:
    return InputError(
        f"this is no checkpoint of an audit log: {why}", remedy="ask for a fresh copy", code="audit-malformed"
    )
