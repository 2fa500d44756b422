"""The alarms that a coordinator raises about a site, and the entries of its own audit log that tell of something wrong. Pure.

A site with an alarm is asked nothing more until a named person has cleared it. The record keeps an alarm's words; the words begin
as they are made here, so that its kind is found again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Alarm(StrEnum):
    LEDGER_WENT_BACK = "ledger-went-back"
    LEDGER_FORKED = "ledger-forked"
    AUDIT_LOG_FORKED = "audit-log-forked"


INCIDENTS: Final = ("alarm-raised", "split-view", "login-refused", "call-refused", "rounds-lost")
"""Kinds of entries of the coordinator's audit log that a person there should look into."""

_WENT_BACK: Final = "its ledger went back from entry "
_AUDIT_LOG: Final = "its audit log does not continue the one that was seen: "


def ledger_went_back(known: int, seen: int) -> str:
    """The words of an alarm: the newest entry that was known, and the newest that the site has now."""
    return f"{_WENT_BACK}{known} to entry {seen}"


def ledger_forked(sequence: int) -> str:
    return f"entry {sequence} of its ledger is another than it was"


def audit_log_forked(what: str) -> str:
    return f"{_AUDIT_LOG}{what}"


def kind_of(words: str) -> Alarm:
    """The kind of an alarm, by its words."""
    if words.startswith(_WENT_BACK):
        return Alarm.LEDGER_WENT_BACK
    return Alarm.AUDIT_LOG_FORKED if words.startswith(_AUDIT_LOG) else Alarm.LEDGER_FORKED
