"""Study: is it running, and when is it done?"""

from __future__ import annotations

from fedward.dashboard.federation.charts import rounds as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.reading import EVERYBODY
from fedward.dashboard.federation.views import events, overview
from fedward.dashboard.sheet import Sheet

NEWEST = 100
"""Attempts that the timeline shows."""


def sentence(here: Here) -> str:
    return overview.sentence(here.look, here.reader.statuses(here.look, NEWEST))


def lay_out(here: Here, sheet: Sheet) -> None:
    look, reader = here.look, here.reader
    for what, command in overview.notices(look):
        sheet.warn(what, command if here.whole else "")
    statuses, metrics = reader.statuses(look, NEWEST), reader.metrics(look, EVERYBODY)
    sheet.figures(overview.figures(look, statuses, metrics))
    if look.attempts:
        sheet.heading("How each round ended")
        made = overview.rounds(look, statuses)
        if len(look.attempts) > NEWEST:
            sheet.note(f"The newest {NEWEST} of {len(look.attempts)} attempts.")
        sheet.chart(drawn(charts.timeline, made), charts.timeline_words(made), "rounds", made, "rounds")
    else:
        sheet.empty(
            "No round has begun.",
            "" if look.study.state == "running" else f"fedward coordinator launch {look.study.study_id}",
        )
    if look.trains:
        sheet.heading("AUROC so far, held-out patients of all hospitals")
        curve = overview.curve(metrics)
        if curve.empty:
            sheet.empty("No model has been evaluated yet: the manifest says after which rounds one is.")
        else:
            sheet.chart(
                drawn(charts.convergence, curve, "AUROC"),
                charts.convergence_words(curve, "AUROC"),
                "AUROC by round",
                curve,
                "auroc",
            )
    sheet.table("what happened", events.told(reader.history(look, NEWEST)), "events")
    sheet.table("what each hospital said of the proposal", overview.standings(look), "standings")
