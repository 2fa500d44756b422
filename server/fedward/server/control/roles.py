"""Which role may make which call. Pure: a call that is not listed is nobody's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

Role = Literal["coordinator", "auditor", "viewer"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

_VIEWER: Final = frozenset(
    {"Whoami", "Studies", "Status", "History", "Alarms", "Waiting", "Policy", "Gates", "Mitigation", "Releases"}
)
_AUDITOR: Final = _VIEWER | {"Sites", "Record", "Model", "Transcript"}
_COORDINATOR: Final = _AUDITOR | {
    "Enroll",
    "Revoke",
    "Propose",
    "Launch",
    "Pause",
    "Resume",
    "Stop",
    "Decide",
    "ClearAlarm",
    "Withdraw",
    "ChangePolicy",
    "Override",
    "Share",
    "Release",
    "Rollback",
}
MAY: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {"viewer": _VIEWER, "auditor": _AUDITOR, "coordinator": _COORDINATOR}
)
READS: Final = _AUDITOR
"""Calls that change nothing."""
LARGE: Final = frozenset({"History", "Record", "Model", "Transcript"})
"""Calls whose answer the coordinator holds in memory, and may be hundreds of megabytes."""


def may(role: str, call: str) -> bool:
    """Whether a role may make a call."""
    return call in MAY.get(role, frozenset())
