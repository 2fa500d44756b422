"""Canonical JSON and digests: the one byte form that every signature, chain and digest is taken over.

Follows RFC 8785's intent (sorted keys, no white space, UTF-8) for the types Fedward uses: objects with string keys,
arrays, strings, integers, booleans, null and finite floats (Python's shortest repr). Anything else is refused, so that
two parties can never digest different bytes for equal values.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final

from fedward.privacy.errors import InputError

_SCALARS: Final = frozenset({str, int, bool, type(None)})


def _plain(value: Any) -> bool:
    """Whether it is JSON data of exactly Python's own types, as nearly all is; what is not, `_check` judges and names."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_plain, value.values()))
    if kind is list or kind is tuple:
        return all(map(_plain, value))
    return kind is float and math.isfinite(value)


def _check(value: Any, where: str) -> None:
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{where} is not a finite number", expected="a finite number", got=repr(value))
        return
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, f"{where}[{index}]")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"{where} has a key that is no string", got=type(key).__name__)
            _check(item, f"{where}.{key}")
        return
    raise InputError(f"{where} cannot be written canonically", expected="JSON data", got=type(value).__name__)


def canonical_json(value: Any) -> bytes:
    """The canonical bytes of JSON data.

    Raises:
        InputError: the value holds a non-finite number, a non-string key or a type that JSON has not.
    """
    if not _plain(value):
        _check(value, "value")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(data: bytes) -> str:
    """SHA-256 in lower-case hex (64 characters)."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of the value's canonical JSON."""
    return digest(canonical_json(value))
