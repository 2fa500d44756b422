"""A sheet: what every source of rows yields, be it a file, a database or FHIR resources.

Cells are stripped texts, as a person would type them into a CSV file, so that one mapping language and one set of checks serve
all sources. A sheet comes with a digest of what was read, and a reader holds that against the registered one before it
looks at a single cell: what was registered is what trains.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedward.client.mapping import did_you_mean
from fedward.client.quality import Kind, printable
from fedward.privacy.errors import InputError, IntegrityError

MAX_TABLE_BYTES = 512_000_000
"""A table is read into memory whole; a larger file is refused before it is opened."""
MAX_CELLS = 200_000_000
"""Of all rows together, of the columns that are read."""
TOLD_EVERY = 50_000
"""Rows between two words of progress."""

_SIMPLE = (str, int, float, Decimal, date, time, type(None))
"""Values that are compared as they are; a list or an object of a database is not, and no column can mean one."""

SHOWN_ROWS = 10
SHOWN_NAMES = 30

Progress = Callable[[int], None]
"""Told how many rows were read so far."""


def silent(_rows: int) -> None:
    """No progress."""


class Flaw(NamedTuple):
    """A cell that its source could not express: the column of the sheet, the row's place, what and what it says."""

    column: str
    place: int
    kind: Kind
    found: str


@dataclass(frozen=True, repr=False)
class Sheet:
    """The wanted columns as stripped texts, all of `len(rows)`; `rows` are the numbers that a person finds a row by."""

    name: str
    """What messages call it: a file's name, or a database without secrets."""
    columns: dict[str, list[str]]
    rows: list[int]
    digest: str
    """SHA-256 of the bytes of a file, or of the rows of a query."""
    blank: int = 0
    numbering: str = "row 1 is the line of column names"
    flaws: tuple[Flaw, ...] = ()


def hold(name: str, digest: str, expected: str | None) -> None:
    """That this is what was registered; `expected` is None at registration.

    Raises:
        IntegrityError: code `data-changed`: it is not.
    """
    if expected is not None and digest != expected:
        raise IntegrityError(
            f"{name} is not what was registered",
            remedy="register it again, so that a person has seen what will train",
            code="data-changed",
        )


def file_bytes(path: Path, expected: str | None) -> bytes:
    """A bounded file's bytes.

    Raises:
        InputError: it is missing, too large, or cannot be read.
        IntegrityError: it is missing, and was registered.
    """
    if not path.is_file():
        hold(path.name, "", expected)
        raise InputError(f"no data file at {path}", remedy="check the path, and [source] path of the mapping")
    flaw, data, size = "", b"", 0
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_TABLE_BYTES else b""
    except OSError as error:
        flaw = error.strerror or "an error of the system"
    if flaw:
        raise InputError(f"{path.name} cannot be read", got=flaw, remedy="give this account the right to read it")
    if size > MAX_TABLE_BYTES:
        raise InputError(f"{path.name} is too large", expected=f"at most {MAX_TABLE_BYTES} bytes", got=f"{size} bytes")
    return data


def check_cells(name: str, rows: int, columns: int) -> None:
    """Raises: InputError, if so many cells are more than are read at once."""
    if rows * columns > MAX_CELLS:
        raise InputError(
            f"{name} is too large", expected=f"at most {MAX_CELLS} cells", got=f"{rows} rows of {columns} columns"
        )


def check_header(name: str, header: Sequence[str], wanted: dict[str, str], hint: str = "") -> None:
    """That the wanted columns are there, each once.

    Args:
        name: what the source is called.
        header: its columns' names.
        wanted: source column → what it is read for, in the study's words.
        hint: what else may be wrong where columns are missing.

    Raises:
        InputError: columns are missing or repeated.
    """
    absent = [column for column in wanted if column not in header]
    if absent:
        raise _columns_missing(name, list(header), wanted, absent, hint)
    repeated = [column for column, count in Counter(header).items() if count > 1 and column]
    if repeated:
        raise InputError(
            f"{name} has several columns of one name",
            got=some(repeated, SHOWN_NAMES),
            remedy="rename or remove all but one, so that it is clear which is meant",
        )


def _columns_missing(name: str, header: list[str], wanted: dict[str, str], absent: list[str], hint: str) -> InputError:
    """Names the source's columns only where its first line surely is column names: else it may be a patient."""
    genuine = 2 * len(absent) <= len(wanted)
    by_lower = {column.lower(): column for column in header}
    hints = []
    for column in absent[:SHOWN_NAMES]:
        same = by_lower.get(column.lower())
        near = did_you_mean(column, [printable(other) for other in header]) if genuine else ""
        if not genuine and same:
            near = f', did you mean "{same}"?'
        hints.append(f'"{column}" (for {wanted[column]}{near})')
    more = f" and {len(absent) - SHOWN_NAMES} more" if len(absent) > SHOWN_NAMES else ""
    return InputError(
        f"{name} lacks {len(absent)} of {len(wanted)} columns",
        expected=", ".join(hints) + more,
        got=some(header, SHOWN_NAMES) if genuine else f"a first line of {len(header)} cells",
        remedy="correct `from` in the mapping, or the column names" + hint,
    )


def texts(values: Iterable[object]) -> list[str]:
    """Typed values as cells. Each distinct one is written once: clinical columns have few."""
    known: dict[tuple[type, object], str] = {}
    cells = []
    for value in values:
        key = (type(value), value if isinstance(value, _SIMPLE) else str(value))  # True is not 1
        cell = known.get(key)
        if cell is None:
            cell = known[key] = text_of(value)
        cells.append(cell)
    return cells


def text_of(value: object) -> str:  # noqa: PLR0911 - one a type
    """A typed value as a person would type it: whole numbers without a point, true as 1, dates as ISO 8601, none as empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | np.bool_):
        return "1" if value else "0"
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, float | np.floating):
        return _float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value).strip()  # whole numbers, UUIDs, and what no column can mean, which the checks then refuse


def _float(value: float | np.floating) -> str:
    if math.isnan(value):
        return ""
    if value == int(value) if math.isfinite(value) else False:
        return str(int(value))
    return str(value.item() if isinstance(value, np.float64) else value)  # float32 keeps its own few digits


def _decimal(value: Decimal) -> str:
    if value.is_nan():
        return ""
    return str(int(value)) if value.is_finite() and value == value.to_integral_value() else str(value)


def row_words(rows: Iterable[int], count: int) -> str:
    """`rows 2, 5 and 12 more`."""
    first = list(rows)[:SHOWN_ROWS]
    more = f" and {count - len(first)} more" if count > len(first) else ""
    return f"row{'s' if count > 1 else ''} " + ", ".join(map(str, first)) + more


def some(names: list[str], most: int) -> str:
    """Names in quotation marks, the first of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f'"{printable(name)}"' for name in names[:most]) + more
