"""What every page of a federation has: the record, which study, a title, what is open, and the look whether anything is new."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from fedward.dashboard import gatekeeper, words
from fedward.dashboard import pages as parts
from fedward.dashboard import views as texts
from fedward.dashboard.access import Granted, sees_all
from fedward.dashboard.federation.charts.drawn import Spec
from fedward.dashboard.federation.place import Place
from fedward.dashboard.federation.place import place as find
from fedward.dashboard.federation.reading import Look, Reader, Stamp
from fedward.dashboard.federation.seen import Seen, seen
from fedward.dashboard.federation.views import marks, overview, promise
from fedward.privacy.errors import FedwardError
from fedward.server.leases import Lease
from fedward.server.records import StudyRow

EVERY_S = 2
"""How often an open page looks whether the record has changed."""
STALE_S = 60
"""A running study of which the record says nothing for so long is told as stale."""
PICKED = "study"
PRINTED = 16
"""Rows of a page's own table that is printed whole; a longer one scrolls."""


@dataclass(frozen=True)
class Here:
    """What a page lays out."""

    place: Place
    reader: Reader | Seen
    look: Look

    @property
    def whole(self) -> bool:
        """Whether whoever looks sees every hospital's part."""
        return isinstance(self.reader, Reader)


LayOut = Callable[[Here], None]
Sentence = Callable[[Here], str]


@st.cache_resource(max_entries=4, show_spinner="Opening the coordinator's record")
def _opened(_place: Place, shown: str, mark: int) -> Reader:  # noqa: ARG001 - the cache's key
    """One reader for all sessions: it holds the record alone, and nothing of who looks at it."""
    return Reader(_place.open())


def reader_of(place: Place) -> Reader:
    """The record of a place; errors as `Place.open`."""
    return _opened(place, place.shown, place.mark)


def page(named: str, sentence: Sentence, lay_out: LayOut) -> None:
    """One page of the study that is picked. Whatever cannot be read is told with what helps; whoever may not look sees nothing."""
    granted = gatekeeper.admitted()
    try:
        place = find(named)
        reader = seen(reader_of(place), granted)
        stamp = reader.stamp()
        studies = reader.studies()
        if not studies:
            _nothing(place, granted)
            _watch(place, stamp, None, sees_all(granted))
            return
        left, right = st.columns([3, 2], vertical_alignment="center")
        with right:
            key = pick(studies)
        here = Here(place, reader, reader.look(key))
        with left:
            _head(here)
        st.subheader(words.plain(sentence(here), 600), anchor=False)
        _watch(place, stamp, here.look, here.whole)
        lay_out(here)
        note(words.plain(promise.words_of(here.look), 1000))
    except FedwardError as error:
        if sees_all(granted):
            parts.tell(error)
        else:
            _untold(error)
        _retry(named)


def _untold(error: FedwardError) -> None:
    """What went wrong, to whom its words are not for: they may name a hospital, or where the record lies."""
    st.error(
        f"The record cannot be shown now. Code: {words.plain(error.code)}. The study's coordinator can see why.",
        icon=":material/error:",
    )


def pick(studies: tuple[StudyRow, ...]) -> int:
    """The study of the address, and else of the page before; the picker says which, and the address follows it."""
    keys = {str(row.key): row for row in studies}
    wanted = st.query_params.get(PICKED, st.session_state.get("picked", ""))
    names = list(keys)
    first = names.index(wanted) if wanted in keys else 0
    chosen = st.selectbox(
        "Study",
        names,
        first,
        key=f"picker-{wanted}",
        format_func=lambda name: named_study(keys[name]),
        label_visibility="collapsed",
    )
    st.session_state["picked"] = chosen
    if st.query_params.get(PICKED) != chosen:
        st.query_params[PICKED] = chosen
    return int(chosen or names[0])


def named_study(row: StudyRow) -> str:
    """A study in a picker: its id, which version, its state."""
    mark = f" · {row.digest[:8]}" if row.digest else ""
    return f"{row.study_id}{mark} · {marks.state(row.state).word}"


def _head(here: Here) -> None:
    look = here.look
    mark = marks.state(look.study.state)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.header(words.plain(overview.title(look)), anchor=False, width="content")
        st.badge(mark.word, icon=f":material/{mark.icon}:", color=mark.tone)


def _nothing(place: Place, granted: Granted) -> None:
    st.header("No study yet", anchor=False)
    if not sees_all(granted):
        whose = "your hospital" if granted.role == "hospital" else "hospitals"
        st.info(
            f"This coordinator has proposed no study to {whose}. The page follows by itself.",
            icon=":material/hourglass_empty:",
        )
        return
    st.info("This coordinator has proposed no study. The page follows by itself.", icon=":material/hourglass_empty:")
    home = f" --home {place.home.path}" if place.home is not None else ""
    st.code(f"fedward coordinator propose STUDY.toml{home}", language=None)


@gatekeeper.fragment(run_every=EVERY_S)
def _watch(place: Place, at: Stamp, look: Look | None, whole: bool) -> None:
    """Draws the page anew when the record has changed, and says of a running study since when nothing has come.

    Costs two look-ups in the record where nothing has.
    """
    try:
        reader = reader_of(place)
        now, lease = reader.stamp(), reader.lease()
    except FedwardError as error:
        why = f": {words.plain(error.what, 300)}" if whole else ""
        st.warning(
            f"The record cannot be read now{why}. What is shown is older.",
            icon=":material/sync_problem:",
        )
        return
    if now != at:
        st.rerun()
    if look is not None and look.study.state == "running":
        _say_fresh(look, lease, int(time.time()))


def _say_fresh(look: Look, lease: Lease | None, now: int) -> None:
    silent = now - look.changed_at
    serves = lease is not None and lease.until >= now
    if lease is not None and not serves:
        since = words.ago(now - lease.until)
        st.warning(
            f"The coordinator's service does not run: its last sign came {since}. Rounds go on when it is started: "
            "`fedward coordinator start`.",
            icon=":material/sync_problem:",
        )
    elif silent >= STALE_S:
        st.info(
            f"Nothing new since {words.ago(silent)}; a round may take long. The page follows by itself.",
            icon=":material/hourglass_top:",
        )
    else:
        note(f"Running; the newest entry of the record came {words.ago(silent)}. The page follows by itself.")


@gatekeeper.fragment(run_every=EVERY_S)
def _retry(named: str) -> None:
    """Draws the page anew once the record can be read."""
    try:
        reader_of(find(named)).stamp()
    except FedwardError:
        return
    if st.session_state.get("retried", 0.0) < time.monotonic() - 5 * EVERY_S:
        st.session_state["retried"] = time.monotonic()
        st.rerun()


def note(text: str) -> None:
    """Small print: how a figure came about. Streamlit's own captions are too pale for who sees little contrast."""
    st.markdown(f":small[:gray[{text}]]")


def heading(text: str) -> None:
    st.markdown(f"#### {text}")


def figures(found: list[tuple[str, str, str]]) -> None:
    """At most four figures in a row: label, value, what it means."""
    for column, (label, value, meaning) in zip(st.columns(max(len(found), 1)), found, strict=False):
        column.metric(label, value, help=meaning)


def chart(made: Spec, told: str, title: str, frame: pd.DataFrame, file: str) -> None:
    """A chart with its words for those who do not see it, and its table behind a click, with download."""
    st.vega_lite_chart(spec=dict(made), width="stretch", alt=words.one_line(told, 3000))
    table(title, frame, file)


def table(title: str, frame: pd.DataFrame, file: str, *, open_: bool = False) -> None:
    """A table with download, behind a click unless it is the page's own. Three digits, and undefined figures say so."""
    place = st.container() if open_ else st.expander(f"Table: {words.plain(title)}")
    with place:
        if open_ and len(frame) <= PRINTED:
            st.table(_printed(frame), hide_index=True, border="horizontal", alt=words.one_line(title))
        else:
            form = {
                name: st.column_config.NumberColumn(name, format="%.3f") for name in frame.columns if _real(frame[name])
            }
            st.dataframe(
                frame, hide_index=True, column_config=form, placeholder=words.UNDEFINED, alt=words.one_line(title)
            )
        st.download_button(
            "Download CSV", texts.csv(frame), f"{file}.csv", "text/csv", key=f"csv-{file}", on_click="ignore",
            icon=":material/download:", help=f"{title}, as a spreadsheet reads it",
        )  # fmt: skip


def _printed(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame as text that stays text: the place reads Markdown."""
    shown = frame.copy()
    for name in shown.columns:
        form = "{:.3f}" if _real(shown[name]) else "{:.0f}"
        numbers = pd.api.types.is_numeric_dtype(shown[name])
        shown[name] = [
            (words.UNDEFINED if pd.isna(cell) else form.format(cell)) if numbers else words.plain(cell, 300)
            for cell in shown[name]
        ]
    return shown


def _real(column: pd.Series[float]) -> bool:
    """Whether a column holds numbers with digits after the point."""
    return bool(pd.api.types.is_float_dtype(column)) and not _whole(column)


def _whole(column: pd.Series[float]) -> bool:
    known = column.dropna()
    return bool((known == known.round()).all())


def empty(what: str, helps: str = "") -> None:
    """Nothing to show yet, why, and the command that helps."""
    st.info(what, icon=":material/hourglass_empty:")
    if helps:
        st.code(helps, language=None, wrap_lines=True)
