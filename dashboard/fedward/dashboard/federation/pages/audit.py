"""Audit: can I trust this record?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.pages.frame import PRINTED, Here, empty, heading, note, page, reader_of, table
from fedward.dashboard.federation.record import Entries, copied, load_sightings
from fedward.dashboard.federation.views import auditing as views
from fedward.dashboard.federation.views import marks
from fedward.privacy.auditentries import LogEntry
from fedward.privacy.errors import FedwardError
from fedward.server.home import CoordinatorHome
from fedward.study.audit import FOLDER

SHOWN = 500
"""Entries that the table shows; the search looks through all."""
_ICONS = {True: marks.HOLDS, False: marks.FAILS, None: marks.UNKNOWN}


def audit(named: str) -> None:
    """Can I trust this record?"""
    page(named, _sentence, _lay_out)


@st.cache_resource(max_entries=4, show_spinner="Reading the audit log")
def _entries(home: str, mark: int) -> Entries:  # noqa: ARG001 - the cache's key: a folder that was put back is read anew
    return Entries(Path(home))


def _all(home: CoordinatorHome) -> tuple[LogEntry, ...]:
    tree = home.path / FOLDER / "tree"
    return _entries(str(home.path), tree.stat().st_ino if tree.exists() else 0).all()


def _keys(here: Here) -> dict[str, str]:
    """Every hospital's key: whose signatures are checked is the same for whoever looks, and what is said of them is not."""
    return reader_of(here.place).identities()


def _signed(here: Here, home: CoordinatorHome) -> list[views.Countersigned]:
    return views.countersigned(load_sightings(home.path), _keys(here))


def _sentence(here: Here) -> str:
    home = here.place.home
    if home is None:
        return "The audit log lies in the coordinator's own folder, and this is its database alone."
    entries = _all(home)
    made = _checked(here, len(entries))
    return views.sentence(len(entries), made, _signed(here, home), len(_keys(here)))


def _checked(here: Here, size: int) -> list[views.Check] | None:
    """What was verified on this page, as long as the log is what it was then, in words for whoever looks now."""
    kept = st.session_state.get("verified")
    if kept is None or kept[0] != size:
        return None
    return [replace(check, found=here.reader.told(check.found)) for check in kept[1]]


def _lay_out(here: Here) -> None:
    home = here.place.home
    if home is None:
        empty("Give the coordinator's folder instead, on its machine.", "fedward monitor --store DIR")
        return
    entries, signed = _all(home), _signed(here, home)
    heading("Verify it now")
    note(
        "Every entry and every hash is computed again, on a copy; signatures are checked by the keys that hospitals enrolled with."
    )
    if st.button("Verify the audit log", icon=":material/verified_user:"):
        st.session_state["wanted"] = (
            True  # kept until it is done: a page that is drawn anew meanwhile does not lose the click
        )
    if st.session_state.get("wanted"):
        _verify(here, home, len(entries))
    _results(_checked(here, len(entries)))
    heading(f"Up to where {'each' if here.whole else 'your'} hospital vouches for it")
    sites = sorted(here.reader.identities())
    table(
        "countersignatures",
        views.signatures(signed, sites, len(entries)),
        "countersignatures",
        open_=len(sites) <= PRINTED,
    )
    heading("Entries")
    if not here.whole:
        st.info(
            "Entries say what each hospital did and when, and are for coordinators and auditors. Whether they are whole and "
            "unchanged is checked above all the same.",
            icon=":material/visibility_off:",
        )
        return
    wanted = st.text_input(
        "Search the entries",
        key="search",
        placeholder="a kind, a hospital, a study's digest, a day such as 2030-01-31",
    )
    found = views.table(entries, wanted or "")
    note(
        f"{len(found)} of {words.counted(len(entries), 'entry', 'entries')}"
        + (f"; the newest {SHOWN} are shown" if len(found) > SHOWN else "")
    )
    table("audit entries", found[:SHOWN], "audit", open_=True)


def _verify(here: Here, home: CoordinatorHome, size: int) -> None:
    """Make every check, and say each as it is done; a log that cannot be read at all is one that fails."""
    made: list[views.Check] = []
    with st.status("Verifying", expanded=True) as status:
        try:
            sightings, key, keys = load_sightings(home.path), here.reader.coordinator_key(), _keys(here)
            with copied(home.path) as log:
                for check in views.checks(log, home.settings.federation_id, key, sightings, keys):
                    made.append(check)
                    st.write(words.plain(f"{check.name}: {here.reader.told(check.found)}", 400))
        except FedwardError as error:
            made.append(views.Check("The log can be read", False, error.what))
        failed = any(check.holds is False for check in made)
        status.update(label="It does not hold" if failed else "Verified", state="error" if failed else "complete")
    st.session_state["verified"], st.session_state["wanted"] = (size, made), False
    st.rerun()


def _results(made: list[views.Check] | None) -> None:
    for check in made or ():
        mark = _ICONS[check.holds]
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(mark.word, icon=f":material/{mark.icon}:", color=mark.tone)
            st.markdown(words.plain(f"{check.name}: {check.found}", 400), width="content")
