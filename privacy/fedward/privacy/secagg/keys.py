"""Key agreement, key derivation and boxes. Everything comes from `cryptography`; here are only the bindings. Pure.

1. Agreement is X25519 (RFC 7748). Public keys of small order are refused where they are advertised, by name.
2. Every derived key is HKDF-SHA-256 (RFC 5869), no salt, info = "fedward secagg 1 " ‖ purpose ‖ 0x00 ‖ its whole context,
   so that a key made for one batch, slot, direction, model or purpose is useless in any other.
3. A box is AES-256-GCM under a key that encrypts this one message, so the nonce is constant; the context is its
   additional data as well.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedward.privacy.errors import InputError

KEY_BYTES = 32
TAG_BYTES = 16
_NONCE = bytes(12)
_FIELD = 2**255 - 19
# Points of order 1, 2, 4 and 8, and the other encodings of the first two (RFC 7748, section 7; Bernstein's list).
_SMALL_ORDER = frozenset(
    value.to_bytes(KEY_BYTES, "little")
    for value in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        _FIELD - 1,
        _FIELD,
        _FIELD + 1,
    )
)


def public_of(private: bytes | bytearray) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_small_order(public: bytes) -> bool:
    """Whether agreement with this key gives the same secret for everyone."""
    masked = public[:-1] + bytes([public[-1] & 0x7F])
    return masked in _SMALL_ORDER


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """The shared secret, 32 bytes; feed it to `derive`, never use it bare.

    Raises:
        InputError: the public key has small order.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise InputError("a public key cannot be agreed with", expected="an X25519 key of large order") from None


def derive(secret: bytes | bytearray, purpose: bytes, context: bytes) -> bytes:
    """A 32-byte key bound to a purpose and a context."""
    info = b"fedward secagg 1 " + purpose + b"\x00" + context
    return HKDF(SHA256(), KEY_BYTES, None, info).derive(secret)


def close_box(key: bytes, content: bytes, context: bytes) -> bytes:
    """Encrypt and authenticate; 16 bytes longer than the content. A key closes one box only."""
    return AESGCM(key).encrypt(_NONCE, content, context)


def open_box(key: bytes, box: bytes, context: bytes) -> bytes:
    """
    Raises:
        InputError: the box was not closed with this key in this context, or was changed.
    """
    try:
        return AESGCM(key).decrypt(_NONCE, box, context)
    except InvalidTag:
        raise InputError("a box does not open", expected="the box that its dealer closed in this batch") from None
