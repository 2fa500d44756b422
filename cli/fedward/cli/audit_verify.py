"""`fedward audit verify`: exports, proofs and checkpoints, checked without a network and without trusting who made them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.audit_log import as_data, as_line, progress
from fedward.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from fedward.privacy.auditcompare import Compared
    from fedward.privacy.auditexport import AuditExport
    from fedward.privacy.auditproof import EntryProof
    from fedward.privacy.checkpoint import Note

_MAX_LINE = 8192


def verify(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="Exports, proofs of `fedward audit prove`, or checkpoints (signed notes)."
        ),
    ],
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", help="A public key (64 hex digits) or its fingerprint, as you know it; once for each log."
        ),
    ] = None,
    as_json: bool = JsonOption,
) -> None:
    """Check audit logs, offline. The first entry that was changed, is missing, or stands in another's place is named.

    Several files are held against each other: a fork, a log that showed two parties different things, an older copy.
    """
    from fedward.privacy.auditcompare import compare

    exports, proofs, notes = _read(files, quiet=as_json)
    _check_keys(key or [], [one.key for one in exports] + [one.key for one in proofs])
    _check_notes(notes, {one.trailer.checkpoint.checkpoint.origin for one in exports}, key or [])
    compared = compare(exports, [*notes, *(one.checkpoint for one in proofs)])
    if as_json:
        print_json({"holds": True, "exports": [_export_data(one) for one in exports],
                    "proofs": [{"key": one.key, "entry": as_data(one.entry)} for one in proofs],
                    "contained": compared.contained, "not_compared": compared.open,
                    "keys_compared": bool(key)})  # fmt: skip
        return
    for export in exports:
        _say_export(export)
    for proof in proofs:
        checkpoint = proof.checkpoint.checkpoint
        say(f"{checkpoint.origin}: this entry is in the log of {checkpoint.size} entries")
        say(f"  {as_line(proof.entry)}")
    _say_compared(compared)
    if not key:
        _say_fingerprints([one.key for one in exports] + [one.key for one in proofs])


def _read(files: list[Path], *, quiet: bool) -> tuple[list[AuditExport], list[EntryProof], list[Note]]:
    from fedward.privacy.auditexport import read_audit_export
    from fedward.privacy.auditproof import MAX_BYTES, is_proof, read_proof
    from fedward.privacy.checkpoint import MAX_NOTE_BYTES, parse_note
    from fedward.privacy.errors import InputError, IntegrityError

    exports, proofs, notes = [], [], []
    for path in files:
        try:
            with path.open("rb") as file:
                first = file.readline(_MAX_LINE)
                file.seek(0)
                if first.startswith(b"fedward/"):
                    notes.append(parse_note(file.read(MAX_NOTE_BYTES + 1).decode(errors="replace")))
                elif is_proof(first):
                    proofs.append(read_proof(file.read(MAX_BYTES + 1)))
                else:
                    exports.append(read_audit_export(file, None, progress("checked", quiet=quiet)))
        except OSError as error:
            raise InputError(f"cannot read {path}", got=error.strerror or type(error).__name__) from None
        except (InputError, IntegrityError) as error:
            raise type(error)(
                f"{path.name}: {error.what}",
                expected=error.expected,
                got=error.got,
                remedy=error.remedy,
                code=error.code,
            ) from None
    return exports, proofs, notes


def _check_keys(given: list[str], found: list[str]) -> None:
    from fedward.privacy.errors import IntegrityError
    from fedward.privacy.signing import fingerprint

    if not given:
        return
    known = {text.lower() for text in given}
    for key in found:
        if not {key, fingerprint(key)} & known:
            raise IntegrityError(
                "a log is signed by a key that you did not give",
                expected=" or ".join(sorted(known)),
                got=fingerprint(key),
                remedy="compare fingerprints with the log's owner by telephone",
                code="foreign-key",
            )


def _check_notes(notes: list[Note], exported: set[str], keys: list[str]) -> None:
    """A checkpoint alone is checked by a key that was given; one beside its log's export, by that export's key."""
    from fedward.privacy.checkpoint import check_signed, key_id
    from fedward.privacy.errors import UsageError

    hexes = [text for text in keys if len(text) == 64]
    for note in notes:
        origin = note.checkpoint.origin
        named = {one.key_id for one in note.signatures if one.name == origin}
        fitting = [text for text in hexes if key_id(origin, text) in named]
        if fitting:
            check_signed(note, fitting[0])
        elif origin not in exported:
            raise UsageError(
                f"the checkpoint of {origin} cannot be checked",
                remedy="give the log's export beside it, or its public key: --key with 64 hex digits",
            )


def _export_data(export: AuditExport) -> dict[str, Any]:
    checkpoint = export.trailer.checkpoint.checkpoint
    return {
        "origin": export.origin, "key": export.key, "at": export.at, "size": export.size, "oldest": export.oldest,
        "root": checkpoint.root.hex(), "kinds": dict(export.kinds),
        "cosigned": {name: {"size": size, "at": at} for name, (size, at) in export.cosigners.items()},
    }  # fmt: skip


def _say_export(export: AuditExport) -> None:
    removed = f" ({export.oldest} of them as hashes, removed after their retention)" if export.oldest else ""
    say(f"{export.origin}: {export.size} entries{removed}, exported {_day(export.at)}")
    say(f"  every entry, the root and the signature hold: {export.trailer.checkpoint.checkpoint.root.hex()}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(export.kinds.items()))
    say(f"  {kinds}")
    for name, (size, at) in sorted(export.cosigners.items()):
        say(f"  cosigned by {name} at {size} entries on {_day(at)}")
    if not export.cosigners:
        say("  cosigned by nobody: its owner could have made all of it anew")
    elif (newest := max(size for size, _ in export.cosigners.values())) < export.size:
        say(f"  entries from {newest} on are vouched for by the owner's key alone")


def _say_compared(compared: Compared) -> None:
    for holder, origin, size in compared.contained:
        if holder != origin:
            say(f"{origin} at {size} entries is what {holder} holds of it")
    for holder, origin, size in compared.open:
        say(f"{holder} holds a checkpoint of {origin} at {size} entries: give that log's export as well to compare it")


def _say_fingerprints(keys: list[str]) -> None:
    from fedward.privacy.signing import fingerprint

    for key in dict.fromkeys(keys):
        say(f"The key was not compared: ask the owner for its fingerprint, {fingerprint(key)}, or give --key.")


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
