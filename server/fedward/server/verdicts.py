"""What is said of a model's gates: each gate with what was found. Plain data; `gates` makes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from fedward.server.seconding import Request

Side = Literal["least", "most"]
PARTICIPATION: Final = "participation"


@dataclass(frozen=True)
class Verdict:
    """One gate. `holds` is False both for what is beyond its limit and for what is not known; then `value` is None.

    Attributes:
        gate: its name in the manifest, or `participation`.
        side: whether `limit` is the least or the most that holds.
        limit: as the manifest has it; None for participation.
        value: what was found; `low` and `high` are its 95% interval, where it is an estimate.
        of: whose value it is, if not everybody's: a group, an attribute, a site.
        why: why it does not hold, in words; empty if it holds.
    """

    gate: str
    side: Side
    limit: float | None
    holds: bool
    value: float | None = None
    low: float | None = None
    high: float | None = None
    of: str = ""
    why: str = ""

    @property
    def known(self) -> bool:
        """Whether it could be evaluated."""
        return self.holds or self.value is not None or self.gate == PARTICIPATION

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"known": self.known}


def failing(found: Sequence[Verdict]) -> tuple[str, ...]:
    """Why the model may not become a release, a sentence's words a gate; nothing if all hold."""
    return tuple(one.why for one in found if not one.holds)


SIDES: Final[Mapping[str, Side]] = MappingProxyType(
    {
        "min_auroc": "least",
        "min_group_auroc": "least",
        "max_site_drop": "most",
        "max_equalized_odds_gap": "most",
        "max_calibration_error": "most",
        "max_group_calibration_gap": "most",
        "max_epsilon": "most",
    }
)
"""Every gate of the manifest, in order, and whether its limit is the least or the most."""
WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "min_auroc": "AUROC",
        "min_group_auroc": "AUROC of the worst group",
        "max_site_drop": "AUROC below the hospital's own model",
        "max_equalized_odds_gap": "equalised-odds gap",
        "max_calibration_error": "calibration error",
        "max_group_calibration_gap": "calibration gap of the worst group",
        "max_epsilon": "ε spent",
        PARTICIPATION: "sites and groups that took part",
    }
)
"""What a gate is about."""


@dataclass(frozen=True)
class Judgement:
    """A study's gates, whether it has ended, and the override that waits for a second person's signature, if one does."""

    study_id: str
    ended: bool
    verdicts: tuple[Verdict, ...]
    waiting: Request | None = None

    @property
    def missed(self) -> tuple[str, ...]:
        return failing(self.verdicts)
