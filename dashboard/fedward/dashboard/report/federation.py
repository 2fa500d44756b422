"""The report of a study in a coordinator's record: the monitor's pages one below the other, all that a coordinator sees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Final

from fedward.dashboard import words
from fedward.dashboard.federation.here import Here, Sentence
from fedward.dashboard.federation.layouts import accuracy, audit, fairness, models, participation, privacy, study
from fedward.dashboard.federation.place import Place
from fedward.dashboard.federation.reading import Look, Reader
from fedward.dashboard.federation.record import Entries
from fedward.dashboard.federation.views import marks, overview, promise
from fedward.dashboard.report.contents import Report, Section
from fedward.dashboard.report.paper import Paper
from fedward.dashboard.sheet import Sheet
from fedward.privacy.errors import InputError

PAGES: Final[tuple[tuple[str, str, str, Sentence, Callable[[Here, Sheet], None]], ...]] = (
    ("Study", "study", "Is it running, and when is it done?", study.sentence, study.lay_out),
    ("Accuracy", "accuracy", "Does it work?", accuracy.sentence, accuracy.lay_out),
    ("Fairness", "fairness", "For whom does it work less well?", fairness.sentence, fairness.lay_out),
    ("Privacy", "privacy", "What has it cost?", privacy.sentence, privacy.lay_out),
    (
        "Participation", "participation", "Who took part, and why did someone not?",
        partial(participation.sentence, newest=max(participation.WINDOWS)), participation.lay_out,
    ),
    ("Models", "models", "Which model may be used?", models.sentence, models.lay_out),
)  # fmt: skip
"""The monitor's pages, in its order, but for the audit log."""
LEFT_OUT: Final = (
    "It is a picture of the record, and does not follow it: what came later is not here, nor whether the coordinator's service "
    "runs. A time that is left counts from the record's newest entry.",
    "It leaves out what only a screen can do: searching the audit log, and setting another study beside this one "
    "(fedward coordinator compare).",
    "It shows what a coordinator sees, every hospital's part included, and nothing is taken out for other readers.",
)


def report(place: Place, wanted: str | None = None) -> tuple[Report, str | None]:
    """The report of a study, and the study's digest; None before the seal.

    Args:
        place: where the record lies.
        wanted: the study's id or the beginning of its digest; the newest study unless given.

    Raises:
        InputError: there is no study, or not the one that is wanted; otherwise as `Place.open`.
    """
    with closing(place.open()) as store:
        reader = Reader(store)
        studies = reader.studies()
        if not studies:
            raise InputError(
                "there is no study to report",
                expected="a record with a study",
                got=f"no study in {place.shown}",
                remedy="fedward coordinator propose STUDY.toml",
                code="no-study",
            )
        here = Here(place, reader, reader.look(studies[0].key if wanted is None else store.find(wanted).key))
        return _report(here), here.look.study.digest


def _report(here: Here) -> Report:
    look = here.look
    sections = [_section(here, *page) for page in PAGES]
    return Report(
        title=overview.title(look),
        subtitle=f"{look.study.study_id}, as its coordinator's record tells it at {overview.when(look.changed_at)} UTC.",
        facts=tuple(_facts(look)),
        promise=promise.words_of(look),
        scope=LEFT_OUT,
        sections=(*sections, _audit(here)),
    )


def _facts(look: Look) -> list[tuple[str, str]]:
    newest, state = look.journal[-1].sequence if look.journal else 0, marks.state(look.study.state).word
    return [
        ("State", f"{state}; {look.version} of {words.counted(look.rounds, 'round', 'rounds')} committed"),
        ("Hospitals", f"{len(look.sites)}: {words.listed(look.sites, 24)}"),
        ("Study digest", look.study.digest or "none: the study is not sealed"),
        ("Model", look.model or "none yet"),
        ("Newest entry of the study", f"{overview.when(look.changed_at)} UTC, number {newest} of the record's journal"),
    ]


def _section(
    here: Here, title: str, anchor: str, question: str, sentence: Sentence, lay_out: Callable[[Here, Sheet], None]
) -> Section:
    paper = Paper(anchor)
    lay_out(here, paper)
    return Section(title, anchor, question, sentence(here), paper.parts)


def _audit(here: Here) -> Section:
    """The audit log, verified once while the report is made."""
    paper, home, question = Paper("audit"), here.place.home, "Can I trust this record?"
    if home is None:
        paper.empty(
            "Give the coordinator's folder instead, on its machine.", "fedward report --store DIR --out FILE.html"
        )
        return Section("Audit", "audit", question, audit.ELSEWHERE, paper.parts)
    entries, made = Entries(home.path).all(), list(audit.verify(here, home))
    paper.heading("Verified when this report was made")
    paper.note(audit.CHECKED)
    audit.results(paper, made)
    audit.vouched(here, home, paper, len(entries))
    paper.heading("Entries")
    audit.listed(paper, entries)
    return Section("Audit", "audit", question, audit.sentence(here, home, entries, made), paper.parts)
