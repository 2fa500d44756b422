"""The data quality report as a file for people: Markdown or a page of HTML. It may show patients' values, so it stays here."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedward.client.quality import REMEDY, WHAT, QualityReport, printable
from fedward.privacy.errors import UsageError
from fedward.study.files import write_atomic

NOTICE = "For this hospital only: it may show patients' values."
_STYLE = "body{font:15px sans-serif;margin:2em;max-width:70em}td,th{text-align:left;padding:.2em .8em;border-bottom:1px solid #ccc}"


@dataclass(frozen=True, repr=False)
class Section:
    """A heading, sentences, and a table with its head; each may be empty."""

    title: str
    sentences: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def write_report_file(report: QualityReport, path: Path) -> None:
    """Write the report, readable by its owner only, in the form that the suffix names: .md or .html.

    Raises:
        UsageError: the suffix is another.
        UnreachableError: the file cannot be written.
    """
    write_atomic(path, form_of(path)(report).encode(), 0o600)


def form_of(path: Path) -> Callable[[QualityReport], str]:
    """What writes the form that a suffix names. Raises: UsageError, if it names none."""
    forms = {".md": to_markdown, ".html": to_html, ".htm": to_html}
    if path.suffix.lower() not in forms:
        raise UsageError(
            "a report is written as Markdown or HTML", expected="a name that ends in .md or .html", got=path.name
        )
    return forms[path.suffix.lower()]


def to_markdown(report: QualityReport) -> str:
    """The report as Markdown."""
    lines = [f"# {_title(report)}", "", NOTICE]
    for section in sections(report):
        lines += ["", f"## {section.title}", ""]
        lines += [f"- {_plain(sentence)}" for sentence in section.sentences]
        if section.rows:
            lines += ["", _row(section.head), _row(["---"] * len(section.head)), *(_row(row) for row in section.rows)]
    return "\n".join(lines) + "\n"


def to_html(report: QualityReport) -> str:
    """The report as one page without scripts or links."""
    body = [f"<h1>{html.escape(_title(report))}</h1>", f"<p><strong>{html.escape(NOTICE)}</strong></p>"]
    for section in sections(report):
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.sentences:
            body.append("<ul>" + "".join(f"<li>{html.escape(one)}</li>" for one in section.sentences) + "</ul>")
        if section.rows:
            rows = [_cells("th", section.head), *(_cells("td", row) for row in section.rows)]
            body.append("<table>" + "".join(rows) + "</table>")
    head = f'<meta charset="utf-8"><title>{html.escape(_title(report))}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def sections(report: QualityReport) -> Iterable[Section]:
    """The report's parts, in the order in which a data manager reads them."""
    yield Section("In short", tuple(report.head()))
    if report.counts:
        fixes = tuple((c.column, str(c.count), WHAT[c.kind], REMEDY[c.kind]) for c in report.counts)
        yield Section("To fix", head=("column", "cells", "what is wrong", "how to fix it"), rows=fixes)
    if report.warnings:
        yield Section("Worth a look", report.warnings)
    yield Section("Columns", head=report.COLUMN_HEAD, rows=tuple(report.column_rows()))
    if report.groups:
        sizes = tuple(
            (group.column, label, str(size)) for group in report.groups for label, size in group.sizes.items()
        )
        yield Section("Groups that the study compares", head=("column", "group", "patients"), rows=sizes)
    if report.drift is not None:
        yield Section("Since the last registration", tuple(line.strip() for line in report.drift.lines()))
    if report.problems:
        cells = tuple((str(p.row), p.column, p.what, printable(p.found), p.done) for p in report.problems)
        yield Section(
            f"Each cell ({report.numbering})", head=("row", "column", "what", "it says", "so it was"), rows=cells
        )


def _title(report: QualityReport) -> str:
    return f"Data quality for study {report.study}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: what a file says must not become a link or a table."""
    return "".join(f"\\{sign}" if sign in r"\`*_{}[]<>#|!" else sign for sign in text)


def _cells(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
