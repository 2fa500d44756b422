"""The pages of a run: what `layouts` puts on each, on the screen, and the look whether the folder has changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from fedward.dashboard import gatekeeper, layouts, views, words
from fedward.dashboard.record import Record, Stamp, read, stamp
from fedward.dashboard.redaction import redacted_run
from fedward.dashboard.screen import Screen
from fedward.dashboard.sheet import Sheet
from fedward.dashboard.views import View
from fedward.privacy.errors import FedwardError

EVERY_S = 2
"""How often an open page looks whether its folder has changed."""

Sentence = Callable[[Record, View], str]
LayOut = Callable[[Record, View, Sheet], None]


def accuracy(folder: Path) -> None:
    """Does it work?"""
    _page(folder, views.accuracy_sentence, layouts.accuracy)


def fairness(folder: Path) -> None:
    """For whom does it work less well?"""
    _page(folder, views.fairness_sentence, layouts.fairness)


def provenance(folder: Path) -> None:
    """What was run, and can it be run again?"""
    _page(folder, views.provenance_sentence, layouts.provenance, fewest=0)


@st.cache_data(max_entries=2, show_spinner="Reading the run's folder")
def _seen(folder: str, at: Stamp) -> tuple[Record, View]:  # noqa: ARG001 - the cache's key
    record = read(Path(folder))
    return record, views.view(record)


def _page(folder: Path, sentence: Sentence, lay_out: LayOut, fewest: int = 1) -> None:
    """A page of a folder that may change while it is looked at, or that may not be readable.

    `fewest`: the seeds without which there is nothing to lay out.
    """
    granted, at = gatekeeper.admitted(), stamp(folder)
    try:
        record, shown = redacted_run(*_seen(str(folder), at), granted)
    except FedwardError as error:
        tell(error)
        _watch(folder, at, None)
        return
    st.header(words.plain(layouts.title(record)), anchor=False)
    st.subheader(words.plain(sentence(record, shown), 600), anchor=False)
    _watch(folder, at, None if record.finished else len(record.seeds))
    if len(record.seeds) >= fewest:
        lay_out(record, shown, Screen())
    st.caption(words.plain(views.privacy_sentence(record), 1000))


def tell(error: FedwardError) -> None:
    """What went wrong and what helps, as the command line says it."""
    st.error(words.plain(f"{error.what}.", 500), icon=":material/error:")
    for label, text in (("Expected", error.expected), ("Got", error.got)):
        if text:
            st.markdown(f"{label}: {words.plain(text, 500)}")
    if error.remedy:
        st.markdown("What helps:")
        st.code(words.one_line(error.remedy, 500), language=None, wrap_lines=True)


@gatekeeper.fragment(run_every=EVERY_S)
def _watch(folder: Path, at: Stamp, done: int | None) -> None:
    """Draws the page anew when the folder has changed, and says of an unfinished run since when nothing has come.

    Costs a few looks at the file system where nothing has. `done`: the seeds of an unfinished run, else None.
    """
    if stamp(folder) != at:
        st.rerun()
    if done is not None:
        seeds, since = words.counted(done, "seed is", "seeds are"), words.ago(time.time() - max(at) / 1e9)
        st.info(
            f"Not finished: {seeds} done, the last sign came {since}. The page follows by itself; a run that was broken "
            "off goes on with the same `fedward simulate`.",
            icon=":material/hourglass_top:",
        )
