"""A ledger's head, countersigned by the coordinator: a second place that a restored older file cannot reach. Pure.

The coordinator learns a number and a digest, nothing of what was charged.
"""

from __future__ import annotations

import json

from fedward.privacy.canonical import canonical_json
from fedward.privacy.entries import Head, check_count, check_digest, check_text, check_time
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.signing import Identity, from_text, to_text, verify


def countersign(head: Head, site: str, at: int, identity: Identity) -> bytes:
    """The countersigned head of a site's ledger, as the site keeps it; `at` is now, in Unix seconds."""
    check_time(at)
    body = _body(head, check_text(site, "site"), at)
    return canonical_json(body | {"signature": to_text(identity.sign("countersign", canonical_json(body)))}) + b"\n"


def countersigned(data: bytes, site: str, key: str) -> Head:
    """The head in a countersigned one.

    Raises:
        IntegrityError: it is damaged, of another site, or not signed by `key`.
    """
    try:
        found = json.loads(data)
        head = Head(found["sequence"], found["digest"])
        check_count(head.sequence, "sequence", 2**53)
        check_digest(head.digest, "digest")
        body = _body(head, found["site"], found["at"])
        signature, signed = found["signature"], canonical_json(body)
    except (ValueError, TypeError, KeyError, RecursionError, InputError) as error:
        raise _damaged("is damaged") from error
    verify(
        key, "countersign", signed, from_text(str(signature), "the countersignature"), "the ledger's countersigned head"
    )
    if found["site"] != site:
        raise _damaged("is of another site")
    return head


def _body(head: Head, site: str, at: int) -> dict[str, object]:
    return {"sequence": head.sequence, "digest": head.digest, "site": site, "at": at}


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(
        f"the countersigned head of the ledger {what}",
        remedy="ask the coordinator for the newest one, then compare: fedward site ledger --verify --head SEQUENCE:DIGEST",
        code="ledger-broken",
    )
