"""A home of an earlier version, brought up to date: a chain of steps, each from one format to the next.

`site.json` says a home's format. A node opens its own alone: an older one asks for `fedward site migrate`, a newer one for a
newer wheel (`older-home`, `newer-home`). The steps work on a copy, which is verified and only then put in the home's place; what
was there stays beside it, as `HOME.format-N`. A migration that is cut off anywhere leaves the old home or the new one, and is run
again.

    1 → 2   everything but what a person edits is encrypted at rest; decisions and registrations, which have another form since,
            are put aside: people register, review and approve again
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedward.client.home import FORMAT, SiteHome, format_of, of_other_format
from fedward.client.unlock import WRAPPED_NAME, create_vault
from fedward.privacy.durable import copy_folder, sync_folder
from fedward.privacy.errors import IntegrityError, UsageError
from fedward.privacy.ledgerfile import head_path, log_path, read_chain, read_head, touch_new, write_database
from fedward.privacy.signing import encrypted_pem
from fedward.privacy.vault import MAGIC
from fedward.study.files import read_json, write_atomic, write_secret
from fedward.study.lock import held

_WHOLE: Final = ".migrated"
_PLAIN_SQLITE: Final = b"SQLite format 3\0"
_SEALED_FOLDERS: Final = ("proposals", "own-metrics")
_ASIDE_FOLDERS: Final = ("approvals", "datasets")
ASIDE: Final = "before-format-2"


@dataclass(frozen=True)
class Unlock:
    """What a home that becomes encrypted is unlocked by: a passphrase, or a key file, which lies in the home if none is named."""

    passphrase: str | None = None
    key_file: Path | None = None


@dataclass(frozen=True)
class Step:
    """From `to - 1` to `to`. `apply` works on a copy of the home; it may be cut off, the copy is then thrown away."""

    to: int
    what: str
    apply: Callable[[Path, Unlock], None]


def migrate(path: Path, unlock: Unlock = Unlock(), steps: tuple[Step, ...] | None = None) -> list[Step]:
    """Bring a home up to date; returns the steps that were taken, none if it was.

    Raises:
        UsageError: its node runs.
        InputError: no site lives there; or it is newer than this version (`newer-home`); or the passphrase is too short.
        IntegrityError: what it holds does not hold; the home is as it was.
        UnreachableError: the disk is full; the home is as it was.
    """
    draft = path.with_name(path.name + ".migrating")
    if not path.exists() and (draft / _WHOLE).is_file():  # cut off between the two renames
        _put_in_place(draft, path)
    found = format_of(path)
    every = STEPS if steps is None else steps
    if found > every[-1].to:
        raise of_other_format(path, found)
    chain = [step for step in every if step.to > found]
    if not chain:
        return []
    if (path / "node.lock").exists() and held(path / "node.lock"):
        raise UsageError("the node of this home runs", remedy="stop it first; a home is not replaced under it")
    if draft.exists():
        shutil.rmtree(draft)
    try:
        copy_folder(path, draft)
        draft.chmod(0o700)
        for step in chain:
            step.apply(draft, unlock)
            _say_format(draft, step.to)
        _check(draft, chain[-1].to)
        write_atomic(draft / _WHOLE, b"")
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    kept = path.with_name(f"{path.name}.format-{found}")
    path.rename(kept)
    _put_in_place(draft, path)
    return chain


def _put_in_place(draft: Path, path: Path) -> None:
    draft.rename(path)
    (path / _WHOLE).unlink()
    sync_folder(path.resolve().parent)


def _say_format(draft: Path, number: int) -> None:
    data: dict[str, Any] = read_json(draft / "site.json", "site file")
    write_atomic(draft / "site.json", json.dumps(data | {"format": number}).encode())


def _check(draft: Path, number: int) -> None:
    """Opens what it has become, where this is the present format."""
    if number != FORMAT:
        return
    home = SiteHome.open(draft)
    home.identity()
    home.patient_key()
    home.ledger(witnessed=False).close()


def _encrypt(draft: Path, unlock: Unlock) -> None:
    """1 → 2. What is sealed already, by a version between the two, stays as it is."""
    home = SiteHome(draft)
    if home.key(WRAPPED_NAME).exists():
        _refuse_planted(home)
    else:
        create_vault(draft, passphrase=unlock.passphrase, key_file=unlock.key_file)
    for name in ("identity.pem", "node.pem", "tls.pem"):
        _encrypt_key(home, home.key(name))
    _seal(home, home.key("patients.key"))
    for folder in _ASIDE_FOLDERS:
        if (draft / folder).is_dir():
            (draft / ASIDE).mkdir(mode=0o700, exist_ok=True)
            (draft / folder).rename(draft / ASIDE / folder)
    for file in sorted((draft / ASIDE).rglob("*")):
        if file.is_file():
            _seal(home, file)
    for folder in _SEALED_FOLDERS:
        for file in sorted((draft / folder).glob("*")):
            _seal(home, file)
    if home.countersigned_file.is_file():
        _seal(home, home.countersigned_file)
    for file in sorted(home.log_file.parent.glob(f"{home.log_file.name}*")):
        _seal_lines(home, file)
    _encrypt_ledger(home)


def _refuse_planted(home: SiteHome) -> None:
    """Where there is a home key, keys and ledger lie under it: a plain one was put there by somebody who has not got it.

    Raises:
        IntegrityError: code `damaged`.
    """
    files = [home.key(name) for name in ("identity.pem", "node.pem", "tls.pem", "patients.key")]
    for path in (*files, home.ledger_file):
        start = path.read_bytes()[:64] if path.is_file() else b""
        if start.startswith((_PLAIN_SQLITE, b"-----BEGIN PRIVATE")) or (
            path.suffix == ".key" and not start.startswith(MAGIC)
        ):
            raise IntegrityError(
                f"{path.name} is not encrypted, and this home has a key that it must lie under",
                remedy="restore the home from a backup; somebody else's program wrote this file, and perhaps site.json",
                code="damaged",
            )


def _seal(home: SiteHome, path: Path) -> None:
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        home.write(path, data)


def _seal_lines(home: SiteHome, path: Path) -> None:
    """A log, whose every line is sealed under the name of the newest file."""
    lines = path.read_bytes().splitlines()
    sealed = [line if _is_sealed(line) else base64.b64encode(home.seal(home.log_file, line)) for line in lines]
    write_secret(path, b"".join(line + b"\n" for line in sealed))


def _is_sealed(line: bytes) -> bool:
    return line.startswith(base64.b64encode(MAGIC)[:4])


def _encrypt_key(home: SiteHome, path: Path) -> None:
    data = path.read_bytes()
    if b"BEGIN ENCRYPTED" in data:
        return
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, (Ed25519PrivateKey, EllipticCurvePrivateKey)):
        raise IntegrityError(f"the key {path.name} cannot be read", remedy="restore it from a backup", code="damaged")
    write_secret(path, encrypted_pem(key, home.key_password))


def _encrypt_ledger(home: SiteHome) -> None:
    """The same chain in an encrypted database; its head stays, and is held against it."""
    path = home.ledger_file
    with path.open("rb") as file:
        if file.read(len(_PLAIN_SQLITE)) != _PLAIN_SQLITE:
            return
    chain = read_chain(path)
    chain.lags(read_head(path))
    draft = path.with_name("ledger.encrypted")
    touch_new(draft)
    write_database(draft, chain, home.ledger_key)
    for side in (log_path(path), path.with_name(path.name + "-shm")):
        side.unlink(missing_ok=True)
    draft.replace(path)
    head_path(path).chmod(0o600)


STEPS: Final = (Step(2, "the home is encrypted at rest", _encrypt),)
