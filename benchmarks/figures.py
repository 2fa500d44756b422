"""One figure, one line: `NAME VALUE UNIT reach TARGET ok|short`; a figure without a target is context and ends earlier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Figure:
    """A measured number; `ok` says whether it reaches its target. Context has no target and is always ok."""

    name: str
    value: float
    unit: str
    target: str | None
    ok: bool

    def __str__(self) -> str:
        measured = f"{self.name} {self.value:.4f} {self.unit}"
        return measured if self.target is None else f"{measured} reach {self.target} {'ok' if self.ok else 'short'}"


Part: TypeAlias = Callable[[], list[Figure]]
"""A benchmark: it prints its figures as they come, and returns them."""


def report(name: str, value: float, unit: str, target: str | None = None, ok: bool = True) -> Figure:
    """Print a figure. Its name has no spaces, so that a line can be split."""
    figure = Figure(name, value, unit, target, ok)
    print(figure, flush=True)
    return figure


def at_least(name: str, value: float, unit: str, bound: float) -> Figure:
    """A figure that must reach `bound`; NaN does not."""
    return report(name, value, unit, f">={bound:g}", value >= bound)


def at_most(name: str, value: float, unit: str, bound: float) -> Figure:
    """A figure that must not exceed `bound`; NaN does."""
    return report(name, value, unit, f"<={bound:g}", value <= bound)


def near(name: str, value: float, unit: str, published: float, tolerance: float) -> Figure:
    """A figure that must repeat a published one; NaN does not."""
    return report(name, value, unit, f"{published:g}+-{tolerance:g}", abs(value - published) <= tolerance)
