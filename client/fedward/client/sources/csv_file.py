"""Rows from a CSV file."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

from fedward.client.mapping import Source
from fedward.client.sources.sheet import (
    TOLD_EVERY,
    Progress,
    Sheet,
    check_header,
    file_bytes,
    hold,
    row_words,
)
from fedward.privacy.errors import InputError


def read_csv(path: Path, source: Source, wanted: dict[str, str], expected: str | None, progress: Progress) -> Sheet:
    """The wanted columns; row numbers are a spreadsheet's, the line of column names being row 1.

    Raises:
        InputError: the file is missing, empty, too large, not text in the mapping's encoding, no CSV, or lacks or repeats a column.
        IntegrityError: code `data-changed`: it is not the file of that digest.
    """
    data = file_bytes(path, expected)
    digest = hashlib.sha256(data).hexdigest()
    hold(path.name, digest, expected)
    records = _records(path, _text(path, data, source.encoding), source.delimiter, progress)
    filled = [(row, cells) for row, cells in enumerate(records, start=1) if any(cells)]
    if not filled:
        raise InputError(f"{path.name} is empty", expected="a line of column names and one row per patient")
    header = filled.pop(0)[1]
    check_header(path.name, header, wanted, _delimiter_hint(header, source.delimiter))
    if not filled:
        raise InputError(f"{path.name} has column names and no rows", expected="one row per patient")
    _check_widths(path, header, filled)
    places = {name: header.index(name) for name in wanted}
    return Sheet(
        name=path.name,
        columns={name: [cells[place] for _, cells in filled] for name, place in places.items()},
        rows=[row for row, _ in filled],
        digest=digest,
        blank=len(records) - 1 - len(filled),
    )


def _text(path: Path, data: bytes, encoding: str) -> str:
    flaw, text = "", ""
    try:
        # "utf-8-sig" is UTF-8 with or without the mark that spreadsheets put in front.
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        # The exception holds the whole file: keep a place, and raise where it is no longer being handled.
        flaw = f"a byte that is not {encoding} after {error.start} bytes"
    if flaw or "\0" in text:
        raise InputError(
            f"{path.name} is not {encoding} text",
            got=flaw or "binary data",
            remedy='export it as UTF-8, or set [source] encoding, such as "cp1252" for Western European Windows',
        )
    return text


def _records(path: Path, text: str, delimiter: str, progress: Progress) -> list[list[str]]:
    """All lines of the CSV file as stripped cells; a blank line is an empty list."""
    flaw, records = "", []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            records.append([cell.strip() for cell in cells])
            if len(records) % TOLD_EVERY == 0:
                progress(len(records))
    except csv.Error as error:
        flaw = str(error)  # of the format only: the module quotes no cell
    if flaw:
        raise InputError(
            f"{path.name} is no CSV", got=f"after row {len(records)}: {flaw}", remedy="look for an unclosed quote there"
        )
    return records


def _delimiter_hint(header: list[str], delimiter: str) -> str:
    other = max(",;\t|", key=lambda sign: sum(cell.count(sign) for cell in header))
    hint = ": the file's first line must be the column names"
    if other != delimiter and sum(cell.count(other) for cell in header) > 1:
        hint += f"; it has several {other!r}: perhaps [source] delimiter is wrong"
    return hint


def _check_widths(path: Path, header: list[str], filled: list[tuple[int, list[str]]]) -> None:
    uneven = [row for row, cells in filled if len(cells) != len(header)]
    if uneven:
        raise InputError(
            f"{path.name} has {len(uneven)} rows with more or fewer cells than column names",
            expected=f"{len(header)} cells in each",
            got=row_words(uneven, len(uneven)),
            remedy="quote cells that hold the delimiter, or check [source] delimiter",
        )
