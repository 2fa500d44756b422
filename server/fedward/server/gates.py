"""Whether a model holds the manifest's gates: each gate with what was found, or why nothing could be. Pure.

A gate holds only if what it needs is known and within its limit. What is not known (not evaluated, suppressed, too small beside
its noise, not shared by the hospitals) does not hold, and says so. `participation` is always asked: the floors of `[release]`,
and without them as many sites as a round needs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    pass

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
