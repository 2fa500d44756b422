"""How figures and names read, and how text of a file is kept from being more than text."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Sequence

UNDEFINED = "undefined"
_JOINER = "\u2060"
"""Takes no room; between a colon and what follows it ends an emoji's name, a directive and a web address."""


def plain(text: object, most: int = 200) -> str:
    """Text of a file for a place that reads Markdown: every sign stands for itself, on one line, at most so many."""
    shown = one_line(text, most)
    kept = "".join(f"\\{sign}" if sign in string.punctuation else sign for sign in shown)
    return re.sub(r"(\\[:@](?=\S)|(?i:www))", rf"\1{_JOINER}", kept)


def one_line(text: object, most: int = 200) -> str:
    """Text without line breaks, and without signs that are not seen or that turn the reading direction."""
    shown = " ".join("".join(sign if unicodedata.category(sign)[0] != "C" else " " for sign in str(text)).split())
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def figure(value: float) -> str:
    """A share of one as the field writes it: .894; 1.000; "undefined" for NaN."""
    return UNDEFINED if not math.isfinite(value) else re.sub(r"^(-?)0\.", r"\1.", f"{value:z.3f}").replace("-", "−")


def signed(value: float) -> str:
    """A difference: +.031, −.019, .000."""
    if not math.isfinite(value):
        return UNDEFINED
    return figure(value) if round(value, 3) <= 0 else f"+{figure(value)}"


def estimate(value: float, low: float, high: float) -> str:
    """A figure with its interval, where it has one."""
    return figure(value) + (f" ({figure(low)}–{figure(high)})" if math.isfinite(low) and math.isfinite(high) else "")


def difference(value: float, low: float, high: float) -> str:
    """A difference with its interval, where it has one."""
    told = f" ({signed(low)} to {signed(high)})" if math.isfinite(low) and math.isfinite(high) else ""
    return signed(value) + told


def counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names with commas; how many more, where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def group(name: str) -> str:
    """A fairness group as people say it: `age in [50, 65)` is "age 50 to under 65", `sex=female` is "sex: female".
    A crossed one is both, with a comma."""
    crossed = _crossed(name)
    if crossed:
        return ", ".join(map(group, crossed))
    band = re.fullmatch(r"(.+) in \[(.+), (.+)\)", name)
    if band:
        return f"{band[1]} {band[2]} to under {band[3]}"
    return name.replace("=", ": ", 1)


def attribute(name: str) -> str:
    """The column that a fairness group is a level or band of; `sex & age` of a crossed one."""
    crossed = _crossed(name)
    if crossed:
        return " & ".join(map(attribute, crossed))
    return re.split(r"=| in \[", name, maxsplit=1)[0]


def _crossed(name: str) -> tuple[str, str] | None:
    """The two names that a crossed group's is made of. A level may hold " & ": a column and its level or band must follow."""
    found = re.fullmatch(r"(.+?) & ([A-Za-z][A-Za-z0-9_.-]*(?:=| in \[).+)", name)
    return (found[1], found[2]) if found else None


def ago(seconds: float) -> str:
    """How long since: in seconds below two minutes, then minutes, hours, days."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
