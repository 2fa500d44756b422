"""How commands speak: tables and sentences to people, one JSON object to scripts, errors to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedward.privacy.errors import FedwardError

console = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)

JsonOption = typer.Option(False, "--json", help="Print one JSON object instead of text.")


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def say(text: str) -> None:
    """A sentence to the person, wrapped to the terminal. Names from files are never read as markup."""
    console.print(Text(text), soft_wrap=True)


def note(text: str) -> None:
    """A line about progress, on standard error, so that standard output stays the result."""
    stderr.print(Text(text), soft_wrap=True)


def shown(epsilon: float) -> str:
    """An ε that was or may be spent, to three places and rounded up: a smaller number would promise more than holds."""
    return _places(epsilon, ROUND_CEILING)


def shown_left(epsilon: float) -> str:
    """An ε that is left, to three places and rounded down."""
    return _places(epsilon, ROUND_FLOOR)


def _places(value: float, rounding: str) -> str:
    exact = Decimal(repr(value))
    return str(exact.quantize(Decimal("0.001"), rounding=rounding)) if exact.is_finite() else str(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> None:
    """A table; the first column is left-aligned, the others right."""
    made = Table(
        title=Text(title), title_justify="left", caption=Text(caption) if caption else None, caption_justify="left"
    )
    for index, column in enumerate(columns):
        # Folded, as what is cut off would be missed: digests, dates and names are words too long for a narrow column.
        made.add_column(Text(column), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    console.print(made)


def print_error(error: FedwardError, *, as_json: bool) -> None:
    """What went wrong, what was expected, what came, and what to do."""
    if as_json:
        print_json(error.as_json())
        return
    lines = [("error: ", error.what)]
    lines += [
        (label, text)
        for label, text in (("  expected: ", error.expected), ("  got: ", error.got), ("  to fix it: ", error.remedy))
        if text
    ]
    for label, text in lines:
        stderr.print(
            Text(label, style="bold red" if label == "error: " else "bold").append(text, style="not bold"),
            soft_wrap=True,
        )
