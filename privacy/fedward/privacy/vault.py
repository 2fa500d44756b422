"""A site's home at rest: every file under a key of its own, AES-256-GCM (NIST SP 800-38D), from one home key. Pure but for nonces.

The home key is 32 random bytes. `Wrapped` keeps it under a second key, which is scrypt (RFC 7914) of a passphrase, or the 32
bytes of a key file; so a passphrase changes without a file of the home being written again. A file's key is HKDF-SHA256
(RFC 5869) of the home key and the file's name in the home, which is authenticated too: what is sealed under one name does not
open under another, and a copied file of another home opens nowhere. Sealing says nothing of age: an older sealed file opens.
"""

from __future__ import annotations

import base64
import os
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel, ConfigDict, Field

from fedward.privacy.errors import IntegrityError

KEY_BYTES: Final = 32
MAGIC: Final = b"FWS1"
"""What a sealed file begins with: Fedward, sealed, form 1."""
_NONCE_BYTES: Final = 12
_SALT_BYTES: Final = 16
_SCRYPT_COST: Final = 2**17
"""N of scrypt with r = 8, p = 1: 128 MiB and about a third of a second a guess (OWASP's password storage cheat sheet)."""

Base64 = Annotated[str, Field(max_length=200)]


class Vault:
    """Seals and opens the files of one home. It has no repr of its key."""

    def __init__(self, key: bytes) -> None:
        """
        Args:
            key: the home key, `KEY_BYTES` bytes.
        """
        self._key = key

    def seal(self, name: str, data: bytes) -> bytes:
        """The data as it lies on disk under this name: magic, nonce, ciphertext and tag, 32 bytes more than the data."""
        nonce = os.urandom(_NONCE_BYTES)
        return MAGIC + nonce + self._cipher(name).encrypt(nonce, data, MAGIC)

    def open(self, name: str, sealed: bytes) -> bytes:
        """What was sealed under this name.

        Raises:
            IntegrityError: code `damaged`: it was not sealed at all, was changed, or was sealed under another name or by
                another home's key.
        """
        if not sealed.startswith(MAGIC):
            raise IntegrityError(
                f"{name} is not encrypted, as every file of the home must be",
                remedy="restore it from a backup; it was written or replaced by another program",
                code="damaged",
            )
        nonce, rest = sealed[len(MAGIC) : len(MAGIC) + _NONCE_BYTES], sealed[len(MAGIC) + _NONCE_BYTES :]
        try:
            return self._cipher(name).decrypt(nonce, rest, MAGIC)
        except (InvalidTag, ValueError):
            raise IntegrityError(
                f"{name} is damaged, or belongs to another place or home",
                remedy="restore it from a backup",
                code="damaged",
            ) from None

    def secret(self, purpose: str) -> str:
        """64 hexadecimal digits for a purpose: what encrypts the PEM keys, and the ledger's pages."""
        return self._derive(f"secret/{purpose}").hex()

    def _cipher(self, name: str) -> AESGCM:
        return AESGCM(self._derive(f"file/{name}"))

    def _derive(self, info: str) -> bytes:
        made = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"fedward/at-rest/" + info.encode())
        return made.derive(self._key)


class Wrapped(BaseModel):
    """The home key, as the home keeps it: under a passphrase or under a key file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Annotated[int, Field(ge=1, le=1)] = 1
    under: Literal["passphrase", "file"]
    salt: Base64
    wrapped: Base64
    key_file: Annotated[str, Field(max_length=4096)] = ""
    """Where the key file lies, as given; relative to the home. Empty under a passphrase."""

    def unwrap(self, secret: bytes) -> bytes:
        """The home key.

        Args:
            secret: the passphrase in UTF-8, or the key file's bytes.

        Raises:
            IntegrityError: code `wrong-passphrase` or `wrong-key-file`.
        """
        try:
            sealed = base64.b64decode(self.wrapped, validate=True)
            nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return AESGCM(self._kek(secret)).decrypt(nonce, rest, b"home-key")
        except (InvalidTag, ValueError):
            what = "the passphrase" if self.under == "passphrase" else "the key file"
            raise IntegrityError(
                f"{what} does not open this home",
                remedy="try again; without it the home's keys and ledger cannot be read by anyone",
                code="wrong-passphrase" if self.under == "passphrase" else "wrong-key-file",
            ) from None

    def _kek(self, secret: bytes) -> bytes:
        salt = base64.b64decode(self.salt, validate=True)
        if self.under == "passphrase":
            return Scrypt(salt=salt, length=KEY_BYTES, n=_SCRYPT_COST, r=8, p=1).derive(secret)
        return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=b"fedward/key-file").derive(secret)


def wrap(key: bytes, secret: bytes, under: Literal["passphrase", "file"], key_file: str = "") -> Wrapped:
    """The home key under a passphrase (UTF-8) or a key file's bytes."""
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    bare = Wrapped(under=under, salt=base64.b64encode(salt).decode(), wrapped="", key_file=key_file)
    sealed = nonce + AESGCM(bare._kek(secret)).encrypt(nonce, key, b"home-key")
    return bare.model_copy(update={"wrapped": base64.b64encode(sealed).decode()})
