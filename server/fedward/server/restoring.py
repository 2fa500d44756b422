"""A coordinator's home, put back from a backup by a named person: it knows that it was restored, and says so.

What happened since the backup is not in the record, but at the hospitals it happened. So

1. The whole backup is opened, held against its signed manifest, and built beside the home before anything there changes; what lies
   in the home's place is then moved aside, never removed. Killed anywhere, the same command is given again.
2. Attempts made since may have been charged at the hospitals: of every sealed study, attempts go on far above all that can have
   been made. What they cost stays charged there, whatever this record says.
3. The journal and the audit log say who restored, why, and how old the backup is. Where the log that is replaced can still be read
   and continues the backup's, it is kept: it tells more. Else hospitals find that the log went back (`split-view`), and the entry
   `restored`, with the size that the log had, is the reason.
4. Who was revoked or removed since has access again, until a person says so again: nobody here knows of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from fedward.privacy.durable import disk_error, sync_folder
from fedward.privacy.envelope import MAGIC, opening
from fedward.privacy.errors import FedwardError, IntegrityError, UsageError
from fedward.privacy.log import AuditLog
from fedward.server.backup import STORE, Manifest, file_digest
from fedward.server.home import CoordinatorHome
from fedward.server.migrations import bring_up
from fedward.server.sqlite import SqliteDatabase
from fedward.server.store import Store
from fedward.server.storecopy import load
from fedward.server.storeformat import refuse_newer
from fedward.server.storeplace import at_place
from fedward.study import backups
from fedward.study.audit import FOLDER as AUDIT
from fedward.study.files import write_atomic

IN_FILE: Final = "sqlite"
"""As a place for the store: a SQLite file in the home."""
_PIECE: Final = 2**20
_PUBLIC: Final = ("federation.json", "ca.pem", "server.pem", "operators-ca.pem", "audit.origin")


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        moved: where what lay in the home's place is now; None if nothing did.
        kept_log: whether the audit log that lay there was kept, since it continues the backup's.
        studies: the studies whose attempts' numbers go on higher.
    """

    manifest: Manifest
    moved: Path | None
    kept_log: bool
    studies: tuple[str, ...]


def restore(
    file: Path, path: Path, passphrase: str, *, by: str, reason: str, at: int, store: str | None = None
) -> Restored:
    """Put a home back from a backup.

    Args:
        file: the backup.
        path: the home; what lies there is moved aside once the restored one is whole.
        by: who decides.
        reason: why.
        at: now, in Unix seconds.
        store: where its store shall lie: `IN_FILE`, or the URL of an empty PostgreSQL database; None is where it lay.

    Raises:
        UsageError: its service runs; `store-taken`.
        IntegrityError: `bad-backup`: it was changed or cut off, or is not of the coordinator whose home lies there;
            `wrong-passphrase`, `bad-signature`.
        InputError: it is no backup of a coordinator; `newer-store`.
        UnreachableError: the disk or the database cannot be used now; the home is as it was.
    """
    if not by.strip() or not reason.strip():
        raise UsageError("a home is restored by a named person who says why", expected="--by NAME --reason TEXT")
    home = CoordinatorHome(path)
    if not path.is_dir():
        return _restored(file, home, passphrase, by=by, reason=reason, at=at, store=store)
    with home.serving():
        return _restored(file, home, passphrase, by=by, reason=reason, at=at, store=store)


def _restored(
    file: Path, there: CoordinatorHome, passphrase: str, *, by: str, reason: str, at: int, store: str | None
) -> Restored:
    draft = there.path.with_name(there.path.name + ".restoring")
    try:
        shutil.rmtree(
            draft, ignore_errors=True
        )  # of a restore that was cut off; it holds nothing but what the backup does
        draft.mkdir(mode=0o700, parents=True)
        manifest = _unpacked(file, draft, passphrase)
        kept = _newer_log(manifest, _checked(manifest, CoordinatorHome(draft), there), there)
        home, mark = CoordinatorHome(draft), file_digest(file)
        studies = _marked(home, manifest, by=by, reason=reason, at=at, mark=mark)
        home.record("restored", at=at, by=by, digest=mark, size=manifest.audit_size, root=manifest.audit_root)
        _place(home, store, mark)
        return Restored(manifest, backups.swap(draft, there.path), kept, studies)
    except OSError as error:
        raise disk_error(error, f"cannot write {draft}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unpacked(file: Path, draft: Path, passphrase: str) -> Manifest:
    """The backup's files in a folder, each held against the signed manifest.

    Raises:
        InputError: it is no backup of a coordinator.
        IntegrityError: it is damaged.
    """
    with _readable(file) as source:
        sealed = opening(source, passphrase)
        with tarfile.open(fileobj=sealed, mode="r|") as tar:
            members = backups.members(tar)
            name, content = next(members, ("", None))
            manifest = backups.parse_manifest(
                Manifest, file, content.read() if content is not None and name == backups.MANIFEST else b""
            )
            manifest.check_signature(f'the federation "{manifest.name}"')
            found = set()
            for name, content in members:
                plain = name.removeprefix(backups.FILES)
                backups.check_file(manifest, plain, manifest.files[plain].sha256 if plain in manifest.files else None)
                backups.check_file(manifest, plain, _written(content, draft / plain, public=plain in _PUBLIC))
                found.add(plain)
        while sealed.read(_PIECE):  # to its end: what was cut off there is told by the last piece
            pass
    for name in sorted(manifest.files.keys() - found):
        backups.check_file(manifest, name, None)
    return manifest


@contextmanager
def _readable(file: Path) -> Iterator[IO[bytes]]:
    try:
        with file.open("rb") as source:
            if source.read(len(MAGIC)) != MAGIC:
                raise ValueError("no backup of a coordinator")
            source.seek(0)
            yield source
    except (FileNotFoundError, IsADirectoryError, PermissionError, tarfile.TarError, EOFError, ValueError) as error:
        raise backups.unreadable(file, "fedward coordinator backup", error) from None


def _written(content: IO[bytes], path: Path, *, public: bool) -> str:
    """Write a file of the backup; its SHA-256. Durable once the folder that holds it is synced, before the swap."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = hashlib.sha256()
    path.touch(0o600)
    with path.open("wb") as out:
        while piece := content.read(_PIECE):
            seen.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    path.chmod(0o644 if public else 0o600)
    return seen.hexdigest()


def _checked(manifest: Manifest, home: CoordinatorHome, there: CoordinatorHome) -> CoordinatorHome:
    """The restored home, whose parts fit each other and the one that it replaces.

    Raises:
        IntegrityError: `bad-backup`.
    """
    settings, other = home.settings, _federation_of(there)
    if settings.federation_id != manifest.federation_id or home.identity().public != manifest.identity_key:
        raise _unfit("its keys or settings are not those of its manifest")
    if other is not None and other != settings.federation_id:
        raise _unfit(f'another federation than "{manifest.name}" lives in {there.path}')
    point = home.audit.checkpoint()
    if (point.size, point.root.hex()) != (manifest.audit_size, manifest.audit_root):
        raise _unfit("its audit log is not the one of its manifest")
    return home


def _federation_of(there: CoordinatorHome) -> str | None:
    """None where none lives there, or its settings are damaged."""
    with contextlib.suppress(FedwardError, OSError):
        return there.settings.federation_id
    return None


def _unfit(why: str) -> IntegrityError:
    return IntegrityError(
        f"the backup cannot be taken: {why}", remedy="use another backup, or another --home; nothing was changed",
        code="bad-backup",
    )  # fmt: skip


def _newer_log(manifest: Manifest, home: CoordinatorHome, there: CoordinatorHome) -> bool:
    """Whether the audit log of the home that is replaced holds and continues the backup's; it is then taken over."""
    draft = home.path / f"{AUDIT}.newer"
    try:
        log = AuditLog.open(there.path / AUDIT)
        log.verify()
        if log.size <= manifest.audit_size or log.checkpoint(manifest.audit_size).root.hex() != manifest.audit_root:
            return False
        with log.still():
            shutil.copytree(log.folder, draft, ignore=shutil.ignore_patterns("lock", "*.lock", ".*"))
    except (FedwardError, OSError):
        shutil.rmtree(draft, ignore_errors=True)
        return False
    shutil.rmtree(home.path / AUDIT)
    draft.rename(home.path / AUDIT)
    return True


def _marked(home: CoordinatorHome, manifest: Manifest, *, by: str, reason: str, at: int, mark: str) -> tuple[str, ...]:
    """The store, brought up to date, with what the restore has to say in its journal; the studies that it concerns."""
    database = SqliteDatabase(home.store_file)
    try:
        refuse_newer(database.format(), f"in the backup of {manifest.name}")
        bring_up(database)
    finally:
        database.close()
    for older in home.path.glob(f"{STORE}.format-*"):
        older.unlink()
    store = Store.open(home.store_file)
    try:
        return store.restored(manifest.made_at, by, reason, mark, at)
    finally:
        store.close()


def _place(home: CoordinatorHome, store: str | None, mark: str) -> None:
    """Where the store shall lie: in its file already, or in a database, of which then nothing stays in the home."""
    place = home.settings.store if store is None else None if store == IN_FILE else store
    if place is not None:
        database = at_place(place)
        try:
            load(home.store_file, database, mark)
        finally:
            database.close()
        home.store_file.unlink()
    settings = home.settings.model_copy(update={"store": place})
    write_atomic(home.settings_file, settings.model_dump_json(indent=1, exclude_none=True).encode())
    for folder in (home.path, *(path for path in home.path.rglob("*") if path.is_dir())):
        sync_folder(folder)
