"""How states, outcomes and statuses are marked: always a sign, a word and a place in the theme's palette together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Tone = Literal["green", "red", "orange", "blue", "gray", "violet"]
"""Streamlit's names of the theme's colours."""


@dataclass(frozen=True)
class Mark:
    """Attributes:
    word: what it is called.
    icon: Material's name of the sign beside the word.
    tone: the colour of the badge.
    shape: the sign in a chart (Vega's name, or a path).
    place: in the theme's palette of series, from 0.
    """

    word: str
    icon: str
    tone: Tone
    shape: str = "circle"
    place: int = 6


_CROSS: Final = "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z"
_DASH: Final = "M-1,-0.25L1,-0.25L1,0.25L-1,0.25Z"

OUTCOMES: Final[Mapping[str | None, Mark]] = MappingProxyType(
    {
        "committed": Mark("committed", "check_circle", "green", "circle", 2),
        "quorum-missed": Mark("too few hospitals", "group_off", "red", _CROSS, 1),
        "sum-refused": Mark("sum refused", "block", "red", "diamond", 3),
        "interrupted": Mark("interrupted", "power_off", "orange", "triangle-up", 4),
        "stopped": Mark("stopped", "stop_circle", "gray", "square", 6),
        "lost": Mark("given up later", "undo", "orange", "triangle-down", 5),
        None: Mark("under way", "pending", "blue", _DASH, 0),
    }
)
STATUSES: Final[Mapping[str, Mark]] = MappingProxyType(
    {
        "contributed": Mark("contributed", "check_circle", "green", "circle", 2),
        "refused": Mark("refused", "block", "red", _CROSS, 1),
        "dropped": Mark("dropped", "signal_disconnected", "orange", "triangle-down", 4),
        "absent": Mark("not asked", "remove", "gray", _DASH, 6),
        "asked": Mark("asked", "pending", "blue", "square", 0),
    }
)
STATES: Final[Mapping[str, Mark]] = MappingProxyType(
    {
        "draft": Mark("draft", "edit_note", "gray"),
        "proposed": Mark("proposed", "outgoing_mail", "blue"),
        "ready": Mark("ready", "task_alt", "blue"),
        "running": Mark("running", "autorenew", "blue"),
        "paused": Mark("paused", "pause_circle", "orange"),
        "completed": Mark("completed", "check_circle", "green"),
        "failed": Mark("failed", "error", "red"),
        "budget-exhausted": Mark("budget exhausted", "battery_alert", "red"),
        "stopped": Mark("stopped", "stop_circle", "gray"),
    }
)
HOLDS: Final = Mark("holds", "check_circle", "green")
FAILS: Final = Mark("does not hold", "cancel", "red")
UNKNOWN: Final = Mark("not known", "help", "orange")


def outcome(name: str | None) -> Mark:
    """Of an attempt; one that a later version of Fedward names is told by its own name."""
    return OUTCOMES.get(name) or Mark(str(name), "help", "gray", "cross", 6)


def status(name: str) -> Mark:
    """Of a site in an attempt."""
    return STATUSES.get(name) or Mark(name, "help", "gray", "cross", 6)


def state(name: str) -> Mark:
    """Of a study."""
    return STATES.get(name) or Mark(name, "help", "gray")
