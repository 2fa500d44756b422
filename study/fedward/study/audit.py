"""A party's audit log as it lies in its home folder: begun once, and missed if it goes.

audit/         the log (`privacy.log`)
audit.origin   the log's name; it stays, so that a log that was deleted is not begun anew in silence
"""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fedward.privacy.auditentries import Value
from fedward.privacy.auditexport import Trailer, write_audit_export
from fedward.privacy.checkpoint import Checkpoint
from fedward.privacy.durable import sync_folder
from fedward.privacy.errors import IntegrityError, UnreachableError, UsageError
from fedward.privacy.log import AuditLog, Progress
from fedward.privacy.logfiles import Sealer
from fedward.privacy.signing import Identity
from fedward.study.files import write_atomic

FOLDER = "audit"
MARK = "audit.origin"


def site_origin(site: str) -> str:
    """The name of a new log of a site. Its end is random: another federation may have a site of that name."""
    return f"fedward/site/{site}/{secrets.token_hex(8)}"


def coordinator_origin(federation_id: str) -> str:
    """The name of a federation's log: every site knows it from its kit."""
    return f"fedward/coordinator/{federation_id}"


def home_log(home: Path, origin: str, at: int, sealer: Sealer | None = None) -> AuditLog:
    """The log in a home folder; begun with the name `origin` if there never was one.

    Raises:
        IntegrityError: there was one and it is gone, or it does not hold.
        UnreachableError: it cannot be read or begun; code `audit-unwritable`.
    """
    folder, mark = home / FOLDER, home / MARK
    if AuditLog(folder).exists():
        log = AuditLog.open(folder, sealer)
    elif mark.is_file():
        raise IntegrityError(
            "the audit log is gone",
            expected=f"the log {mark.read_text().strip()} in {folder}",
            remedy="restore the folder from a backup",
            code="audit-truncated",
        )
    else:
        try:
            log = AuditLog.create(folder, origin, at, sealer)
        except UsageError:  # another process was faster
            log = AuditLog.open(folder, sealer)
    if not mark.is_file():
        write_atomic(mark, f"{log.origin}\n".encode())
    return log


@dataclass(frozen=True)
class Exported:
    """An export that was written: how many entries, under which root, and the file's SHA-256."""

    checkpoint: Checkpoint
    digest: str


def export_log(
    log: AuditLog,
    identity: Identity,
    trailer: Trailer,
    out: Path,
    at: int,
    progress: Progress = lambda _done, _of: None,
) -> Exported:
    """Write the log as it stands at the trailer's checkpoint to a file, for its owner only; an older export is replaced.

    That it was exported is logged before the file has its name.

    Raises:
        IntegrityError: the log does not hold.
        UnreachableError: the file cannot be written.
    """
    checkpoint = trailer.checkpoint.checkpoint
    log.keep_checkpoint(trailer.checkpoint.text)
    entries = itertools.takewhile(lambda entry: entry.number < checkpoint.size, log.entries())
    try:
        handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        draft = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                leaves = log.leaves(checkpoint.size)
                digest = write_audit_export(file, leaves, entries, trailer, identity, at, progress)
                file.flush()
                os.fsync(file.fileno())
            fields: dict[str, Value | None] = {"size": checkpoint.size, "root": checkpoint.root.hex(), "digest": digest}
            log.append("exported", fields, at)
            draft.replace(out)
            sync_folder(out.parent)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UnreachableError(
            f"cannot write {out}", got=os.strerror(error.errno or 0), remedy="choose another file or free disk space"
        ) from None
    return Exported(checkpoint, digest)
