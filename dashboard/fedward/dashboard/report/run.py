"""The report of a simulated run's folder, as it stands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedward.dashboard import layouts, views, words
from fedward.dashboard.record import Record, read, stamp
from fedward.dashboard.report.contents import Report, Section
from fedward.dashboard.report.paper import Paper
from fedward.dashboard.sheet import Sheet
from fedward.dashboard.views import View

PAGES: Final[
    tuple[tuple[str, str, str, Callable[[Record, View], str], Callable[[Record, View, Sheet], None], int], ...]
] = (
    ("Accuracy", "accuracy", "Does it work?", views.accuracy_sentence, layouts.accuracy, 1),
    ("Fairness", "fairness", "For whom does it work less well?", views.fairness_sentence, layouts.fairness, 1),
    ("Run", "run", "What was run, and can it be run again?", views.provenance_sentence, layouts.provenance, 0),
)
"""The monitor's pages of a run, in its order; last the seeds without which there is nothing to lay out."""
LEFT_OUT: Final = (
    "It is a picture of the folder, and does not follow it.",
    "A simulation knows what no coordinator does: each hospital's own results, and what pooled records would reach.",
)


def report(folder: Path) -> tuple[Report, str]:
    """The report of a run, and its study's digest.

    Raises:
        InputError: as `record.read`.
    """
    record = read(folder)
    shown, digest = views.view(record), str(record.identity.get("manifest", ""))
    at = f"{datetime.fromtimestamp(max(stamp(folder)) / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
    done = words.counted(len(record.seeds), "seed", "seeds")
    unfinished = () if record.finished else ("The run was not finished when this was made.",)
    made = Report(
        title=layouts.title(record),
        subtitle=f"A simulation on one machine: {done}, as the run's folder tells it at {at} UTC.",
        facts=(
            ("Run", f"{done}, {'finished' if record.finished else 'not finished'}"),
            ("Study digest", digest),
            ("Newest result in the folder", f"{at} UTC"),
        ),
        promise=views.privacy_sentence(record),
        scope=(*unfinished, *LEFT_OUT),
        sections=tuple(_section(record, shown, *page) for page in PAGES),
    )
    return made, digest


def _section(
    record: Record,
    shown: View,
    title: str,
    anchor: str,
    question: str,
    sentence: Callable[[Record, View], str],
    lay_out: Callable[[Record, View, Sheet], None],
    fewest: int,
) -> Section:
    paper = Paper(anchor)
    if len(record.seeds) >= fewest:
        lay_out(record, shown, paper)
    return Section(title, anchor, question, sentence(record, shown), paper.parts)
