"""The closed list of refusal codes: every code in the source stands there, or is known never to leave a site."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward.study import codes
from fedward.study.codes import CODES, INTERNAL_ERROR

ROOT = Path(__file__).parents[2]

NOT_SENT = {
    # Of the command line, the log and files that a person handles: a node raises none of them while it answers.
    "bad-backup", "metrics-port", "older-home", "newer-home", "ledger-format",
    "error", "usage", "no-evidence", "damaged-evidence", "damaged-record", "incident-not-recorded", "thread-failed",
    "metrics-not-kept", "not-an-approver", "approver-key-in-use", "too-few-approvers", "policy-start-over", "policy-expiry",
    "approvals-lowered", "wrong-approver-passphrase", "bad-certificate",
    "bad-reason", "bad-release", "no-captum", "no-votes",
    "audit-entry", "audit-exists", "audit-malformed", "audit-retention", "audit-stale", "no-audit-log",
    # Before a node starts: its home is locked, or its certificate cannot be read.
    "credentials-unreadable",
    "locked", "weak-passphrase", "wrong-key-file", "wrong-passphrase",
    # The door's own: it leaves as internal-error.
    "not-allowed-out",
}  # fmt: skip


def strings(node: ast.expr) -> Iterator[str]:
    """The string constants that an expression can be, through conditionals."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body)
        yield from strings(node.orelse)


def codes_in(source: str) -> Iterator[str]:
    """Every `code=` of a call, the code of `_refused`, `no_honest_request` and `Objection`, and every `default_code`."""
    positional = {"_refused": 1, "no_honest_request": 1, "Objection": 0}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "code":
                    yield from strings(keyword.value)
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in positional and len(node.args) > positional[name]:
                yield from strings(node.args[positional[name]])
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = any(isinstance(target, ast.Name) and target.id == "default_code" for target in targets)
            if named and node.value is not None:
                yield from strings(node.value)


def test_every_code_in_the_source_is_on_the_list_or_known_to_stay() -> None:
    """A new code fails here until somebody decides: may it leave a hospital, or does it stay?"""
    found: dict[str, str] = {}
    for package in ("study", "privacy", "client"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for code in codes_in(path.read_text(encoding="utf-8")):
                found.setdefault(code, path.name)
    assert len(found) > 70
    missing = {code: name for code, name in found.items() if code not in CODES and code not in NOT_SENT}
    assert missing == {}
    assert not NOT_SENT & set(CODES)


def test_a_code_is_plain_and_its_words_are_a_person_s() -> None:
    for code, words in CODES.items():
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,47}", code)
        assert 10 < len(words) < 130
        assert not words.endswith(".")


@pytest.mark.parametrize(
    "code", ["smith", "no-data ", "NO-DATA", "", "not-allowed-out", None, 7, b"no-data", ["no-data"]]
)
def test_what_is_not_on_the_list_leaves_as_an_internal_error(code: object) -> None:
    assert codes.leaving(code) == INTERNAL_ERROR


@pytest.mark.parametrize("code", sorted(CODES))
def test_what_is_on_the_list_leaves_as_it_is(code: str) -> None:
    assert codes.leaving(code) == code
    assert codes.known(code) == code


def test_the_list_cannot_be_added_to_at_run_time() -> None:
    with pytest.raises(TypeError):
        CODES["smith"] = "a patient"  # type: ignore[index]
