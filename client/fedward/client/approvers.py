"""An approver's own key: made here, kept in a file under the approver's passphrase, wherever they want it.

The file is PEM (PKCS#8, PBES2). PBES2's own derivation is weak, so its password is scrypt (RFC 7914) of the passphrase, with a salt
that stands in the lines before the PEM, which RFC 7468 section 5.2 lets a reader skip. Without a passphrase the file is a plain
PEM that only its owner may read. A key in the home's folder `approvers` is sealed like every other file of the home.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedward.client.home import SiteHome
from fedward.client.statements import APPROVER
from fedward.privacy.errors import InputError, IntegrityError, UsageError
from fedward.privacy.signing import Identity
from fedward.study.files import read_secret, write_atomic, write_secret

MIN_PASSPHRASE: Final = 12
_SALT: Final = "scrypt salt: "
_COST: Final = 2**16
"""N of scrypt with r = 8, p = 1: 64 MiB and a sixth of a second a guess."""


def check_name(name: str) -> str:
    """The name. Raises: InputError unless it is a person's name that can also name a file."""
    if not re.fullmatch(APPROVER, name):
        raise InputError(
            "the approver's name cannot be used",
            expected="1 to 64 letters, digits, spaces and . _ @ ' -, a letter or digit first",
            got=name,
        )
    return name


def default_key_file(home: SiteHome, name: str) -> Path:
    """Where an approver's key lies unless they keep it elsewhere."""
    return home.path / "approvers" / f"{check_name(name)}.pem"


def make_key(home: SiteHome, name: str, path: Path, passphrase: str | None) -> Identity:
    """A fresh key for an approver, written to a new file.

    Args:
        home: the site.
        name: the approver.
        path: where; a file there is never overwritten.
        passphrase: the approver's own; None for a file that is protected by its permissions alone.

    Raises:
        UsageError: a file is there already.
        InputError: the passphrase is too short.
    """
    if path.exists():
        raise UsageError(f"{path} exists", remedy="give the key of this approver another place with --key FILE")
    identity = Identity.generate()
    if passphrase is None:
        text = identity.pem().decode()
    else:
        if len(passphrase) < MIN_PASSPHRASE:
            raise InputError("the passphrase is too short", expected=f"at least {MIN_PASSPHRASE} characters")
        salt = os.urandom(16)
        text = f"Fedward approver: {name}\n{_SALT}{salt.hex()}\n" + identity.pem(_password(passphrase, salt)).decode()
    if _inside(home, path):
        home.write(path, text.encode())
    elif path.parent.is_dir():  # any folder, perhaps shared: its permissions are the person's affair
        write_atomic(path, text.encode(), 0o600)
    else:
        write_secret(path, text.encode())
    return identity


def load_key(home: SiteHome, path: Path, passphrase: Callable[[], str]) -> Identity:
    """An approver's key; the passphrase is asked for only if the file needs it.

    Raises:
        InputError: there is no such file.
        IntegrityError: others may read it, it is no key, or the passphrase is wrong (`wrong-approver-passphrase`).
    """
    if not path.is_file():
        raise InputError(
            f"no approver's key at {path}",
            remedy="see how the name is written: fedward site approver list; or say where the key lies: --key FILE",
        )
    what = "the approver's key"
    text = (home.read(path, what) if _inside(home, path) else read_secret(path, what)).decode(errors="replace")
    salt = re.search(rf"^{_SALT}([0-9a-f]{{32}})$", text, re.MULTILINE)
    pem = text[text.find("-----BEGIN") :].encode()
    if salt is None:
        return Identity.from_pem(pem)
    try:
        return Identity.from_pem(pem, _password(passphrase(), bytes.fromhex(salt[1])))
    except IntegrityError:
        raise IntegrityError(
            "the passphrase does not open the approver's key",
            remedy="try again; without it this approver cannot sign, and another one must be added",
            code="wrong-approver-passphrase",
        ) from None


def _password(passphrase: str, salt: bytes) -> bytes:
    return base64.b64encode(Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(passphrase.encode()))


def _inside(home: SiteHome, path: Path) -> bool:
    return path.resolve().is_relative_to(home.path.resolve())
