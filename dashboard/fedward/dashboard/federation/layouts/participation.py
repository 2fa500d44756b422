"""Participation: who took part, and why did someone not?"""

from __future__ import annotations

from fedward.dashboard.federation.charts import attendance as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.views import overview
from fedward.dashboard.federation.views import participation as views
from fedward.dashboard.sheet import PRINTED, Sheet

WINDOWS = (25, 50, 100)
"""How many of the newest attempts the grid may show; the downloads of a long study's whole record are `coordinator export`'s."""
WINDOW = "window"
"""The choice's key."""


def sentence(here: Here, newest: int) -> str:
    return views.sentence(here.look, here.reader.history(here.look, newest))


def lay_out(here: Here, sheet: Sheet) -> None:
    look = here.look
    if not look.attempts:
        sheet.empty("No round has begun: nobody has been asked for anything.")
        sheet.table("what each hospital said of the proposal", overview.standings(look), "standings", open_=True)
        return
    sheet.heading("Who was in each round")
    many = len(look.attempts) > WINDOWS[0]
    newest = sheet.window("Newest attempts", WINDOWS, WINDOW) if many else WINDOWS[0]
    history = here.reader.history(look, newest)
    frame = views.grid(look, history)
    sheet.chart(
        drawn(charts.grid, frame), charts.grid_words(frame), "status by hospital and attempt", frame, "statuses"
    )
    if len(look.attempts) > newest:
        sheet.note(f"The newest {newest} of {len(look.attempts)} attempts.")
    sheet.heading("Hospitals over the whole study")
    sheet.table("hospitals", views.sites(look, here.reader.tallies(look), history), "hospitals", open_=True)
    sheet.heading("How long answers take")
    took = views.answers(look, here.reader.statuses(look, newest))
    sheet.chart(drawn(charts.answers, took), charts.answers_words(took), "seconds until the answer", took, "answers")
    why = views.causes(look, history)
    if why.empty:
        sheet.note(views.undisturbed(look))
    else:
        sheet.heading("What kept hospitals out, and what helps")
        sheet.table("causes", why, "causes", open_=len(why) <= PRINTED)
