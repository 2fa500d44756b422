"""A report as data: what its head says, its sections, and the parts of each. `pages` writes it as HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fedward.dashboard.federation.views.marks import Mark


@dataclass(frozen=True)
class Text:
    """A heading, a subheading, a paragraph, or small print."""

    kind: Literal["heading", "subheading", "say", "note"]
    text: str


@dataclass(frozen=True)
class Notice:
    """Something to know or to do, with the command that helps, if any; `urgent` where it waits for a person."""

    kind: ClassVar[str] = "notice"
    text: str
    command: str = ""
    urgent: bool = False


@dataclass(frozen=True)
class Listing:
    kind: ClassVar[str] = "listing"
    intro: str
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Marked:
    kind: ClassVar[str] = "marked"
    mark: Mark
    text: str


@dataclass(frozen=True)
class Figures:
    """Label, value, meaning of each."""

    kind: ClassVar[str] = "figures"
    found: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Download:
    """A file within the file."""

    kind: ClassVar[str] = "download"
    label: str
    file: str
    data: bytes


@dataclass(frozen=True)
class Table:
    """Cells as text, by row. `numeric` says of each column whether it holds numbers; `open` whether it is shown unasked."""

    kind: ClassVar[str] = "table"
    title: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    download: Download
    open: bool


@dataclass(frozen=True)
class Chart:
    """A chart drawn once for light ground and once for dark (SVG), with the table behind it."""

    kind: ClassVar[str] = "chart"
    title: str
    drawings: tuple[str, ...]
    table: Table | None


@dataclass(frozen=True)
class Beside:
    """Columns of parts, and how they share the width."""

    kind: ClassVar[str] = "beside"
    columns: tuple[tuple[Part, ...], ...]
    shares: tuple[int, ...]


Part = Text | Notice | Listing | Marked | Figures | Download | Table | Chart | Beside


@dataclass(frozen=True)
class Section:
    """A page of the monitor: its title and anchor, the question that it answers, and the answer."""

    title: str
    anchor: str
    question: str
    sentence: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Report:
    """Attributes:
    title: the study's.
    subtitle: what it is the report of, and of when.
    facts: name and value: state, digests, what the record was when this was made.
    promise: the promise to patients, in words.
    scope: what a file like this cannot say or leaves out, and for whom it is; each a sentence.
    sections: as the monitor's pages, in their order.
    """

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    promise: str
    scope: tuple[str, ...]
    sections: tuple[Section, ...] = field(default=())
