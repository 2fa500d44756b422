"""Study: is it running, and when is it done?"""

from __future__ import annotations

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.charts import rounds as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.pages.frame import Here, chart, empty, figures, heading, note, page, table
from fedward.dashboard.federation.reading import EVERYBODY
from fedward.dashboard.federation.views import events, overview

NEWEST = 100
"""Attempts that the timeline shows."""


def study(named: str) -> None:
    """Is it running, and when is it done?"""
    page(named, _sentence, _lay_out)


def _sentence(here: Here) -> str:
    return overview.sentence(here.look, here.reader.statuses(here.look, NEWEST))


def _lay_out(here: Here) -> None:
    look, reader = here.look, here.reader
    for what, command in overview.notices(look):
        st.warning(words.plain(what, 500), icon=":material/notification_important:")
        if here.whole:
            st.code(command, language=None)
    statuses, metrics = reader.statuses(look, NEWEST), reader.metrics(look, EVERYBODY)
    figures(overview.figures(look, statuses, metrics))
    if look.attempts:
        heading("How each round ended")
        made = overview.rounds(look, statuses)
        if len(look.attempts) > NEWEST:
            note(f"The newest {NEWEST} of {len(look.attempts)} attempts.")
        chart(drawn(charts.timeline, made), charts.timeline_words(made), "rounds", made, "rounds")
    else:
        empty(
            "No round has begun.",
            "" if look.study.state == "running" else f"fedward coordinator launch {look.study.study_id}",
        )
    if look.trains:
        heading("AUROC so far, held-out patients of all hospitals")
        curve = overview.curve(metrics)
        if curve.empty:
            empty("No model has been evaluated yet: the manifest says after which rounds one is.")
        else:
            chart(
                drawn(charts.convergence, curve, "AUROC"),
                charts.convergence_words(curve, "AUROC"),
                "AUROC by round",
                curve,
                "auroc",
            )
    table("what happened", events.told(reader.history(look, NEWEST)), "events")
    table("what each hospital said of the proposal", overview.standings(look), "standings")
