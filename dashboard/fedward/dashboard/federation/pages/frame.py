"""What every page of a federation has: the record, which study, a title, what is open, and the look whether anything is new."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from fedward.dashboard import gatekeeper, words
from fedward.dashboard import pages as parts
from fedward.dashboard.access import Granted, sees_all
from fedward.dashboard.federation.here import Here, Sentence
from fedward.dashboard.federation.place import Place
from fedward.dashboard.federation.place import place as find
from fedward.dashboard.federation.reading import Look, Reader, Stamp
from fedward.dashboard.federation.seen import seen
from fedward.dashboard.federation.views import marks, overview, promise
from fedward.dashboard.screen import Screen
from fedward.privacy.errors import FedwardError
from fedward.server.leases import Lease
from fedward.server.records import StudyRow

EVERY_S = 2
"""How often an open page looks whether the record has changed."""
STALE_S = 60
"""A running study of which the record says nothing for so long is told as stale."""
PICKED = "study"

LayOut = Callable[[Here], None]


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
        Screen().note(promise.words_of(here.look))
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
        Screen().note(f"Running; the newest entry of the record came {words.ago(silent)}. The page follows by itself.")


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
