"""Why a site was not in a sum, out of the record's words: a name from a closed list, what it means, who does what about it.

A site's own refusal is named by its code of `fedward.study.codes`. What the coordinator saw for itself has a name of `OWN`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fedward.server.records import StatusRow
from fedward.study.codes import CODES

HOSPITAL: Final = "the hospital"
COORDINATOR: Final = "the coordinator"
NOBODY: Final = "nobody"


@dataclass(frozen=True)
class Cause:
    """Why a site was out of an attempt, or is not ready for one.

    Attributes:
        name: a code that the site gave or for which its answer was refused, or a name of `OWN`.
        means: what that means, a clause.
        who: who has to do something about it.
        do: what; empty for a code, whose remedies `fedward explain CODE` has.
        is_code: whether `name` is such a code.
    """

    name: str
    means: str
    who: str
    do: str
    is_code: bool = False


def _own(means: str, who: str = NOBODY, do: str = "") -> tuple[str, str, str]:
    return means, who, do


OWN: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "not-there": _own(
            "not reachable when the attempt began, so not asked",
            HOSPITAL,
            "see that the node runs and reaches the coordinator",
        ),
        "lost": _own(
            "reachable when the attempt began, and not afterwards",
            HOSPITAL,
            "see that the node runs and reaches the coordinator",
        ),
        "no-answer": _own(
            "asked, and no answer came before the round's deadline",
            HOSPITAL,
            "see whether the node hangs or has too much to do; a study with a longer federation.deadline gives it more time",
        ),
        "too-slow": _own(
            "asked, and no answer came in the time that it usually takes or, if it is new, that the others' speed gave it",
            COORDINATOR,
            "nothing the first time: it is given the whole deadline in the next round. If it happens often, propose the study with "
            'federation.stragglers = "wait"',
        ),
        "records-alarm": _own(
            "the hospital's privacy or audit records do not continue what they had shown before",
            COORDINATOR,
            "telephone the hospital; it is asked nothing more until a named person has cleared the alarm",
        ),
        "said-no": _own(
            "people there refused the study, revoked their approval or withdrew their data",
            HOSPITAL,
            "decide whether that stands; nobody else can change it",
        ),
        "not-asked": _own("reachable, but not asked, since the attempt could not go on without others"),
        "not-drawn": _own("there, but it was the turn of others: the study asks some hospitals a round"),
        "nobody-asked": _own("nobody was asked, since too few were there; the record does not say who was"),
        "stopped": _own("a person stopped the study before an answer came"),
        "interrupted": _own("the coordinator's own program ended during the attempt; nothing that was answered then counts"),
        "run-failed": _own("the study failed while the attempt was open; nothing that was answered then counts"),
        "answer-refused": _own(
            "an answer came and did not pass the coordinator's checks",
            HOSPITAL,
            "look into the node's log, and see that it runs the same version of Fedward as the coordinator",
        ),
        "too-few-patients": _own(
            "fewer patients than the study asks for",
            HOSPITAL,
            "register more patients, or stay out",
        ),
        "other": _own("the record has only the words beside this", COORDINATOR, "read them, and the coordinator's log"),
    }
)  # fmt: skip
SPENT: Final = frozenset(
    {
        "budget-exhausted", "budget-unreachable", "period-exhausted", "policy-epsilon-all-others", "reservation-used-up",
        "attempts-used-up", "evaluations-used-up",
    }
)  # fmt: skip
"""Codes by which a site says that it has no privacy budget for what it is asked."""
BLAMELESS: Final = frozenset({"not-asked", "not-drawn", "nobody-asked", "stopped", "interrupted", "run-failed"})
"""Where a site was out for what others did: no absence of its own."""

NOT_ASKED: Final = "reachable, and not asked: this attempt could not go on without others"
"""The recorded reason of a site that was there for an attempt that asked others, or nobody."""

_SAID = re.compile(r"refused: ([a-z][a-z0-9-]*)")
_CODED = re.compile(r"(?:^|: )([a-z][a-z0-9]*(?:-[a-z0-9]+)*): ")
_UNKNOWN_ABSENCE: Final = "not reachable, or it refused the study"
_BEGINS: Final = (
    ("unreachable: ledger alarm", "records-alarm"),
    ("unreachable", "lost"),
    ("no answer in time", "no-answer"),
    ("no answer: deadline passed", "no-answer"),
    ("no answer", "too-slow"),
    ("attempt stopped", "stopped"),
    ("the coordinator stopped during", "interrupted"),
    ("the run failed", "run-failed"),
    ("reachable, and not asked", "not-asked"),
    ("not drawn", "not-drawn"),
    ("too few patients", "too-few-patients"),
    ("no usable answer", "answer-refused"),
)


def own(name: str) -> Cause:
    """A cause that the coordinator saw for itself."""
    means, who, do = OWN[name]
    return Cause(name, means, who, do)


def of_code(code: str) -> Cause:
    """A cause that a site named by a code."""
    return Cause(code, CODES[code], HOSPITAL, "", is_code=True)


def of_reason(reason: str) -> Cause:
    """The cause in a recorded reason of a refusal, a loss or a standing."""
    said = _SAID.search(reason)
    if said is not None and said[1] in CODES:
        return of_code(said[1])
    bare = reason.removeprefix("left out of the batch: ")
    for begin, name in _BEGINS:
        if bare.startswith(begin):
            return own(name)
    return own("answer-refused") if _CODED.match(bare) else own("other")


def of_status(row: StatusRow, *, said_no: bool, alarmed: bool, known_away: bool) -> Cause | None:
    """Why a site did not contribute to an attempt; None if it did.

    Args:
        row: its status.
        said_no: whether people there had taken it out of the study.
        alarmed: whether an alarm about its records was open.
        known_away: whether the record tells that who is not named as reachable was not.
    """
    if row.status == "contributed":
        return None
    if row.reason != _UNKNOWN_ABSENCE:
        return of_reason(row.reason)
    if said_no:
        return own("said-no")
    if alarmed:
        return own("records-alarm")
    return own("not-there" if known_away else "nobody-asked")
