"""A file under a passphrase, written and read in pieces, so that it may be larger than memory; whole and in order, or refused.

    FWE1, the header's length (4 bytes), the header: the file's key, wrapped under the passphrase (`vault`), then the pieces

Each piece is AES-256-GCM (NIST SP 800-38D) of at most `PIECE` bytes under the file's own key. Its nonce is its number and whether
it is the last, so none can be left out, exchanged or cut off (STREAM: Hoang, Reyhanitabar, Rogaway, Vizár, CRYPTO 2015); the
header is authenticated with every one.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ValidationError

from fedward.privacy.errors import IntegrityError
from fedward.privacy.vault import KEY_BYTES, Wrapped, wrap

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAGIC: Final = b"FWE1"
PIECE: Final = 2**20
_TAG: Final = 16
_MOST_HEADER: Final = 4096


def begins_so(data: bytes) -> bool:
    """Whether a file that begins with these bytes is such a one."""
    return data.startswith(MAGIC)


@contextmanager
def sealing(out: IO[bytes], passphrase: str) -> Iterator[IO[bytes]]:
    """What is written in the block ends up in `out`, which is complete when the block ends without an error, and only then."""
    key = os.urandom(KEY_BYTES)
    header = wrap(key, passphrase.encode(), "passphrase").model_dump_json().encode()
    head = MAGIC + struct.pack(">I", len(header)) + header
    out.write(head)
    writer = _Writer(out, AESGCM(key), head)
    yield writer  # type: ignore[misc]  # a RawIOBase has all that a tar needs
    writer.finish()


def opening(source: IO[bytes], passphrase: str) -> io.BufferedReader:
    """What was sealed; reading raises IntegrityError, `bad-backup`, where it was changed or cut off.

    Raises:
        IntegrityError: `bad-backup`: no such file, or a damaged header; `wrong-passphrase`.
    """
    head = source.read(len(MAGIC) + 4)
    if len(head) < len(MAGIC) + 4 or not begins_so(head):
        raise _damaged("its beginning is not that of a backup")
    size = struct.unpack(">I", head[len(MAGIC) :])[0]
    header = source.read(size) if size <= _MOST_HEADER else b""
    try:
        wrapped = Wrapped.model_validate_json(header)
    except ValidationError:
        raise _damaged("its header is not whole") from None
    try:
        key = wrapped.unwrap(passphrase.encode())
    except IntegrityError:
        raise IntegrityError(
            "the passphrase does not open this backup",
            remedy="give the one that it was made with; without it nobody can read it",
            code="wrong-passphrase",
        ) from None
    return io.BufferedReader(_Reader(source, AESGCM(key), head + header), PIECE)


class _Writer(io.RawIOBase):
    def __init__(self, out: IO[bytes], cipher: AESGCM, head: bytes) -> None:
        self._out, self._cipher, self._head = out, cipher, head
        self._left, self._number = bytearray(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        self._left += data
        while len(self._left) > PIECE:  # one that is just full may be the last
            self._piece(bytes(self._left[:PIECE]), last=False)
            del self._left[:PIECE]
        return memoryview(data).nbytes

    def finish(self) -> None:
        self._piece(bytes(self._left), last=True)

    def _piece(self, data: bytes, *, last: bool) -> None:
        self._out.write(self._cipher.encrypt(_nonce(self._number, last=last), data, self._head))
        self._number += 1


class _Reader(io.RawIOBase):
    def __init__(self, source: IO[bytes], cipher: AESGCM, head: bytes) -> None:
        self._source, self._cipher, self._head = source, cipher, head
        self._ahead, self._left, self._number, self._ended = source.read(PIECE + _TAG), b"", 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, into: WriteableBuffer, /) -> int:
        while not self._left and not self._ended:
            self._piece()
        view = memoryview(into)
        size = min(view.nbytes, len(self._left))
        view[:size], self._left = self._left[:size], self._left[size:]
        return size

    def _piece(self) -> None:
        piece, self._ahead = self._ahead, self._source.read(PIECE + _TAG)
        self._ended = not self._ahead
        try:
            self._left = self._cipher.decrypt(_nonce(self._number, last=self._ended), piece, self._head)
        except (InvalidTag, ValueError):
            raise _damaged("it was changed or cut off") from None
        self._number += 1


def _nonce(number: int, *, last: bool) -> bytes:
    return struct.pack(">QI", number, last)


def _damaged(why: str) -> IntegrityError:
    return IntegrityError(
        f"the backup is damaged: {why}", remedy="use another backup; nothing was changed", code="bad-backup"
    )
