"""The rows of the coordinator's record, as the store gives them to readers: immutable, without any database type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["draft", "proposed", "running", "completed", "failed", "stopped"]
Wish = Literal["none", "propose", "run", "stop"]


@dataclass(frozen=True)
class SiteRow:
    site: str
    identity_key: str
    node_key: str
    node_id: int | None


@dataclass(frozen=True)
class StudyRow:
    key: int
    study_id: str
    manifest: str
    invited: tuple[str, ...]
    sealed: bytes | None
    signature: bytes | None
    digest: str | None
    state: State
    reason: str
    wish: Wish
    created_at: int
    changed_at: int


@dataclass(frozen=True)
class AttemptRow:
    attempt: int
    round: int
    base: str
    outcome: str | None
    reason: str
    model: str | None
    opened_at: int
    seconds: float | None


@dataclass(frozen=True)
class AlarmRow:
    """A site's ledger was seen to go backwards or to fork; the site is not asked until a person clears it."""

    site: str
    what: str
    at: int


@dataclass(frozen=True)
class StatusRow:
    attempt: int
    site: str
    status: str
    reason: str


@dataclass(frozen=True)
class StandingRow:
    site: str
    state: str
    reason: str
    at: int


@dataclass(frozen=True)
class MetricRow:
    """One metric of a model version (rounds committed) on a slice; `value` is None where it is undefined."""

    version: int
    slice: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    positives: int
    negatives: int


@dataclass(frozen=True)
class Evaluation:
    """The summed histogram of one model version, by which sites, and the metrics derived from it."""

    version: int
    counts: bytes
    sites: tuple[str, ...]
    metrics: tuple[MetricRow, ...]


ANSWERS = 0
"""The version under which the one sum of an exploration's answers is stored."""


@dataclass(frozen=True)
class Checkpoint:
    """The last committed model of a study, and the server optimiser's state beside it."""

    version: int
    model: str
    optimiser: bytes


@dataclass(frozen=True)
class JournalEntry:
    sequence: int
    at: int
    kind: str
    data: dict[str, Any]
