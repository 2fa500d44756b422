"""How a site's home is unlocked: by a passphrase that a person or the service manager gives, or by a key file.

`keys/home.json` holds the home key, wrapped (`privacy.vault`). A passphrase comes from, in this order,

    FEDWARD_PASSPHRASE_FILE               a file with checked permissions
    $CREDENTIALS_DIRECTORY/fedward-passphrase   systemd's LoadCredential=
    the terminal, if there is one

A key file lies where `home.json` says. Inside the home (the default) it guards against files read one by one, such as from a
careless backup that leaves `keys/` out; against a stolen disk, keep it elsewhere or use a passphrase.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from fedward.privacy.durable import disk_error, sync_folder
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.vault import KEY_BYTES, Vault, Wrapped, wrap
from fedward.study.files import read_secret, write_atomic, write_secret
from fedward.study.passphrases import CREDENTIAL, PASSPHRASE_FILE, checked_passphrase, given_passphrase

WRAPPED_NAME = "home.json"
DEFAULT_KEY_FILE = "keys/unlock.key"

_OPENED: dict[tuple[Path, bytes], Vault] = {}
"""Vaults that this process has opened, by home and wrapped key: a person is asked once."""


def create_vault(home: Path, *, passphrase: str | None = None, key_file: Path | None = None) -> Vault:
    """A new home key, kept under the passphrase, or under a key file, which is made where it is missing.

    Raises:
        InputError: the passphrase is too short.
        UnreachableError: a file cannot be written.
    """
    return keep_key(home, os.urandom(KEY_BYTES), passphrase=passphrase, key_file=key_file)


def keep_key(home: Path, key: bytes, *, passphrase: str | None = None, key_file: Path | None = None) -> Vault:
    """Keep a home key under another passphrase or key file than before; errors as `create_vault`."""
    if passphrase is not None:
        wrapped = wrap(key, checked_passphrase(passphrase).encode(), "passphrase")
    else:
        path = home / DEFAULT_KEY_FILE if key_file is None else key_file.resolve()
        if not path.exists():
            write_key_file(path)
        named = DEFAULT_KEY_FILE if key_file is None else str(path)
        wrapped = wrap(key, _key_of(path), "file", named)
    data = wrapped.model_dump_json(indent=1).encode()
    write_secret(_wrapped_file(home), data)
    return _OPENED.setdefault((home.resolve(), data), Vault(key))


def wrapped_under(key: bytes, passphrase: str) -> Wrapped:
    """A home key as a backup keeps it, under a passphrase of the backup's own.

    Raises:
        InputError: the passphrase is too short.
    """
    return wrap(key, checked_passphrase(passphrase).encode(), "passphrase")


def write_key_file(path: Path) -> None:
    """A fresh key file: 64 hexadecimal digits, for its owner only, whole or not there. Its folder keeps the permissions it has, and
    a file that another put there meanwhile stays: it may open another home.

    Raises:
        UnreachableError: code `disk`.
    """
    data = os.urandom(KEY_BYTES).hex().encode() + b"\n"
    if not path.parent.is_dir():
        write_secret(path, data)
        return
    draft = path.with_name(f"{path.name}.draft")
    write_atomic(draft, data, 0o600)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, f"cannot write {path}") from None


def open_vault(home: Path) -> Vault:
    """The home's vault; asked once a process, however often the home is opened.

    Raises:
        InputError: code `locked`: no passphrase was given; or the key file or `home.json` is missing.
        IntegrityError: the passphrase or the key file is another one, others may read it, or `home.json` is damaged.
    """
    data = read_secret(_wrapped_file(home), "the site's home key")
    known = _OPENED.get((home.resolve(), data))
    if known is not None:
        return known
    found = read_wrapped(data)
    secret = passphrase().encode() if found.under == "passphrase" else _key_of(home / found.key_file)
    return _OPENED.setdefault((home.resolve(), data), Vault(found.unwrap(secret)))


def forget() -> None:
    """Lock every home that this process has opened."""
    _OPENED.clear()


def home_key(home: Path, old: str | None = None) -> bytes:
    """The home key itself, for `keep_key`; `old` is the present passphrase, asked for as always when it is None."""
    found = read_wrapped(read_secret(_wrapped_file(home), "the site's home key"))
    if found.under == "file":
        return found.unwrap(_key_of(home / found.key_file))
    return found.unwrap((passphrase() if old is None else old).encode())


def kept_under(home: Path) -> Wrapped:
    """How the home key is kept; nothing secret is opened."""
    return read_wrapped(read_secret(_wrapped_file(home), "the site's home key"))


def read_wrapped(data: bytes) -> Wrapped:
    """
    Raises:
        IntegrityError: it is no wrapped home key.
    """
    try:
        return Wrapped.model_validate_json(data)
    except ValidationError:
        raise IntegrityError(
            f"keys/{WRAPPED_NAME} is damaged", remedy="restore it from a backup", code="damaged"
        ) from None


def passphrase() -> str:
    """The passphrase, from the first place that has one.

    Raises:
        InputError: none has.
    """
    given = given_passphrase()
    if given is not None:
        return given
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass("Passphrase of this site's home: ")
    raise InputError(
        "the site's home is locked, and nobody gave its passphrase",
        remedy=f"run this in a terminal, or name a file that holds it (mode 0600) in {PASSPHRASE_FILE}; "
        f"a systemd unit has LoadCredential={CREDENTIAL}:FILE",
        code="locked",
    )


def _key_of(path: Path) -> bytes:
    text = read_secret(path, "key file").strip()
    try:
        key = bytes.fromhex(text.decode())
    except (ValueError, UnicodeDecodeError):
        key = b""
    if len(key) != KEY_BYTES:
        raise IntegrityError(
            f"{path.name} is no key file", expected="64 hexadecimal digits", remedy="restore it from a backup",
            code="wrong-key-file",
        )  # fmt: skip
    return key


def _wrapped_file(home: Path) -> Path:
    return home / "keys" / WRAPPED_NAME
