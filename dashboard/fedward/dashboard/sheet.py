"""What a page is laid out on: a screen that somebody looks at (`screen`), or a file for whoever has no monitor (`report.paper`).

A layout says what stands there and in which order, and never how it is drawn; so page and report cannot say different things.
Every text is plain text: a sheet keeps it from being more, in whatever language it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from fedward.dashboard.federation.views.marks import Mark

PRINTED = 16
"""Rows of a page's own table that is printed whole; a longer one scrolls."""


class Sheet(Protocol):
    """Where a layout puts its parts, one below the other."""

    def heading(self, text: str) -> None:
        """What the next parts are about."""

    def say(self, text: str) -> None:
        """A paragraph."""

    def note(self, text: str) -> None:
        """Small print: how a figure came about."""

    def listing(self, intro: str, items: Sequence[tuple[str, str]]) -> None:
        """A list below its introduction, which may be empty: of each item its name, which may be empty, and a text."""

    def marked(self, mark: Mark, text: str) -> None:
        """A line with its mark: a sign, a word and a colour together."""

    def figures(self, found: Sequence[tuple[str, str, str]]) -> None:
        """At most four figures in a row: label, value, what it means."""

    def chart(self, made: dict[str, Any], told: str, title: str, frame: pd.DataFrame | None, file: str) -> None:
        """A chart with its words for those who do not see it, and the table behind it, if it has one of its own.

        Args:
            made: the specification for Vega-Lite.
            told: the chart in words.
            title: of the chart and its table.
            frame: the table.
            file: what the table's download is called, without its ending; once in a page.
        """

    def table(
        self, title: str, frame: pd.DataFrame, file: str, *, open_: bool = False, signed: Sequence[str] = ()
    ) -> None:
        """A table with download, behind a click unless it is the page's own. Columns in `signed` are differences."""

    def empty(self, what: str, helps: str = "") -> None:
        """Nothing to show yet, why, and the command that helps."""

    def inform(self, text: str, icon: str) -> None:
        """Something to know, with the name of Material's sign for it."""

    def warn(self, text: str, command: str = "") -> None:
        """Something that waits for a person, and the command that helps."""

    def command(self, intro: str, text: str) -> None:
        """A command to copy, below what it does."""

    def download(self, label: str, data: bytes, file: str) -> None:
        """A file to take away."""

    def beside(self, *parts: Callable[[], None], shares: Sequence[int] = ()) -> None:
        """Parts side by side; `shares` of the width, alike unless given."""

    def choices(self, label: str, options: Mapping[str, str], key: str, *, usual: str | None = None) -> Iterator[str]:
        """What of several to lay out, by its name in `options`: on a screen the one that was chosen, in a file each in turn.

        `usual` is what a screen shows until somebody chooses, and all that a file has; without it a screen begins with the first.
        """

    def window(self, label: str, sizes: Sequence[int], key: str) -> int:
        """How many of the newest to lay out: on a screen what was chosen, and the fewest before; in a file the most."""
