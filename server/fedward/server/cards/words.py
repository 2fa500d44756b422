"""Figures and texts as a card shows them. A text of a manifest or hospital is never more than text."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal

_SIGNS = re.compile(r"[\\`*_\[\]<>|~&#!$@]|:(?=/)|(?<=www)\.|(?<=WWW)\.")
"""What Markdown, tables, mathematics and links on sight are made of."""


def one_line(text: object) -> str:
    """Text without line breaks, and without signs that are not seen or that turn the reading direction."""
    return " ".join("".join(sign if unicodedata.category(sign)[0] != "C" else " " for sign in str(text)).split())


def markdown(text: object) -> str:
    """Text in which every sign stands for itself."""
    return _SIGNS.sub(lambda found: f"\\{found[0]}", one_line(text))


def figure(value: float | None) -> str:
    """Three places, with a true minus; "undefined" where there is none."""
    return "undefined" if value is None else f"{value:z.3f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{figure(low)} to {figure(high)}"


def epsilon(value: float) -> str:
    """To three places and rounded up: a smaller number would promise more than holds."""
    exact = Decimal(repr(value))
    return (
        f"{exact.quantize(Decimal('0.001'), rounding=ROUND_CEILING).normalize():f}" if exact.is_finite() else "no bound"
    )


def number(value: float) -> str:
    """A setting as a manifest writes it."""
    return f"{value:g}"


def day(at: int) -> str:
    """A date of UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def group(name: str) -> str:
    """A fairness group as people say it: `age in [50, 65)` is "age 50 to under 65", `sex=female` is "sex: female"."""
    band = re.fullmatch(r"(.+) in \[(.+), (.+)\)", name)
    return f"{band[1]} {band[2]} to under {band[3]}" if band else name.replace("=", ": ", 1)
