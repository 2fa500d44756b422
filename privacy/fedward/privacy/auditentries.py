"""What an audit log's entries say: a closed list of kinds, each with a closed list of fields, each of one type. Pure.

An entry is one line of canonical JSON: its number, its time, its kind, its fields and a random salt. There is no field for free
text and none for a value: digests, names, codes, counts and references alone; but for the reasons of a coordinator's releases,
which stand in the signed release as well. The salt (16 bytes) keeps an entry unguessable:
proofs and checkpoints show hashes of entries to others, and who could guess an entry's fields could else confirm them.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from fedward.privacy.checkpoint import ORIGIN
from fedward.privacy.errors import InputError, UsageError

Value = str | int
LARGEST: Final = 2**53 - 1
MAX_ENTRY_BYTES: Final = 8192
SALT_BYTES: Final = 16
MOST_WORDS: Final = 500


def _matches(pattern: str) -> Callable[[object], bool]:
    found = re.compile(pattern)
    return lambda value: type(value) is str and found.fullmatch(value) is not None


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _person(value: object) -> bool:
    return type(value) is str and 1 <= len(value) <= 200 and value.isprintable() and value == value.strip()


def _words(value: object) -> bool:
    return type(value) is str and 1 <= len(value) <= MOST_WORDS and value.isprintable() and value == value.strip()


_DIGEST: Final = _matches(r"[0-9a-f]{64}")
_NAME: Final = _matches(r"[a-z0-9][a-z0-9_-]{0,63}")
_CODE: Final = _matches(r"[a-z][a-z0-9-]{0,47}")
_SALT: Final = _matches(r"[0-9a-f]{32}")

FIELDS: Final[Mapping[str, Callable[[object], bool]]] = MappingProxyType(
    {
        "study": _DIGEST,
        "study_id": _NAME,
        "site": _NAME,
        "by": _person,  # who decided or did it
        "other": _person,  # whom it is about
        "key": _matches(r"[0-9a-f]{64}|([0-9a-f]{4}-){7}[0-9a-f]{4}"),  # a public key, or its fingerprint
        "code": _CODE,
        "reference": _matches(r"[0-9a-f]{12}"),
        "stage": _CODE,
        "state": _CODE,
        "outcome": _CODE,
        "reason": _CODE,
        "purpose": _matches(r"[a-z][a-z0-9-]{0,63}"),
        "round": _count,
        "attempt": _count,
        "entry": _count,  # the number of an entry of the privacy ledger
        "first": _count,
        "last": _count,
        "bytes": _count,
        "size": _count,
        "count": _count,
        "until": _count,  # a time, Unix seconds
        "newest": _count,  # a time, Unix seconds
        "digest": _DIGEST,
        "previous": _DIGEST,
        "model": _DIGEST,
        "root": _DIGEST,
        "origin": _matches(ORIGIN),
        "signature": _matches(r"[A-Za-z0-9+/]{64,190}={0,2}"),  # DER in base64
        "words": _words,  # a coordinator's reason, which is meant to be read by everybody
    }
)
"""Every field that an entry may have, and the check of its type."""

_ANY: Final = "study study_id by code reference reason digest count"
_KINDS: Final = {
    # the log itself
    "begun": "origin!",
    "mended": "bytes! digest!",
    "removed": "first! last! newest!",
    "exported": "size! root! digest!",
    "checkpoint-received": "origin! size! root!",
    "split-view": "origin! size! root! site",
    # people's decisions
    "proposed": "study! study_id! previous until",
    "approved": "study! key until previous",
    "refused": "study! key",
    "revoked": "study! key",
    "superseded": "study! previous",
    "approver-added": "other key",
    "approver-removed": "other key",
    "approvals-required": "key",
    "policy-changed": "digest! previous other",
    "started-over": "key",
    "decisions-restored": "key",
    "paused": "key",
    "resumed": "key",
    "withdrawn": "site key until",
    # what a study does here
    "declared": "study_id!",
    "reserved": "study! entry until",
    "charged": "study! round! attempt! purpose! entry!",
    "released": "study! entry reason!",
    "round-answered": "study! stage! round attempt model",
    "round-refused": "code! stage! round attempt site",
    "request-refused": "code! stage",
    "incident": "code! reference! other stage",
    "study-ended": "study! reason!",
    # what a coordinator does
    "sealed": "study! study_id! size",
    "launched": "study! study_id other",
    "stopped": "study study_id",
    "stragglers-decided": "study! round! attempt! outcome!",
    "study-paused": "study! study_id",
    "study-resumed": "study! study_id",
    "round-outcome": "study! round! attempt! outcome! size model",
    "rounds-lost": "study! round! count! model!",
    "run-ended": "study! state!",
    "gates-judged": "study! outcome! count!",
    "release": "study! model! round words other",
    "override-signed": "study! model! by! key! words! digest! signature!",
    "rolled-back": "study! model! words! other",
    "alarm-raised": "site! code",
    "alarm-cleared": "site! by!",
    # keys, data, processes
    "login": "site key",
    "login-refused": "site code! key",
    "enrolled": "site! key! previous until",
    "key-rotated": "site key! previous",
    "key-revoked": "site key! until",
    "operator-added": "other! key! purpose! until",
    "operator-removed": "other! key!",
    "called": "by! key! stage!",
    "call-refused": "by key stage! code!",
    "requested": "by! purpose! digest! reference!",
    "request-seconded": "by! other! purpose! digest! reference!",
    "request-withdrawn": "by! other purpose! digest! reference!",
    "data-registered": "study_id! digest! previous",
    "exclusions-changed": "digest! count!",
    "metrics-released": "study!",
    "metrics-shared": "study! site! digest! round!",
    "backup": "digest size root",
    "restored": "digest size root",
    "ledger-recovered": "entry! reason! by!",
    "clock-set-back": "count!",
    "node-started": "digest",
    "node-stopped": "",
    "service-started": "digest",
    "service-stopped": "",
}


@dataclass(frozen=True)
class _Form:
    required: frozenset[str]
    allowed: frozenset[str]


def _form(text: str) -> _Form:
    names = text.split()
    required = frozenset(name[:-1] for name in names if name.endswith("!"))
    return _Form(required, required | frozenset(name for name in names if name[-1] != "!") | frozenset(_ANY.split()))


KINDS: Final[Mapping[str, _Form]] = MappingProxyType({kind: _form(text) for kind, text in _KINDS.items()})
"""Kind → the fields that it must have, and all that it may have. Study, person, code, reference, reason, digest and count may
stand in any."""


@dataclass(frozen=True)
class LogEntry:
    """An entry as its log holds it.

    Attributes:
        number: its place, from 0.
        at: when, in Unix seconds, by the clock of whoever wrote it.
        kind: one of `KINDS`.
        fields: its fields.
        data: its canonical bytes, without the line end; what the tree's leaf is made of.
    """

    number: int
    at: int
    kind: str
    fields: Mapping[str, Value]
    data: bytes


def make_entry(number: int, at: int, kind: str, fields: Mapping[str, Value | None]) -> LogEntry:
    """A new entry with a fresh salt; a field that is None is left out.

    Raises:
        UsageError: no such kind, a field is missing or not allowed there, or not of its type. The error names the field and
            not its value.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    wrong = _wrong(kind, at, given)
    if wrong:
        raise UsageError(f"an audit entry cannot be written: {wrong}", code="audit-entry")
    body = {"at": at, "fields": given, "kind": kind, "number": number, "salt": secrets.token_hex(SALT_BYTES)}
    return LogEntry(number, at, kind, given, _canonical(body))


def parse_entry(data: bytes, number: int) -> LogEntry:
    """The entry in these bytes, which must be its only form and carry that number.

    Raises:
        InputError: they are no entry, or one with another number; code `audit-malformed` or `audit-reordered`.
    """
    try:
        if len(data) > MAX_ENTRY_BYTES:
            raise ValueError("too long")
        found = json.loads(data)
        at, fields, kind, own = found["at"], found["fields"], found["kind"], found["number"]
        whole = len(found) == 5 and _SALT(found["salt"]) and _count(own) and type(fields) is dict
        wrong = _wrong(kind, at, fields) if whole and _canonical(found) == data else "it is not in canonical form"
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _no_entry(number, "it is no entry") from None
    if wrong:
        raise _no_entry(number, wrong)
    if own != number:
        raise InputError(
            f"entry {own} of the audit log stands where entry {number} must", code="audit-reordered", got=str(own)
        )
    return LogEntry(number, at, kind, MappingProxyType(fields), data)


def number_in(data: bytes) -> int | None:
    """The number that an entry's bytes carry, whatever else is wrong with them."""
    found = re.search(rb'"number":(\d{1,16}),"salt"', data)
    return None if found is None else int(found[1])


def _wrong(kind: object, at: object, fields: Mapping[str, Any]) -> str:
    """What is wrong with an entry's parts; empty if nothing."""
    form = KINDS.get(kind) if isinstance(kind, str) else None
    if form is None:
        return "there is no such kind"
    if not _count(at):
        return "its time is no count of seconds"
    if not form.required <= fields.keys() <= form.allowed:
        missing, foreign = sorted(form.required - fields.keys()), sorted(fields.keys() - form.allowed)
        named = ", ".join(missing) if missing else ", ".join(name for name in foreign if name in FIELDS) or "unknown"
        return f'"{kind}" {"lacks the field" if missing else "has no field"} {named}'
    bad = [name for name, value in fields.items() if not FIELDS[name](value)]
    return f'the field "{bad[0]}" is not of its type' if bad else ""


def _canonical(value: Mapping[str, Any]) -> bytes:
    # As canonical_json, without its check of types: there are none but strings and integers here, and logs are long.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _no_entry(number: int, why: str) -> InputError:
    return InputError(f"entry {number} of the audit log is changed: {why}", code="audit-malformed")
