"""How commands speak: tables and sentences to people, one JSON object to scripts, errors to standard error."""

from __future__ import annotations

import json
import re
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

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What would steer a terminal, or turn its text round: other parties' reasons and names must not."""

JsonOption = typer.Option(False, "--json", help="Print one JSON object instead of text.")


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def _plain(text: str) -> Text:
    return Text(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text))


def say(text: str) -> None:
    """A sentence to the person, wrapped to the terminal. Names from files are never read as markup."""
    console.print(_plain(text), soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """A number and what is counted, as English says it: 1 approver, 2 approvers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def note(text: str) -> None:
    """A line about progress, on standard error, so that standard output stays the result."""
    stderr.print(_plain(text), soft_wrap=True)


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
        made.add_row(*(_plain(cell) for cell in row))
    console.print(made)


def print_error(error: FedwardError, *, as_json: bool) -> None:
    """What went wrong, what was expected, what came, what to do, and where more is said."""
    from fedward.cli.explanations import explanations

    if as_json:
        print_json(error.as_json())
        return
    is_told = error.code == error.default_code and error.remedy is not None  # a general code says less than its remedy
    more = f"fedward explain {error.code}" if error.code in explanations() and not is_told else None
    lines = [("error: ", error.what)]
    lines += [
        (label, text)
        for label, text in (
            ("  expected: ", error.expected),
            ("  got: ", error.got),
            ("  to fix it: ", error.remedy),
            ("  more: ", more),
        )
        if text
    ]
    for label, text in lines:
        stderr.print(
            Text(label, style="bold red" if label == "error: " else "bold").append(
                _plain(text).plain, style="not bold"
            ),
            soft_wrap=True,
        )
