"""The script that Streamlit runs: `app.py run DIR`, or `app.py store PLACE`. `fedward.dashboard.serve` starts it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from fedward.dashboard import gatekeeper, pages
from fedward.dashboard.access import visible
from fedward.dashboard.federation.pages import FEDERATION

T = TypeVar("T")
RUN = (
    ("Accuracy", "accuracy", pages.accuracy),
    ("Fairness", "fairness", pages.fairness),
    ("Run", "run", pages.provenance),
)


def main(kind: str, named: str) -> None:
    """The monitor of one run's folder, or of a coordinator's record."""
    st.set_page_config(page_title="Fedward monitor", layout="wide")
    granted = gatekeeper.admitted()
    if kind == "run":
        chosen = _navigation([one for one in RUN if visible(granted, one[1])], Path(named))
    else:
        chosen = _navigation([one for one in FEDERATION if visible(granted, one[1])], named)
    gatekeeper.account(granted)
    chosen.run()


def _navigation(made: Sequence[tuple[str, str, Callable[[T], None]]], shown: T) -> StreamlitPage:
    found = [
        st.Page(partial(page, shown), title=title, url_path=name, default=number == 0)
        for number, (title, name, page) in enumerate(made)
    ]
    return st.navigation(found, position="top")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
