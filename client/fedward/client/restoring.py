"""A site's home, put back from a backup by a named person: nothing that was spent since is under-counted, and nothing runs at once.

Old files that somebody copies back are a rollback: the ledger is older than the head that the coordinator countersigned, and the
node refuses everything (`ledger-rolled-back`). A restore says so instead, in the ledger itself:

1. The ledger of the backup is taken as a copy, never as the ledger: `privacy.recovery` ends it with an entry that names who, why,
   and what may be missing. Nothing is missing only if a head from elsewhere says so: the coordinator's, or the damaged home's own.
   Else the person states that no study was approved since (all that was reserved counts as spent), or writes the budget off.
2. Whatever the ledger says, every approval ends, and registrations are put aside: an approval may have been revoked since, data
   withdrawn, a patient may have opted out. People here register, review and approve again. Who may approve, and what was withdrawn,
   stays as the backup has it, or as the home in its place tells since: a longer chain of decisions and a newer exclusion list that
   can still be read there are taken over. Decisions that do not hold are put aside.
3. Which sums of un-noised numbers this site helped to open since is not known. So it takes no part any more in what carries no
   noise of a study sealed before the restore (`restored-since`).
4. What lay in the home's place is moved aside, never removed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from fedward.client import exclusions
from fedward.client.backup import Backup, Manifest, read_backup
from fedward.client.decisions import append, forget, load, take_over
from fedward.client.home import SiteHome
from fedward.client.ledgers import Recovered, Statement, recover_ledger
from fedward.client.statements import APPROVER, Restore
from fedward.privacy.canonical import digest
from fedward.privacy.countersign import countersigned
from fedward.privacy.durable import copy_folder
from fedward.privacy.entries import Head
from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UsageError
from fedward.privacy.ledgerfile import head_path, read_head
from fedward.study.backups import swap
from fedward.study.fields import Part
from fedward.study.files import read_model, write_atomic
from fedward.study.lock import held

MARK: Final = "restored.json"
ASIDE: Final = "before-restore"
_COPY: Final = "ledger.from-backup"
_DECISIONS: Final = "approvals"
# A withdrawal may have closed them since.
_REGISTRATIONS: Final = "datasets"
_PUBLIC: Final = ("site.json", "policy.toml", "federation.json", "ca.pem", "site.pem", "audit.origin")


class Mark(Part):
    """When a home was last restored, and how old the backup was."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    at: Annotated[int, Field(ge=0)]
    made_at: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Restored:
    """What a restore did.

    Attributes:
        recovered: the ledger's recovery, and what counts as spent.
        moved: where what lay in the home's place is now; None if nothing did.
    """

    manifest: Manifest
    recovered: Recovered
    moved: Path | None


def restore(
    file: Path,
    path: Path,
    *,
    by: str,
    reason: str,
    at: int,
    keys: Path | None = None,
    head: Head | None = None,
    statement: Statement | None = None,
) -> Restored:
    """Put a home back from a backup.

    Args:
        file: the backup.
        path: the home; what lies there is moved aside once the restored home is whole.
        by: who decides.
        reason: why.
        at: now, in Unix seconds.
        keys: a copy of the home's folder `keys`, where the backup holds none; by default the one that lies in the home.
        head: the newest head of this site's ledger that the coordinator holds.
        statement: what the person answers for, as in `recover_ledger`.

    Raises:
        UsageError: the node runs, there are no keys, or a statement is needed; nothing was changed.
        IntegrityError: the backup was changed, is of other keys than these, or its ledger or audit log does not hold.
        InputError: it is no backup.
        UnreachableError: the disk is full; the home is as it was.
    """
    backup = read_backup(file)
    if (path / "node.lock").exists() and held(path / "node.lock"):
        raise UsageError("the node of this home runs", remedy="stop it first; a home is not replaced under it")
    draft = path.with_name(path.name + ".restoring")
    if draft.exists():
        shutil.rmtree(draft)  # of a restore that was cut off; it holds nothing but what the backup does
    try:
        home = _written(backup, draft, path, keys)
        known = [found for found in (head, *_heads_of(path, home)) if found is not None]
        newest = max(known, key=lambda found: found.sequence, default=None)
        recovered = _recovered(home, backup, newest, by=by, reason=reason, at=at, statement=statement)
        kept = _decisions_kept(home, path)
        _put_aside(home, _REGISTRATIONS)
        mark = Mark(at=at, made_at=backup.manifest.made_at)
        write_atomic(home.path / MARK, mark.model_dump_json().encode())
        point = home.audit.checkpoint()
        home.record("restored", at=at, digest=digest(file.read_bytes()), size=point.size, root=point.root.hex())
        if kept:
            append(home, Restore(reason=reason), by=_person(by), at=at, signer=None)
        exclusions.forget(home.path)
        exclusions.note_restored(home)
        with contextlib.suppress(IntegrityError, InputError, OSError):  # of a home that is gone or damaged
            exclusions.take_over(home, (path / home.exclusions_file.name).read_bytes())
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    moved = swap(draft, path)
    for place in (path, draft):
        forget(place)
        exclusions.forget(place)
    return Restored(backup.manifest, recovered, moved)


def restored_at(home: SiteHome) -> int | None:
    """When this home was last restored from a backup, in Unix seconds; None if it never was."""
    path = home.path / MARK
    return read_model(path, Mark, "mark of a restore").at if path.is_file() else None


def _written(backup: Backup, draft: Path, path: Path, keys: Path | None) -> SiteHome:
    """The backup's files in a new folder, with keys that are its own."""
    draft.mkdir(mode=0o700, parents=True)
    for name, data in backup.files.items():
        if name.startswith("ledger.sqlite"):
            continue
        write_atomic(draft / name, data, 0o644 if name in _PUBLIC else 0o600)
    (draft / _COPY).touch(0o600)
    write_atomic(draft / _COPY, backup.files.get("ledger.sqlite", b""), 0o600)
    if not backup.manifest.with_keys:
        source = keys or path / "keys"
        if not (source / "home.json").is_file():
            raise UsageError(
                "this backup holds no keys",
                got=f"no keys in {source}",
                remedy="give a copy of the home's folder `keys` with --keys FOLDER; without the keys nothing in it can be opened",
            )
        copy_folder(source, draft / "keys")
    (draft / "keys").chmod(0o700)
    home = SiteHome.open(draft)
    if home.identity().public != backup.manifest.identity_key or home.site != backup.manifest.site:
        raise IntegrityError(
            "the backup was not made by the site of these keys",
            expected=f'the identity key of site "{backup.manifest.site}"',
            remedy="give the keys that belong to it, or another backup",
            code="bad-backup",
        )
    return home


def _heads_of(path: Path, home: SiteHome) -> list[Head | None]:
    """The heads that the damaged home itself still shows, read as far as that goes: its head file, and the countersigned one."""
    found: list[Head | None] = []
    with contextlib.suppress(FedwardError, OSError):
        found.append(read_head(path / "ledger.sqlite"))
    with contextlib.suppress(FedwardError, OSError):
        kit = home.kit()
        sealed = (path / home.countersigned_file.name).read_bytes()
        found.append(countersigned(home.unseal(home.countersigned_file, sealed), kit.site, kit.coordinator_key))
    return found


def _recovered(
    home: SiteHome, backup: Backup, newest: Head | None, *, by: str, reason: str, at: int, statement: Statement | None
) -> Recovered:
    if newest is not None and f"{newest.sequence}:{newest.digest}" == backup.manifest.ledger_head:
        # A head from elsewhere says that nothing came after the backup: `assess` finds it where a ledger's own head lies.
        write_atomic(head_path(home.ledger_file), backup.files["ledger.sqlite.head"], 0o600)
    copy = home.path / _COPY
    done = recover_ledger(home, by=by, reason=reason, at=at, copy=copy, head=newest, statement=statement)
    for side in ("", "-wal", "-shm"):
        copy.with_name(copy.name + side).unlink(missing_ok=True)
    return done


def _decisions_kept(home: SiteHome, path: Path) -> bool:
    """Whether there are decisions that hold, to go on with; else they are put aside, and people begin anew."""
    forget(home.path)
    with contextlib.suppress(IntegrityError, InputError, OSError):  # the home in its place is gone or damaged
        take_over(home, (path / home.decisions_file.relative_to(home.path)).read_bytes())
    try:
        return bool(load(home, anew=True).links)
    except FedwardError:
        _put_aside(home, _DECISIONS)
        forget(home.path)
        return False


def _person(by: str) -> str:
    """Who restores, as a name that the chain of decisions can hold."""
    return by if re.fullmatch(APPROVER, by) else "restore"


def _put_aside(home: SiteHome, name: str) -> None:
    if not (home.path / name).exists():
        return
    aside = home.path / ASIDE / name
    if aside.exists():
        shutil.rmtree(aside)  # of an earlier restore, in the backup itself
    aside.parent.mkdir(mode=0o700, exist_ok=True)
    (home.path / name).rename(aside)
