"""The proof that one entry is in an audit log, as a small file that shows nothing of the other entries. Pure.

Canonical JSON: the entry's text, its number, the hashes of RFC 9162 §2.1.3 in lower-case hex, the log's signed checkpoint, and the
public key. Other entries appear as hashes only, and every entry holds 16 random bytes, so a hash does not tell what it is of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fedward.privacy.auditentries import LogEntry, parse_entry
from fedward.privacy.canonical import canonical_json
from fedward.privacy.checkpoint import Note, check_signed, parse_note
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.merkle import check_inclusion, leaf_hash

KIND: Final = "fedward-audit-proof"
FORMAT: Final = 1
MAX_BYTES: Final = 128 * 1024
_FIELDS: Final = {"kind", "format", "number", "entry", "proof", "checkpoint", "key"}


@dataclass(frozen=True)
class EntryProof:
    """A proof that holds: the entry, and the checkpoint that contains it."""

    entry: LogEntry
    checkpoint: Note
    key: str


def write_proof(entry: LogEntry, proof: Sequence[bytes], checkpoint: Note, key: str) -> bytes:
    """The file's bytes; `proof` is of inclusion in the checkpoint's log."""
    body = {
        "kind": KIND, "format": FORMAT, "number": entry.number, "entry": entry.data.decode(),
        "proof": [one.hex() for one in proof], "checkpoint": checkpoint.text, "key": key,
    }  # fmt: skip
    return canonical_json(body) + b"\n"


def is_proof(first: bytes) -> bool:
    """Whether a file's first line says that it is one."""
    return f'"kind":"{KIND}"'.encode() in first


def read_proof(data: bytes, key: str | None = None) -> EntryProof:
    """Check a proof whole.

    Args:
        data: the file's bytes.
        key: the log's public key as its reader knows it (64 hex digits).

    Raises:
        InputError: it is no proof, or has the format of another version.
        IntegrityError: it does not hold: `audit-changed`, `bad-signature` or `foreign-key`.
    """
    try:
        found = json.loads(data) if len(data) <= MAX_BYTES else None
        whole = isinstance(found, dict) and set(found) == _FIELDS and canonical_json(found) + b"\n" == data
    except (ValueError, RecursionError, InputError):
        found, whole = None, False
    if found is None or not whole or found["kind"] != KIND or found["format"] != FORMAT:
        raise InputError("this is no proof of an audit entry", remedy="make it again: fedward audit prove NUMBER")
    number, text, hashes, signer = found["number"], found["entry"], found["proof"], found["key"]
    formed = (
        type(number) is int
        and type(text) is str
        and type(hashes) is list
        and all(type(one) is str and re.fullmatch("[0-9a-f]{64}", one) for one in hashes)
        and type(signer) is str
        and re.fullmatch("[0-9a-f]{64}", signer) is not None
        and type(found["checkpoint"]) is str
    )
    if not formed:
        raise _changed("the proof was changed: a field is not of its form")
    try:
        note, entry = parse_note(found["checkpoint"]), parse_entry(text.encode(), number)
    except FedwardError as error:
        raise _changed(f"the proof was changed: {error.what}") from None
    checkpoint = check_signed(note, signer)
    check_inclusion(
        leaf_hash(entry.data), number, checkpoint.size, checkpoint.root, [bytes.fromhex(one) for one in hashes]
    )
    if key is not None and key != signer:
        raise IntegrityError("the proof is of another log's key", expected=key, got=signer, code="foreign-key")
    return EntryProof(entry, note, signer)


def _changed(what: str) -> IntegrityError:
    return IntegrityError(what, remedy="ask for a fresh proof", code="audit-changed")
