"""A bundle for whoever helps this hospital: what runs, what is wrong by its code, how often what happened; no text and no value.

Built from an allow list, not by striking out: every word in it is of a closed list of this program (checks, states, codes, events,
kinds, settings' names), a number of events, bytes or days, a time, a random reference, or a version. Names of the hospital, of its
people, studies, columns, files and folders, texts of errors, addresses, keys, digests of data: none is copied. It is one JSON
file, for a person here to read before they send it. Nothing is sent by this program.
"""

from __future__ import annotations

import builtins
import json
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from fedward.client import datasets, doctor
from fedward.client.checkup import examine
from fedward.client.flower import diagnosis
from fedward.client.home import SiteHome, format_of
from fedward.client.log import read_log
from fedward.client.node_state import node_state
from fedward.client.policy import load_policy
from fedward.privacy.auditentries import KINDS
from fedward.privacy.errors import FedwardError
from fedward.study.codes import CODES
from fedward.study.versions import PROTOCOL, TESTED, installed

FORMAT: Final = 1
NEWEST_ERRORS: Final = 200
OTHER: Final = "other"
STATES: Final = frozenset(
    value for name, value in vars(diagnosis).items() if name.isupper() and isinstance(value, str)
) | {"starting", "stopped", "never started"}
EVENTS: Final = STATES | {
    "abandoned", "advertise", "answered", "batch", "charged", "checkpoint", "clipped", "confirm", "declared", "ended", "error",
    "incident", "library", "masked", "offered", "open", "share", "unmask", "unreadable", "worked",
}  # fmt: skip
# Codes of the log that leave under another name.
_OWN_CODES: Final = frozenset({"thread-failed", "metrics-not-kept", "incident-not-recorded", "not-allowed-out"})
_FOLDERS: Final = frozenset({"approvals", "approvers", "audit", "before-restore", "datasets", "incidents", "keys", "log", "opened",
                             "own-metrics", "proposals", "rotation", "rotation.previous"})  # fmt: skip
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_REFERENCE: Final = re.compile(r"[0-9a-f]{12}")


def support_bundle(home: SiteHome, now: datetime | None = None) -> dict[str, Any]:
    """Everything that the bundle says, as JSON data. What cannot be read says so by its code."""
    at = now or datetime.now(UTC)
    findings = examine(home, at)
    return {
        "format": FORMAT,
        "made_at": at.isoformat(timespec="seconds"),
        "versions": _versions(),
        "home_format": _or_code(lambda: format_of(home.path)),
        "joined": home.kit_file.is_file(),
        "doctor": {
            "verdict": doctor.verdict(findings),
            # The texts name files and studies: they stay here.
            "checks": [{"check": one.check, "state": one.state, "code": _code(one.code)} for one in findings],
        },
        "node": _or_code(lambda: _node(home)),
        "policy": _or_code(lambda: _policy(home)),
        "data": _or_code(lambda: {"registered": len(datasets.registered(home))}),
        "ledger": _or_code(lambda: _ledger(home)),
        "audit": _or_code(lambda: _audit(home)),
        "log": _or_code(lambda: _log(home)),
        "files": _or_code(lambda: _files(home.path)),
    }


def write_bundle(bundle: Mapping[str, Any]) -> bytes:
    """The bundle as the file that a person reads and sends."""
    return json.dumps(bundle, indent=1, ensure_ascii=True, allow_nan=False).encode() + b"\n"


def _or_code(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FedwardError as error:
        return {"failed": _code(error.code)}
    except Exception as error:  # noqa: BLE001 - a bundle is made when things are broken
        return {"failed": _kind(type(error).__name__)}


def _versions() -> dict[str, Any]:
    return {
        "fedward": installed("fedward") or "source",
        "protocol": PROTOCOL,
        "python": ".".join(map(str, sys.version_info[:3])),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": {name: installed(name) for name in TESTED},
    }


def _node(home: SiteHome) -> dict[str, Any]:
    state = node_state(home)
    return {"runs": state["pid"] is not None, "state": _of(str(state["state"]), STATES), "at": _time(state["at"])}


def _policy(home: SiteHome) -> dict[str, Any]:
    """Settings that are numbers or yes and no; of lists, such as denied columns, how long they are."""
    settings = load_policy(home.policy_file).model_dump()
    return {name: _setting(value) for name, value in settings.items()}


def _setting(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return {"entries": len(value)} if isinstance(value, (list, tuple)) else OTHER


def _ledger(home: SiteHome) -> dict[str, Any]:
    with home.ledger() as ledger:
        return {
            "entries": len(ledger.entries()),
            "kinds": dict(Counter(type(e.what).__name__ for e in ledger.entries())),
        }


def _audit(home: SiteHome) -> dict[str, Any]:
    kinds = Counter(_of(entry.kind, KINDS) for entry in home.audit.entries())
    return {"entries": home.audit.size, "kinds": dict(sorted(kinds.items()))}


def _log(home: SiteHome) -> dict[str, Any]:
    events: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    errors: list[dict[str, str]] = []
    first = last = ""
    for line in read_log(home.log_file, home.unsealer(home.log_file)):
        event, at = _of(str(line.get("event")), EVENTS), _time(line.get("at"))
        events[event] += 1
        first, last = first or at, at or last
        if event == "error":
            code = _code(line.get("code"))
            codes[code] += 1
            reference = str(line.get("reference"))
            errors.append({"at": at, "code": code, "kind": _kind(line.get("kind")),
                           "reference": reference if _REFERENCE.fullmatch(reference) else ""})  # fmt: skip
    return {
        "first": first, "last": last, "events": dict(sorted(events.items())), "codes": dict(sorted(codes.items())),
        "newest_errors": errors[-NEWEST_ERRORS:],
    }  # fmt: skip


def _files(path: Path) -> dict[str, dict[str, int]]:
    """How many files and bytes each folder of the home holds; those of no known name together."""
    found: dict[str, dict[str, int]] = {}
    for file in path.rglob("*"):
        if file.is_file():
            parts = file.relative_to(path).parts
            folder = found.setdefault(_of(parts[0], _FOLDERS) if len(parts) > 1 else ".", {"files": 0, "bytes": 0})
            folder["files"] += 1
            folder["bytes"] += file.stat().st_size
    return dict(sorted(found.items()))


def _code(code: object) -> str:
    """A code of this program's closed lists; what else stands there could have been made from anything."""
    if code in ("", None):
        return ""
    return _of(str(code), frozenset(CODES) | STATES | _OWN_CODES | _DOCTORS)


_DOCTORS: Final = frozenset({"clock-skew", "versions", "permissions", "not-encrypted", "older-home", "newer-home", "audit-changed",
                             "audit-truncated", "audit-unwritable", "locked", "wrong-passphrase", "wrong-key-file"})  # fmt: skip


def _kind(name: object) -> str:
    """The name of an exception's class, if it is Python's or ours."""
    ours = {"FedwardError", *(kind.__name__ for kind in _all_kinds(FedwardError))}
    pythons = {
        one for one, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    return _of(str(name), ours | pythons)


def _all_kinds(kind: type[FedwardError]) -> list[type[FedwardError]]:
    return [below for child in kind.__subclasses__() for below in (child, *_all_kinds(child))]


def _of(word: str, known: frozenset[str] | set[str] | Mapping[str, object]) -> str:
    return word if word in known else OTHER


def _time(text: object) -> str:
    """To the second."""
    found = _TIME.match(str(text))
    return found.group() if found else ""
