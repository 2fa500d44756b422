"""The script that Streamlit runs: `app.py RUN`. `fedward.dashboard.serve` starts it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import streamlit as st

from fedward.dashboard import pages

PAGES = (
    ("Accuracy", "accuracy", pages.accuracy),
    ("Fairness", "fairness", pages.fairness),
    ("Run", "run", pages.provenance),
)


def main(folder: Path) -> None:
    """The monitor of one run's folder."""
    st.set_page_config(page_title="Fedward monitor", layout="wide")
    made = [
        st.Page(partial(page, folder), title=title, url_path=name, default=place == 0)
        for place, (title, name, page) in enumerate(PAGES)
    ]
    st.navigation(made, position="top").run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
