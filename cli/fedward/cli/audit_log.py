"""`fedward audit export | show | prove | rotate`: what the owner of an audit log does with it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedward.cli.audit_home import DEFAULT, AuditHome, open_log, open_party
from fedward.cli.output import JsonOption, note, print_json, say

if TYPE_CHECKING:
    from fedward.privacy.auditentries import LogEntry
    from fedward.privacy.log import Progress

LOUD = 100_000
"""Who works on more entries than this is told how far it is."""


def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; an older export there is replaced.")],
    home: AuditHome = DEFAULT,
    as_json: bool = JsonOption,
) -> None:
    """Write the whole audit log to one signed file, for an auditor. It names people who decided, and no patient."""
    from fedward.privacy.signing import fingerprint
    from fedward.study.audit import export_log

    party = open_party(home)
    trailer = party.sightings.trailer(party.log, party.identity)
    done = export_log(party.log, party.identity, trailer, out, int(time.time()), progress("written", quiet=as_json))
    checkpoint, cosigned = done.checkpoint, len(trailer.cosigned)
    if as_json:
        print_json({"out": str(out), "origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex(),
                    "sha256": done.digest, "key": party.identity.public, "cosigned_checkpoints": cosigned})  # fmt: skip
        return
    say(f"Wrote {checkpoint.size} entries of {checkpoint.origin} to {out}; the file's SHA-256 is {done.digest}")
    say(f"Whoever checks it compares this fingerprint with you: {fingerprint(party.identity.public)}")
    say("Anybody can check it, without a network: fedward audit verify FILE")


def show(
    home: AuditHome = DEFAULT,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Only entries of this kind; may be given again.")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", metavar="DIGEST", help="Only of this study: its digest, its first digits, or its id."),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option("--since", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="Only from this day or time (UTC) on."),
    ] = None,
    last: Annotated[int, typer.Option("--last", min=0, help="So many of the newest that fit; 0 for all.")] = 50,
    as_json: bool = JsonOption,
) -> None:
    """Show entries of the audit log, the newest last. Each is held against the log's tree while it is read."""
    from fedward.privacy.auditentries import KINDS
    from fedward.privacy.errors import UsageError

    unknown = sorted(set(kind or ()) - set(KINDS))
    if unknown:
        raise UsageError(f"no kind of audit entry is called {unknown[0]}", expected=", ".join(sorted(KINDS)))
    log = open_log(home)
    after = 0 if since is None else int(since.replace(tzinfo=UTC).timestamp())
    found = [
        entry
        for entry in log.entries()
        if (not kind or entry.kind in kind) and _of_study(entry, study) and entry.at >= after
    ]
    shown = found[-last:] if last else found
    if as_json:
        print_json(
            {"origin": log.origin, "size": log.size, "found": len(found), "entries": [as_data(e) for e in shown]}
        )
        return
    for entry in shown:
        say(as_line(entry))
    left = len(found) - len(shown)
    say(f"{len(found)} of {log.size} entries" + (f"; {left} older ones not shown (--last 0 shows all)" if left else ""))


def prove(
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=0, help="The entry's number; `show` lists them.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write.")],
    home: AuditHome = DEFAULT,
    as_json: bool = JsonOption,
) -> None:
    """Write the proof that one entry is in the log: a small file that shows nothing of the other entries."""
    from fedward.privacy.auditproof import write_proof
    from fedward.privacy.checkpoint import sign_checkpoint
    from fedward.study.files import write_atomic

    party = open_party(home)
    log, entry = party.log, party.log.entry(number)
    checkpoint = sign_checkpoint(log.checkpoint(), party.identity)
    log.keep_checkpoint(checkpoint.text)
    proof = log.inclusion(number, checkpoint.checkpoint.size)
    write_atomic(out, write_proof(entry, proof, checkpoint, party.identity.public), 0o600)
    if as_json:
        print_json({"out": str(out), "entry": as_data(entry), "size": checkpoint.checkpoint.size, "hashes": len(proof)})
        return
    say(as_line(entry))
    say(f"Wrote its proof to {out}: {len(proof)} hashes. Anybody can check it: fedward audit verify {out}")


def rotate(
    home: AuditHome = DEFAULT,
    retention_days: Annotated[
        int, typer.Option("--retention-days", help="Keep entries so long; six years, 2192 days, at least.")
    ] = 2192,
    as_json: bool = JsonOption,
) -> None:
    """Remove the text of entries that are older than their retention. Their hashes stay, and every proof holds on."""
    log = open_log(home)
    removed = log.rotate(int(time.time()), retention_days)
    if as_json:
        print_json({"removed": removed, "oldest": log.oldest(), "size": log.size})
        return
    say(f"Removed the text of {removed} entries; {log.size - log.oldest()} of {log.size} have theirs.")


def progress(what: str, *, quiet: bool) -> Progress:
    """Says every tenth of the way, where it is long."""
    told = 0

    def tell(done: int, of: int) -> None:
        nonlocal told
        tenth = 10 * done // of if of else 10
        if not quiet and of >= LOUD and tenth > told:
            told = tenth
            note(f"{done} of {of} entries {what}")

    return tell


def as_data(entry: LogEntry) -> dict[str, Any]:
    """An entry as `--json` prints it."""
    return {"number": entry.number, "at": entry.at, "kind": entry.kind, **entry.fields}


def as_line(entry: LogEntry) -> str:
    """An entry for people: digests are shortened."""
    at = f"{datetime.fromtimestamp(entry.at, UTC):%Y-%m-%d %H:%M:%S}"
    fields = "  ".join(f"{name}={_short(value)}" for name, value in sorted(entry.fields.items()))
    return f"{entry.number}  {at} UTC  {entry.kind}  {fields}".rstrip()


def _short(value: str | int) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) == 64 else str(value)


def _of_study(entry: LogEntry, study: str | None) -> bool:
    if study is None:
        return True
    return str(entry.fields.get("study", "")).startswith(study) or entry.fields.get("study_id") == study
