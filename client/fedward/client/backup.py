"""A site's home in one file: what lies encrypted stays so, every file by its SHA-256, the whole signed by the site.

    manifest.json   what, when, of which site; every file's size and digest; ledger and audit log as they stood; the signature
    files/PATH      each file of the home as it lies there

It can be made while the node runs. The ledger is written anew from its verified chain, so its write-ahead log is in it; the audit
log is copied while nobody appends to it; every other file is replaced as a whole or only grows. The keys are left out, so that the
file opens nothing by itself, unless they are asked for: then the home key is wrapped under a passphrase of the backup's own.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import Field

from fedward.client.home import SiteHome
from fedward.client.unlock import WRAPPED_NAME, home_key, wrapped_under
from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.durable import replace_file
from fedward.privacy.errors import UnreachableError, UsageError
from fedward.privacy.ledgerexport import head_text, parse_head
from fedward.privacy.ledgerfile import touch_new, write_database
from fedward.study import backups
from fedward.study.audit import FOLDER as AUDIT
from fedward.study.backups import FILES, MANIFEST, File
from fedward.study.fields import NAME

_LEDGER: Final = "ledger.sqlite"
# What a process holds while it runs, or what is made anew.
_LEFT_OUT: Final = ("node.json", "session.json", "audit/lock")
# Keys; those of a rotation under way, which is begun anew, and what one that was cut off left; and approvers' own, theirs to keep.
_KEYS: Final = ("keys/", "rotation/", "rotation.", "approvers/")
_UNLOCKING: Final = (WRAPPED_NAME, "unlock.key")


class Manifest(backups.Manifest):
    """What a site's backup says of itself."""

    site: Annotated[str, Field(pattern=NAME)]
    with_keys: bool
    ledger_head: Annotated[str, Field(pattern=r"^[0-9]+:[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Backup:
    """A backup, read and checked: its manifest, and its files by their path in the home."""

    manifest: Manifest
    files: dict[str, bytes]


def make_backup(home: SiteHome, out: Path, at: int, *, passphrase: str | None = None) -> Manifest:
    """Write a backup to a new file, for its owner only, and enter it in the audit log.

    Args:
        home: the site; its node may run.
        out: the new file.
        at: now, in Unix seconds.
        passphrase: include the keys, under this passphrase; None leaves them out.

    Raises:
        UsageError: the file exists.
        InputError: the passphrase is too short.
        IntegrityError: ledger or audit log does not hold: recover them first, a backup of them would keep the damage.
        UnreachableError: the file cannot be written.
    """
    if out.exists():
        raise UsageError(f"{out} exists already", remedy="give another file")
    head, ledger = _ledger(
        home
    )  # before the audit log: what is charged later may stand there, never the other way round
    files = {_LEDGER: ledger, f"{_LEDGER}.head": canonical_json(_head_fields(head)) + b"\n"}
    with home.audit.still() as point:
        files |= {name: (home.path / name).read_bytes() for name in _audit_names(home)}
    files |= dict(_others(home))
    if passphrase is not None:
        files |= _keys(home, passphrase)
    manifest = Manifest(
        site=home.site,
        identity_key=home.identity().public,
        made_at=at,
        with_keys=passphrase is not None,
        ledger_head=head,
        audit_size=point.size,
        audit_root=point.root.hex(),
        files={name: File(sha256=digest(data), size=len(data)) for name, data in sorted(files.items())},
    ).sign(home.identity())
    packed = io.BytesIO()
    backups.write_members(packed, manifest, files)
    try:
        replace_file(out, packed.getvalue(), 0o600)
    except OSError as error:
        raise UnreachableError(
            f"cannot write {out}", got=error.strerror, remedy="free disk space or correct the permissions"
        ) from None
    home.record("backup", at=at, digest=digest(packed.getvalue()), size=point.size, root=point.root.hex())
    return manifest


def read_backup(path: Path) -> Backup:
    """A backup, every file held against the manifest, and the manifest against its signature.

    That the signature's key is this hospital's is for the caller to check, against the keys that it restores.

    Raises:
        InputError: the file is no backup, or one of another format.
        IntegrityError: code `bad-backup`: a file was changed, added or left out; or `bad-signature`.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            members = {name: content.read() for name, content in backups.members(tar)}
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        raise backups.unreadable(path, "fedward site backup", error) from None
    manifest = backups.parse_manifest(Manifest, path, members.pop(MANIFEST, b""))
    manifest.check_signature(f'site "{manifest.site}"')
    files = {name.removeprefix(FILES): data for name, data in members.items()}
    for name in sorted({*files} | {*manifest.files}):
        backups.check_file(manifest, name, digest(files[name]) if name in files else None)
    return Backup(manifest, files)


def _ledger(home: SiteHome) -> tuple[str, bytes]:
    """The ledger's head, and its database, written anew from the verified chain."""
    with home.ledger() as ledger, tempfile.TemporaryDirectory(prefix="fedward-backup-") as folder:
        ledger.verify(home.countersigned_head())
        chain = ledger.chain
        copy = Path(folder) / _LEDGER
        touch_new(copy)
        write_database(copy, chain, home.ledger_key)
        return head_text(chain.tail), copy.read_bytes()


def _head_fields(head: str) -> dict[str, object]:
    found = parse_head(head)
    return {"sequence": found.sequence, "digest": found.digest}


def _audit_names(home: SiteHome) -> list[str]:
    return [name for name in _names(home) if name.startswith(f"{AUDIT}/") or name == f"{AUDIT}.origin"]


def _others(home: SiteHome) -> Iterator[tuple[str, bytes]]:
    """Every file but ledger, audit log and keys. One that is rotated away meanwhile was of the log."""
    for name in _names(home):
        path = home.path / name
        if name.startswith((f"{AUDIT}/", f"{AUDIT}.origin", _LEDGER, *_KEYS)):
            continue
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        # What only grows by lines may be in the middle of one.
        yield name, data[: data.rfind(b"\n") + 1] if name.startswith(("log/", "opened/")) else data


def _names(home: SiteHome) -> list[str]:
    """Every file's path in the home, without what a write that is under way or was cut off leaves."""
    found = [path.relative_to(home.path).as_posix() for path in home.path.rglob("*") if path.is_file()]
    kept = [name for name in found if name not in _LEFT_OUT and not name.endswith(".lock")]
    return sorted(name for name in kept if not PurePosixPath(name).name.startswith("."))


def _keys(home: SiteHome, passphrase: str) -> dict[str, bytes]:
    """The keys, which lie under the home key, and the home key under the backup's passphrase."""
    wrapped = wrapped_under(home_key(home.path), passphrase)
    names = sorted(path.name for path in (home.path / "keys").iterdir() if path.name not in _UNLOCKING)
    files = {f"keys/{name}": home.key(name).read_bytes() for name in names}
    return files | {f"keys/{WRAPPED_NAME}": wrapped.model_dump_json(indent=1).encode()}
