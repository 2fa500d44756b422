"""The tables of a page, opened: closed ones are not sent, and whoever looks may open each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fedward.dashboard import screen, words


@contextmanager
def all_tables() -> Iterator[None]:
    """Pages that are laid out without a browser have each table open."""

    def opened(title: str, file: str) -> DeltaGenerator:
        return st.expander(f"Table: {words.plain(title)}", expanded=True, key=f"table-{file}")

    with patch.object(screen, "_opened", opened):
        yield
