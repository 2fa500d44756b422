"""A coordinator's home in one file, signed by the coordinator and encrypted under a passphrase, made while the service runs.

    (`privacy.envelope`) around (`study.backups`): manifest.json, and under files/ all of the home but logs, locks and what is made
    anew at a start; its store, wherever it lies, as store.sqlite

The store is taken first, as it was at one instant (`storecopy`), then the models, then the audit log while nobody appends to it: so
every model that the store names is there, and the log may tell of more than the store does, never of less. It holds every key.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Final

from pydantic import Field

from fedward.privacy.canonical import digest
from fedward.privacy.durable import disk_error, sync_folder
from fedward.privacy.envelope import sealing
from fedward.privacy.errors import UsageError
from fedward.server.home import CoordinatorHome
from fedward.server.storecopy import snapshot
from fedward.server.storeplace import at_place
from fedward.study import backups
from fedward.study.audit import FOLDER as AUDIT
from fedward.study.backups import File
from fedward.study.lock import hold
from fedward.study.passphrases import checked_passphrase

STORE: Final = "store.sqlite"
_WORK: Final = ".backup"
_LEFT_OUT: Final = ("service.json", f"{AUDIT}/lock")
_FOLDERS_LEFT_OUT: Final = ("log/", "flower/", f"{_WORK}/")


class Manifest(backups.Manifest):
    """What a coordinator's backup says of itself."""

    federation_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    store_format: Annotated[int, Field(ge=1)]


def make_backup(home: CoordinatorHome, out: Path, at: int, passphrase: str) -> Manifest:
    """Write a backup to a new file, for its owner only, and enter it in the audit log.

    Args:
        home: the coordinator; its service may run.
        out: the new file. Killed in the middle, it is not there; `OUT.draft` then is, and the next backup to the place removes it.
        at: now, in Unix seconds.

    Raises:
        UsageError: the file exists, or another backup is being made.
        InputError: `weak-passphrase`; there is no store yet; `newer-store`, `older-store`.
        IntegrityError: the audit log does not hold.
        UnreachableError: the store or the file cannot be used now.
    """
    checked_passphrase(passphrase)
    if out.exists():
        raise UsageError(f"{out} exists already", remedy="give another file")
    busy = UsageError("a backup of this home is being made already", remedy="wait for it")
    work = home.path / _WORK
    with hold(home.path / "backup.lock", 0.0, lambda: busy):
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700)
            return _made(home, out, at, passphrase, work / STORE)
        except OSError as error:
            raise disk_error(error, f"cannot write {out}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _made(home: CoordinatorHome, out: Path, at: int, passphrase: str, store: Path) -> Manifest:
    database = at_place(home.store_place)
    try:
        format_ = snapshot(database, store)
    finally:
        database.close()
    files: dict[str, bytes | Path] = {STORE: store}
    names = _names(home)
    files |= {name: home.path / name for name in names if name.startswith("models/")}
    files |= {name: (home.path / name).read_bytes() for name in names if not name.startswith(("models/", AUDIT))}
    with home.audit.still() as point:
        files |= {name: (home.path / name).read_bytes() for name in _names(home) if name.startswith(AUDIT)}
    identity, settings = home.identity(), home.settings
    manifest = Manifest(
        identity_key=identity.public,
        made_at=at,
        audit_size=point.size,
        audit_root=point.root.hex(),
        files={name: _file(content) for name, content in sorted(files.items())},
        federation_id=settings.federation_id,
        name=settings.name,
        store_format=format_,
    ).sign(identity)
    with _new_file(out) as file, sealing(file, passphrase) as sealed:
        backups.write_members(sealed, manifest, files)
    home.record("backup", at=at, digest=file_digest(out), size=point.size, root=point.root.hex())
    return manifest


def file_digest(path: Path) -> str:
    """The SHA-256 of a file that may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(content: bytes | Path) -> File:
    if isinstance(content, bytes):
        return File(sha256=digest(content), size=len(content))
    return File(sha256=file_digest(content), size=content.stat().st_size)


def _names(home: CoordinatorHome) -> list[str]:
    """Every file's path in the home that belongs into a backup."""
    found = [path.relative_to(home.path).as_posix() for path in home.path.rglob("*") if path.is_file()]
    kept = [name for name in found if name not in _LEFT_OUT and not name.startswith((STORE, *_FOLDERS_LEFT_OUT))]
    return sorted(name for name in kept if not name.endswith((".lock", ".damaged")) and "/." not in f"/{name}")


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there, whole and durable, when the block ends without an error, and else not.

    Raises:
        OSError: as the file system says.
    """
    draft = path.with_name(f"{path.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(0o600)
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        sync_folder(path.resolve().parent)
    finally:
        draft.unlink(missing_ok=True)
