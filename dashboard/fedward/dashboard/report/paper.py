"""A sheet that is a part of a file: it collects what a layout says, every choice laid out in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from fedward.dashboard import views, words
from fedward.dashboard.federation.views.marks import Mark
from fedward.dashboard.report import svg
from fedward.dashboard.report.contents import (
    Beside,
    Chart,
    Download,
    Figures,
    Listing,
    Marked,
    Notice,
    Part,
    Table,
    Text,
)  # fmt: skip
from fedward.dashboard.report.theme import SCHEMES

WIDE: Final = 1072
"""Pixels of a chart over the whole width."""
_BETWEEN: Final = 32
"""Pixels between columns."""
_MOST: Final = 2000
"""Signs of one text that are shown."""


class Paper:
    """See `Sheet`. `name` begins the ids of what is drawn on it."""

    def __init__(self, name: str) -> None:
        self._name, self._width, self._charts = name, WIDE, 0
        self._parts: list[Part] = []

    @property
    def parts(self) -> tuple[Part, ...]:
        """What was laid out."""
        return tuple(self._parts)

    def heading(self, text: str) -> None:
        self._parts.append(Text("heading", _line(text)))

    def say(self, text: str) -> None:
        self._parts.append(Text("say", _line(text)))

    def note(self, text: str) -> None:
        self._parts.append(Text("note", _line(text)))

    def listing(self, intro: str, items: Sequence[tuple[str, str]]) -> None:
        self._parts.append(Listing(_line(intro), tuple((_line(name), _line(text)) for name, text in items)))

    def marked(self, mark: Mark, text: str) -> None:
        self._parts.append(Marked(mark, _line(text)))

    def figures(self, found: Sequence[tuple[str, str, str]]) -> None:
        self._parts.append(
            Figures(tuple((_line(label), _line(value), _line(meaning)) for label, value, meaning in found))
        )

    def chart(self, made: dict[str, Any], told: str, title: str, frame: pd.DataFrame | None, file: str) -> None:
        name, self._charts = f"{self._name}-{self._charts}", self._charts + 1
        drawings = tuple(svg.drawn(made, self._width, scheme, f"{name}-{scheme}", told) for scheme in SCHEMES)
        table = None if frame is None else _table(title, frame, file, False, ())
        self._parts.append(Chart(_capital(title), drawings, table))

    def table(
        self, title: str, frame: pd.DataFrame, file: str, *, open_: bool = False, signed: Sequence[str] = ()
    ) -> None:
        self._parts.append(_table(title, frame, file, open_, signed))

    def empty(self, what: str, helps: str = "") -> None:
        self._parts.append(Notice(_line(what), helps))

    def inform(self, text: str, icon: str) -> None:  # noqa: ARG002 - a file has no signs of Material's
        self._parts.append(Notice(_line(text)))

    def warn(self, text: str, command: str = "") -> None:
        self._parts.append(Notice(_line(text), command, urgent=True))

    def command(self, intro: str, text: str) -> None:
        self._parts.append(Notice(_line(intro), text))

    def download(self, label: str, data: bytes, file: str) -> None:
        self._parts.append(Download(_line(label), file, data))

    def beside(self, *parts: Callable[[], None], shares: Sequence[int] = ()) -> None:
        whole, before, wide = list(shares) or [1] * len(parts), self._parts, self._width
        columns: list[tuple[Part, ...]] = []
        for part, share in zip(parts, whole, strict=True):
            self._parts, self._width = [], (wide - _BETWEEN * (len(parts) - 1)) * share // sum(whole)
            part()
            columns.append(self.parts)
        self._parts, self._width = before, wide
        self._parts.append(Beside(tuple(columns), tuple(whole)))

    def choices(
        self,
        label: str,  # noqa: ARG002 - nobody chooses
        options: Mapping[str, str],
        key: str,  # noqa: ARG002
        *,
        usual: str | None = None,
    ) -> Iterator[str]:
        for name in options if usual is None else (usual,):
            shown = options[name]
            self._parts.append(Text("subheading", _capital(shown)))
            yield name

    def window(self, label: str, sizes: Sequence[int], key: str) -> int:  # noqa: ARG002 - nobody chooses
        return max(sizes)


def _table(title: str, frame: pd.DataFrame, file: str, open_: bool, signed: Sequence[str]) -> Table:
    shown = views.printed(frame, signed)
    numeric = tuple(bool(pd.api.types.is_numeric_dtype(frame[name])) for name in frame.columns)
    rows = tuple(tuple(words.one_line(cell, 300) for cell in row) for row in shown.itertuples(index=False, name=None))
    download = Download(f"{title}, as CSV", f"{file}.csv", views.csv(frame))
    return Table(_capital(title), tuple(map(str, frame.columns)), numeric, rows, download, open_)


def _line(text: str) -> str:
    return words.one_line(text, _MOST)


def _capital(text: str) -> str:
    """A title as it begins a line; ε stays ε."""
    line = _line(text)
    return f"{line[:1].upper()}{line[1:]}" if line[:1].isascii() else line
