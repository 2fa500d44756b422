"""The script that Streamlit runs: `app.py RUN`. `fedward.dashboard.serve` starts it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import streamlit as st

from fedward.dashboard import gatekeeper, pages
from fedward.dashboard.access import visible

PAGES = (
    ("Accuracy", "accuracy", pages.accuracy),
    ("Fairness", "fairness", pages.fairness),
    ("Run", "run", pages.provenance),
)


def main(folder: Path) -> None:
    """The monitor of one run's folder."""
    st.set_page_config(page_title="Fedward monitor", layout="wide")
    granted = gatekeeper.admitted()
    seen = [one for one in PAGES if visible(granted, one[1])]
    made = [
        st.Page(partial(page, folder), title=title, url_path=name, default=place == 0)
        for place, (title, name, page) in enumerate(seen)
    ]
    chosen = st.navigation(made, position="top")
    gatekeeper.account(granted)
    chosen.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
