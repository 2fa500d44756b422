"""A report as one HTML file that needs no other: it runs no script, and its policy lets it fetch nothing.

The style is the model cards'; every text is escaped, and drawings are what `svg` let through.
"""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from pathlib import PurePath
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedward.dashboard import words
from fedward.dashboard.report.contents import Download, Report

SIGNS: Final = {"green": "✓", "red": "✗", "orange": "!", "blue": "●", "gray": "–", "violet": "●"}
"""Of marks, by the name of their colour."""
_KINDS: Final = {".html": "text/html", ".csv": "text/csv", ".json": "application/json"}
_MOST: Final = 4000
"""Signs of one text that are shown."""


def html(report: Report) -> str:
    """The report as a page."""
    return _environment().get_template("report.html.jinja").render(report=report, signs=SIGNS)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("fedward.dashboard.report", "templates"),
                PackageLoader("fedward.server.cards", "templates"),
            ]
        ),
        autoescape=True,
        finalize=_told,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"drawing": _drawing, "address": _address}
    return made


def _told(value: object) -> object:
    """Text without signs that are not seen or that turn the reading direction; of a command, line by line."""
    if isinstance(value, Markup):
        return value
    return "\n".join(words.one_line(line, _MOST) for line in str(value).splitlines())


def _drawing(svg: str) -> Markup:
    return Markup(svg)  # noqa: S704 - `svg.drawn` kept what draws alone


def _address(download: Download) -> Markup:
    """A file as an address that holds it."""
    kind = _KINDS.get(PurePath(download.file).suffix, "text/plain")
    return Markup(f"data:{kind};charset=utf-8;base64,{b64encode(download.data).decode()}")  # noqa: S704 - nothing to escape
