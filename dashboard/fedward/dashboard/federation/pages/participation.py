"""Participation: who took part, and why did someone not?"""

from __future__ import annotations

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.charts import attendance as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.pages.frame import PRINTED, Here, chart, empty, heading, note, page, table
from fedward.dashboard.federation.views import overview
from fedward.dashboard.federation.views import participation as views

WINDOWS = (25, 50, 100)
"""How many of the newest attempts the grid may show; the downloads of a long study's whole record are `coordinator export`'s."""


def participation(named: str) -> None:
    """Who took part, and why did someone not?"""
    page(named, _sentence, _lay_out)


def _newest() -> int:
    return int(st.session_state.get("window") or WINDOWS[0])


def _sentence(here: Here) -> str:
    return views.sentence(here.look, here.reader.history(here.look, _newest()))


def _lay_out(here: Here) -> None:
    look = here.look
    if not look.attempts:
        empty("No round has begun: nobody has been asked for anything.")
        table("what each hospital said of the proposal", overview.standings(look), "standings", open_=True)
        return
    heading("Who was in each round")
    if len(look.attempts) > WINDOWS[0]:
        st.segmented_control(
            "Newest attempts", WINDOWS, default=WINDOWS[0], key="window", required=True, format_func=lambda n: f"newest {n}",
            label_visibility="collapsed",
        )  # fmt: skip
    history = here.reader.history(look, _newest())
    frame = views.grid(look, history)
    chart(drawn(charts.grid, frame), charts.grid_words(frame), "status by hospital and attempt", frame, "statuses")
    if len(look.attempts) > _newest():
        note(f"The newest {_newest()} of {len(look.attempts)} attempts.")
    heading("Hospitals over the whole study")
    table("hospitals", views.sites(look, here.reader.tallies(look), history), "hospitals", open_=True)
    heading("How long answers take")
    took = views.answers(look, here.reader.statuses(look, _newest()))
    chart(drawn(charts.answers, took), charts.answers_words(took), "seconds until the answer", took, "answers")
    why = views.causes(look, history)
    if why.empty:
        note(words.plain(views.undisturbed(look), 400))
    else:
        heading("What kept hospitals out, and what helps")
        table("causes", why, "causes", open_=len(why) <= PRINTED)
