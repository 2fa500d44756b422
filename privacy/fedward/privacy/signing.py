"""Ed25519 identities and signatures (RFC 8032), each bound to the purpose it was made for.

A signature covers `"fedward/" ‖ purpose ‖ 0x00 ‖ data`, so that a signed approval can never be replayed as a signed
manifest. Public keys are 64 lower-case hex characters; a fingerprint is what two people compare over the telephone.

Notes of audit logs are the one exception: C2SP fixes the bytes that are signed. No note can pass for anything else, nor anything
else for a note, as a note has no control character but line ends, and whatever is framed has a zero byte after its purpose.
"""

from __future__ import annotations

import base64
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedward.privacy.canonical import digest
from fedward.privacy.errors import IntegrityError, UsageError

Purpose = Literal[
    "request",
    "kit",
    "manifest",
    "message",
    "approval",
    "secagg",
    "ledger",
    "countersign",
    "audit",
    "rotation",
    "backup",
    "certificate",
    "release",
    "site-metrics",
]
SIGNATURE_BYTES = 64
KEY_BYTES = 32


_ORDER_8 = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)
_ORDER_1_2_4 = ("00" * 32, "01" + "00" * 31, *(low + "ff" * 30 + "7f" for low in ("ec", "ed", "ee")))
# The points of small order and their other encodings, without the sign bit: anyone can sign for such a key.
_SMALL_ORDER = frozenset(bytes.fromhex(point) for point in (*_ORDER_8, *_ORDER_1_2_4))


def _is_small_order(key: bytes) -> bool:
    return len(key) == KEY_BYTES and key[:-1] + bytes([key[-1] & 0x7F]) in _SMALL_ORDER


def _framed(purpose: Purpose, data: bytes | memoryview) -> bytes:
    return b"".join((b"fedward/", purpose.encode(), b"\x00", data))


class Identity:
    """A party's private key. It has no repr of its secret."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public: str = raw.hex()

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, password: bytes | None = None) -> Identity:
        """Load a PKCS#8 key, encrypted if there is a password.

        Raises:
            IntegrityError: the bytes are no Ed25519 key, or not under this password.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=password)
        except (ValueError, TypeError):
            raise IntegrityError("the identity key cannot be read", expected="an Ed25519 key in PEM") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise IntegrityError("the identity key is of another kind", expected="Ed25519", got=type(key).__name__)
        return cls(key)

    def pem(self, password: bytes | None = None) -> bytes:
        """The private key in PEM (PKCS#8), encrypted if there is a password."""
        if password is not None:
            return encrypted_pem(self._key, password)
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, purpose: Purpose, data: bytes) -> bytes:
        return self._key.sign(_framed(purpose, data))

    def sign_note(self, text: str) -> bytes:
        """Sign the text of a note as it is: `privacy.checkpoint` alone makes them.

        Raises:
            UsageError: the text could be something else than a note's.
        """
        return self._key.sign(_note(text))


def encrypted_pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey, password: bytes) -> bytes:
    """A private key in PEM: PKCS#8 under PBES2 (RFC 8018), AES-256-CBC."""
    encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def verify(public: str, purpose: Purpose, data: bytes | memoryview, signature: bytes, what: str) -> None:
    """Check a signature.

    Raises:
        IntegrityError: the signature is not by that key over that data for that purpose.
    """
    _verify(public, _framed(purpose, data), signature, what)


def verify_note(public: str, text: str, signature: bytes, what: str) -> None:
    """Check a signature of a note's text; errors as `verify`, or UsageError as `Identity.sign_note`."""
    _verify(public, _note(text), signature, what)


def _note(text: str) -> bytes:
    data = text.encode()
    if not data.endswith(b"\n") or any(byte < 0x20 and byte != 0x0A for byte in data):
        raise UsageError("this text is no note's", expected="lines without control characters")
    return data


def _verify(public: str, signed: bytes, signature: bytes, what: str) -> None:
    try:
        key = bytes.fromhex(public)
        if _is_small_order(key):
            raise ValueError("a key of small order")
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except (InvalidSignature, ValueError):
        raise IntegrityError(
            f"the signature of {what} does not hold",
            expected=f"a signature by the key {fingerprint(public)}",
            remedy="do not use it; ask its sender for a fresh copy and compare fingerprints by telephone",
            code="bad-signature",
        ) from None


def fingerprint(public: str) -> str:
    """A key as people compare it: 8 groups of 4 hex characters of its SHA-256 (128 bits)."""
    try:
        text = digest(bytes.fromhex(public))[:32]
    except ValueError:
        return "(no key)"
    return "-".join(text[i : i + 4] for i in range(0, 32, 4))


def to_text(data: bytes) -> str:
    """Bytes as base64 for JSON files."""
    return base64.b64encode(data).decode()


def from_text(text: str, what: str) -> bytes:
    """Bytes of a base64 field.

    Raises:
        IntegrityError: the text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise IntegrityError(f"{what} is damaged", expected="base64", remedy="ask for a fresh copy") from None
