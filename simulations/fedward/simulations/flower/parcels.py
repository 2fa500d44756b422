"""What travels: a header in JSON and arrays, as one safetensors file in memory. Reading it runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

Header: TypeAlias = Mapping[str, str | int | list[int] | None]
Arrays: TypeAlias = dict[str, NDArray[Any]]

_HEADER = "header"


def pack(header: Header, **arrays: NDArray[Any]) -> bytes:
    """A header and named arrays as bytes."""
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    packed: bytes = save({_HEADER: text} | {name: np.ascontiguousarray(one) for name, one in arrays.items()})
    return packed


def unpack(parcel: bytes) -> tuple[dict[str, Any], Arrays]:
    """What `pack` was given."""
    arrays: Arrays = load(parcel)
    return json.loads(arrays.pop(_HEADER).tobytes()), arrays


def send(connection: Connection, header: Header, parcel: bytes = b"") -> None:
    """One message over a socket.

    Raises:
        OSError: the other side is gone, or took nothing for as long as the socket waits.
    """
    connection.send_bytes(json.dumps(header).encode())
    connection.send_bytes(parcel)


def receive(connection: Connection) -> tuple[dict[str, Any], bytes]:
    """The next message, once it comes.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    return json.loads(connection.recv_bytes()), connection.recv_bytes()
