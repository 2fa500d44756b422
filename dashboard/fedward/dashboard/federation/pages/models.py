"""The Models page: which model may be used, and two studies side by side."""

from __future__ import annotations

import streamlit as st

from fedward.dashboard.federation.charts import pairs as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.layouts import models as layout
from fedward.dashboard.federation.pages.frame import named_study, page
from fedward.dashboard.federation.views import accuracy
from fedward.dashboard.federation.views import models as views
from fedward.dashboard.screen import Screen
from fedward.server.comparing import compare


def models(named: str) -> None:
    """Which model may be used?"""
    page(named, layout.sentence, _lay_out)


def _lay_out(here: Here) -> None:
    sheet = Screen()
    layout.lay_out(here, sheet)
    sheet.heading("Two studies side by side")
    _compare(here, sheet)


def _compare(here: Here, sheet: Screen) -> None:
    others = [row for row in here.reader.studies() if row.key != here.look.study.key]
    if not others:
        sheet.inform("There is one study only: a second one can be set beside it here.", "compare")
        return
    keys = {row.key: row for row in others}
    chosen = st.selectbox(
        "Compare with",
        list(keys),
        index=None,
        key="beside",
        format_func=lambda key: named_study(keys[key]),
        placeholder="Choose another study",
    )
    if chosen is None:
        return
    beside = here.reader.look(int(chosen))
    made = compare(here.reader.history(here.look), here.reader.history(beside))
    sheet.table("the two studies", views.facts(made, here.look, beside), "studies", open_=True)
    if made.differences:
        sheet.listing("The manifests differ:", [("", text) for text in made.differences[:40]])
    frame = views.side_by_side(made, here.look, beside)
    if frame.empty:
        sheet.inform("Neither study's model has been evaluated.", "help")
        return
    measured = set(frame["metric"])
    names = {label: label for label, _ in accuracy.NAMES.values() if label in measured}
    for metric in sheet.choices("Metric", names, "paired"):
        part = frame[frame["metric"] == metric]
        told = charts.pairs_words(part, metric)
        sheet.chart(drawn(charts.pairs, part, metric), told, f"{metric} of both", frame, "side-by-side")
