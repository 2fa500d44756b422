"""A sheet on the screen, by Streamlit. Texts become Markdown in which every sign stands for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fedward.dashboard import views, words
from fedward.dashboard.federation.views.marks import Mark
from fedward.dashboard.sheet import PRINTED

_MOST = 1200
"""Signs of one text that are shown."""


class Screen:
    """See `Sheet`."""

    def heading(self, text: str) -> None:
        st.markdown(f"#### {_plain(text)}")

    def say(self, text: str) -> None:
        st.markdown(words.plain(text, 2000))

    def note(self, text: str) -> None:
        # Streamlit's own captions are too pale for who sees little contrast
        st.markdown(f":small[:gray[{_plain(text)}]]")

    def listing(self, intro: str, items: Sequence[tuple[str, str]]) -> None:
        lines = [f"- **{words.plain(name)}**: {_plain(text)}" if name else f"- {_plain(text)}" for name, text in items]
        st.markdown("\n".join([*([f"{_plain(intro)}\n"] if intro else []), *lines]))

    def marked(self, mark: Mark, text: str) -> None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(words.plain(mark.word), icon=f":material/{mark.icon}:", color=mark.tone)
            st.markdown(words.plain(text, 400), width="content")

    def figures(self, found: Sequence[tuple[str, str, str]]) -> None:
        for column, (label, value, meaning) in zip(st.columns(max(len(found), 1)), found, strict=False):
            column.metric(label, value, help=meaning or None)

    def chart(self, made: dict[str, Any], told: str, title: str, frame: pd.DataFrame | None, file: str) -> None:
        st.vega_lite_chart(spec=dict(made), width="stretch", alt=words.one_line(told, 3000))
        if frame is not None:
            self.table(title, frame, file)

    def table(
        self, title: str, frame: pd.DataFrame, file: str, *, open_: bool = False, signed: Sequence[str] = ()
    ) -> None:
        """Three digits, and undefined figures say so."""
        place = st.container() if open_ else _opened(title, file)
        if place is None:
            return
        with place:
            if open_ and len(frame) <= PRINTED:
                st.table(_printed(frame), hide_index=True, border="horizontal", alt=words.one_line(title))
            else:
                form = {
                    name: st.column_config.NumberColumn(name, format="%+.3f" if name in signed else "%.3f")
                    for name in frame.columns
                    if views.fractional(frame[name])
                }
                st.dataframe(
                    frame, hide_index=True, column_config=form, placeholder=words.UNDEFINED, alt=words.one_line(title)
                )
            st.download_button(
                "Download CSV", views.csv(frame), f"{file}.csv", "text/csv", key=f"csv-{file}", on_click="ignore",
                icon=":material/download:", help=f"{title}, as a spreadsheet reads it",
            )  # fmt: skip

    def empty(self, what: str, helps: str = "") -> None:
        self.inform(what, "hourglass_empty")
        if helps:
            st.code(words.one_line(helps, 500), language=None, wrap_lines=True)

    def inform(self, text: str, icon: str) -> None:
        st.info(_plain(text), icon=f":material/{icon}:")

    def warn(self, text: str, command: str = "") -> None:
        st.warning(words.plain(text, 500), icon=":material/notification_important:")
        if command:
            st.code(command, language=None)

    def command(self, intro: str, text: str) -> None:
        st.markdown(_plain(intro))
        st.code(words.one_line(text, 500), language=None, wrap_lines=True)

    def download(self, label: str, data: bytes, file: str) -> None:
        st.download_button(
            _plain(label), data, file, key=f"file-{file}", on_click="ignore", icon=":material/description:"
        )

    def beside(self, *parts: Callable[[], None], shares: Sequence[int] = ()) -> None:
        for column, part in zip(st.columns(list(shares) or len(parts)), parts, strict=True):
            with column:
                part()

    def choices(self, label: str, options: Mapping[str, str], key: str, *, usual: str | None = None) -> Iterator[str]:
        first = next(iter(options)) if usual is None else usual
        chosen = st.segmented_control(
            label, list(options), default=first, format_func=lambda name: options[name], key=key,
            label_visibility="collapsed", required=True,
        )  # fmt: skip
        yield str(chosen or first)

    def window(self, label: str, sizes: Sequence[int], key: str) -> int:
        chosen = st.segmented_control(
            label, list(sizes), default=sizes[0], key=key, required=True, format_func=lambda size: f"newest {size}",
            label_visibility="collapsed",
        )  # fmt: skip
        return int(chosen or sizes[0])


def _opened(title: str, file: str) -> DeltaGenerator | None:
    """Where a table is, if somebody has opened it. A closed one is not sent: a browser would load what draws tables, a third of
    all that it loads, before it shows the page."""
    place = st.expander(f"Table: {words.plain(title)}", key=f"table-{file}", on_change="rerun")
    return place if place.open else None


def _plain(text: str) -> str:
    return words.plain(text, _MOST)


def _printed(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame as text that stays text: the place reads Markdown."""
    shown = views.printed(frame)
    for name in shown.columns:
        shown[name] = [words.plain(cell, 300) for cell in shown[name]]
    return shown
