"""Fairness: for whom does it work less well?"""

from __future__ import annotations

from fedward.dashboard.federation.charts import dots
from fedward.dashboard.federation.charts import heat as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.layouts.checklist import checklist
from fedward.dashboard.federation.layouts.mitigation import mitigation
from fedward.dashboard.federation.views import accuracy, contrasts, counts
from fedward.dashboard.federation.views import fairness as views
from fedward.dashboard.sheet import Sheet
from fedward.study.manifest import Manifest
from fedward.study.metrics import SMALL

METRICS = ("auroc", "sensitivity", "specificity", "brier", "calibration_gap", "selection_rate")


def _contrasts(here: Here) -> views.Contrasts:
    measured = here.reader.measured(here.look)
    if not measured or not here.look.trains:
        return {}
    made = counts.sums(here.look, here.reader.evaluation(here.look, measured[0].version))
    return {} if made is None else contrasts.contrasts(made)


def sentence(here: Here) -> str:
    return views.sentence(here.look, here.reader.measured(here.look), _contrasts(here))


def lay_out(here: Here, sheet: Sheet) -> None:
    look, measured = here.look, here.reader.measured(here.look)
    if not isinstance(look.manifest, Manifest) or not views.groups(look):
        return
    if not measured:
        sheet.empty("No model has been evaluated yet: the manifest says after which rounds one is.")
        return
    sheet.heading("Metrics by group, held-out patients of all hospitals")
    frame = views.heat(look, measured)
    sheet.chart(
        drawn(charts.heat, frame), charts.heat_words(frame), "metrics by group", frame.drop(columns="shade"), "groups"
    )
    sheet.note(
        f"After round {measured[0].version}. Groups of fewer than {SMALL} patients of an outcome, "
        "and those that would give them away, are "
        "suppressed: they are not zero. A patient may be in several groups."
    )
    _differences(here, sheet)
    _over_rounds(here, sheet, look.manifest.gates.max_equalized_odds_gap)
    if look.sealed is not None:  # whoever sees no roster is not given what is computed from it
        mitigation(here, sheet)
    sheet.heading("The study's gates")
    checklist(here, sheet)


def _differences(here: Here, sheet: Sheet) -> None:
    sheet.heading("Each group's distance from everybody, the worst first")
    labels = {name: accuracy.NAMES[name][0] for name in METRICS}
    measured, others = here.reader.measured(here.look), _contrasts(here)
    for chosen in sheet.choices("Metric", labels, "contrast"):
        frame, title = (
            views.contrast(here.look, measured, others, chosen),
            f"{labels[chosen]}: the group less everybody",
        )
        sheet.chart(
            drawn(dots.differences, frame, "group", title), dots.differences_words(frame, "group", title), title, frame,
            f"differences-{chosen}",
        )  # fmt: skip


def _over_rounds(here: Here, sheet: Sheet, gate: float | None) -> None:
    rows = here.reader.metrics(here.look, views.attributes(here.look))
    frame = views.gaps(here.look, rows, here.reader.measured(here.look))
    sheet.heading("Gaps between the groups of an attribute, over rounds")
    if frame.empty:
        sheet.inform("Not shown: a gap needs two groups or more, none of them too small to show.", "help")
        return
    found = set(frame["gap"])
    for gap in sheet.choices("Gap", {label: label for label, _ in views.GAPS.values() if label in found}, "gap"):
        limit = gate if gap == views.GAPS["equalized_odds_gap"][0] else None
        sheet.chart(
            drawn(charts.gaps, frame, gap, limit), charts.gaps_words(frame, gap, limit), f"{gap} gap by round",
            frame[frame["gap"] == gap], f"gaps-{gap.replace(' ', '-')}",
        )  # fmt: skip
        meaning = next(text for label, text in views.GAPS.values() if label == gap)
        sheet.note(
            f"{meaning.capitalize()}. Of noise alone a gap would be above 0; what noise adds on average is taken off."
        )
