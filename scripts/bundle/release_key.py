"""The key that signs kits: Ed25519 (RFC 8032) over the bytes as they are, so that plain openssl can verify.

It is no identity of a federation: it says who built the software, not who may read or ask anything.
"""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedward.privacy.errors import InputError

DEFAULT = Path.home() / ".fedward" / "release-key.pem"
_OTHERS = 0o077


def load_or_make(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The key of `path`, and whether it was made now.

    Raises:
        InputError: the file can be read by others, or holds no Ed25519 key.
    """
    if path.exists():
        return _load(path), False
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return key, True


def _load(path: Path) -> Ed25519PrivateKey:
    if path.stat().st_mode & _OTHERS:
        raise InputError(f"others can read the release key {path}", expected="mode 0600", remedy=f"chmod 600 {path}")
    pem = path.read_bytes()
    password = getpass.getpass(f"passphrase of {path}: ").encode() if b"ENCRYPTED" in pem else None
    try:
        key = serialization.load_pem_private_key(pem, password)
    except (ValueError, TypeError):
        raise InputError(f"the release key {path} cannot be read", expected="a PKCS#8 PEM and its passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is another kind of key", expected="Ed25519 (openssl genpkey -algorithm ed25519)")
    return key


def public(key: Ed25519PrivateKey) -> str:
    """The public key in 64 hexadecimal digits, as `privacy.signing.fingerprint` takes it."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """The public key as openssl reads it."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
