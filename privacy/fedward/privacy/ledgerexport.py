"""A ledger as one file that anybody can check: its chain, entry by entry, signed by the site. Pure: bytes in, bytes out.

JSON lines, each in canonical form: a header with the first link, the site, its public key, the time and the head; then every
entry with its columns; last the site's signature over all bytes before it. It holds no patient value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fedward.privacy.canonical import canonical_json
from fedward.privacy.chain import Chain, begun, genesis_of
from fedward.privacy.entries import Head, check_count, check_digest, check_text, check_time, row_of
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.signing import Identity, from_text, to_text, verify

KIND = "fedward-ledger"
_REMEDY = "ask the hospital for a fresh export; this one proves nothing"
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Export:
    """An export that holds: whose it is, when it was made, and the chain in it."""

    site: str
    key: str
    at: int
    chain: Chain


def write_export(chain: Chain, identity: Identity, site: str, at: int) -> bytes:
    """The export's bytes; `at` is now, in Unix seconds."""
    header = {
        "kind": KIND, "site": check_text(site, "site"), "key": identity.public, "at": at,
        "head": vars(chain.tail), "genesis": genesis_of(chain),
    }  # fmt: skip
    lines = [canonical_json(header), *(canonical_json(row_of(entry)) for entry in chain.entries)]
    data = b"\n".join(lines) + b"\n"
    return data + canonical_json({"signature": to_text(identity.sign("ledger", data))}) + b"\n"


def read_export(data: bytes, key: str | None = None) -> Export:
    """Checks an export whole: its form, every link of the chain, the head, and the signature.

    Args:
        data: the file's bytes.
        key: the site's public key as its reader knows it (64 hex digits); without it the signature only shows that the file is
            whole and that whoever made it has the key in it.

    Raises:
        InputError: the file is no export, or its format is another version's.
        IntegrityError: the chain, the head or the signature does not hold, or it is by another key.
    """
    lines = data.split(b"\n")
    if len(data) > _MOST_BYTES or len(lines) < 3 or lines.pop() != b"":
        raise InputError("this is no export of a ledger", expected="JSON lines that end in a signature", remedy=_REMEDY)
    header, *rows, last = [_line(line, number) for number, line in enumerate(lines, 1)]
    site, signer, at = header.get("site"), header.get("key"), header.get("at")
    if header.get("kind") != KIND or set(header) != {"kind", "site", "key", "at", "head", "genesis"}:
        raise InputError("this is no export of a ledger", expected=f"a header of kind {KIND}", remedy=_REMEDY)
    check_text(site, "site")
    check_time(at)
    signature = from_text(str(last.get("signature")), "the export's signature")
    signed = data[: len(data) - len(lines[-1]) - 1]
    verify(str(signer), "ledger", signed, signature, "the ledger's export")
    if key is not None and key != signer:
        raise IntegrityError(
            "the export is signed by another key", expected=key, got=str(signer), remedy=_REMEDY, code="foreign-key"
        )
    genesis = header["genesis"]
    if not isinstance(genesis, dict):
        raise InputError("this is no export of a ledger", expected="a first link", remedy=_REMEDY)
    chain = begun(genesis, "the export")
    chain.take_in([SimpleNamespace(**row) for row in rows])
    if header["head"] != vars(chain.tail):
        raise IntegrityError("the export's head is not its last entry", remedy=_REMEDY, code="ledger-broken")
    return Export(str(site), str(signer), int(str(at)), chain)


def head_text(head: Head) -> str:
    """A head as people pass it on: SEQUENCE:DIGEST."""
    return f"{head.sequence}:{head.digest}"


def parse_head(text: str) -> Head:
    """A head as people write it, `SEQUENCE:DIGEST`.

    Raises:
        InputError: it is none.
    """
    number, _, digest = text.partition(":")
    try:
        head = Head(int(number), digest)
        check_count(head.sequence, "the head's sequence", 2**53)
        check_digest(digest, "the head's digest")
    except ValueError:
        raise InputError("this is no head of a ledger", expected="SEQUENCE:DIGEST", got=text[:100]) from None
    return head


def _line(line: bytes, number: int) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
        whole = isinstance(found, dict) and canonical_json(found) == line
    except (ValueError, RecursionError, InputError):
        whole = False
    if not whole:
        raise InputError(f"line {number} of the export is no canonical JSON object", remedy=_REMEDY)
    result: dict[str, Any] = found
    return result
