"""The Audit page: the log is verified and searched before one's eyes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.layouts import audit as layout
from fedward.dashboard.federation.pages.frame import page
from fedward.dashboard.federation.record import Entries
from fedward.dashboard.federation.views import auditing as views
from fedward.dashboard.screen import Screen
from fedward.privacy.auditentries import LogEntry
from fedward.server.home import CoordinatorHome
from fedward.study.audit import FOLDER


def audit(named: str) -> None:
    """Can I trust this record?"""
    page(named, _sentence, _lay_out)


@st.cache_resource(max_entries=4, show_spinner="Reading the audit log")
def _entries(home: str, mark: int) -> Entries:  # noqa: ARG001 - the cache's key: a folder that was put back is read anew
    return Entries(Path(home))


def _all(home: CoordinatorHome) -> tuple[LogEntry, ...]:
    tree = home.path / FOLDER / "tree"
    return _entries(str(home.path), tree.stat().st_ino if tree.exists() else 0).all()


def _sentence(here: Here) -> str:
    home = here.place.home
    if home is None:
        return layout.ELSEWHERE
    entries = _all(home)
    return layout.sentence(here, home, entries, _checked(here, len(entries)))


def _checked(here: Here, size: int) -> list[views.Check] | None:
    """What was verified on this page, as long as the log is what it was then, in words for whoever looks now."""
    kept = st.session_state.get("verified")
    if kept is None or kept[0] != size:
        return None
    return [replace(check, found=here.reader.told(check.found)) for check in kept[1]]


def _lay_out(here: Here) -> None:
    home, sheet = here.place.home, Screen()
    if home is None:
        sheet.empty("Give the coordinator's folder instead, on its machine.", "fedward monitor --store DIR")
        return
    entries = _all(home)
    sheet.heading("Verify it now")
    sheet.note(layout.CHECKED)
    if st.button("Verify the audit log", icon=":material/verified_user:"):
        st.session_state["wanted"] = True  # until it is done: a page that is drawn anew meanwhile does not lose it
    if st.session_state.get("wanted"):
        _verify(here, home, len(entries))
    layout.results(sheet, _checked(here, len(entries)) or ())
    layout.vouched(here, home, sheet, len(entries))
    sheet.heading("Entries")
    if not here.whole:
        sheet.inform(
            "Entries say what each hospital did and when, and are for coordinators and auditors. Whether they are whole and "
            "unchanged is checked above all the same.",
            "visibility_off",
        )
        return
    wanted = st.text_input(
        "Search the entries",
        key="search",
        placeholder="a kind, a hospital, a study's digest, a day such as 2030-01-31",
    )
    layout.listed(sheet, entries, wanted or "")


def _verify(here: Here, home: CoordinatorHome, size: int) -> None:
    """Make every check, and say each as it is done."""
    made: list[views.Check] = []
    with st.status("Verifying", expanded=True) as status:
        for check in layout.verify(here, home):
            made.append(check)
            st.write(words.plain(f"{check.name}: {here.reader.told(check.found)}", 400))
        failed = any(check.holds is False for check in made)
        status.update(label="It does not hold" if failed else "Verified", state="error" if failed else "complete")
    st.session_state["verified"], st.session_state["wanted"] = (size, made), False
    st.rerun()
