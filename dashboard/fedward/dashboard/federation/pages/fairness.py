"""Fairness: for whom does it work less well?"""

from __future__ import annotations

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.charts import dots
from fedward.dashboard.federation.charts import heat as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.pages.checklist import checklist
from fedward.dashboard.federation.pages.frame import Here, chart, empty, heading, note, page
from fedward.dashboard.federation.pages.mitigation import mitigation
from fedward.dashboard.federation.views import accuracy, contrasts, counts
from fedward.dashboard.federation.views import fairness as views
from fedward.study.manifest import Manifest
from fedward.study.metrics import SMALL

METRICS = ("auroc", "sensitivity", "specificity", "brier", "calibration_gap", "selection_rate")


def fairness(named: str) -> None:
    """For whom does it work less well?"""
    page(named, _sentence, _lay_out)


def _contrasts(here: Here) -> views.Contrasts:
    measured = here.reader.measured(here.look)
    if not measured or not here.look.trains:
        return {}
    made = counts.sums(here.look, here.reader.evaluation(here.look, measured[0].version))
    return {} if made is None else contrasts.contrasts(made)


def _sentence(here: Here) -> str:
    return views.sentence(here.look, here.reader.measured(here.look), _contrasts(here))


def _lay_out(here: Here) -> None:
    look, measured = here.look, here.reader.measured(here.look)
    if not isinstance(look.manifest, Manifest) or not views.groups(look):
        return
    if not measured:
        empty(
            "No model has been evaluated yet: the manifest says after which rounds one is. The page follows by itself."
        )
        return
    heading("Metrics by group, held-out patients of all hospitals")
    frame = views.heat(look, measured)
    chart(
        drawn(charts.heat, frame), charts.heat_words(frame), "metrics by group", frame.drop(columns="shade"), "groups"
    )
    note(
        f"After round {measured[0].version}. Groups of fewer than {SMALL} patients of an outcome, "
        "and those that would give them away, are "
        "suppressed: they are not zero. A patient may be in several groups."
    )
    _differences(here)
    _over_rounds(here, look.manifest.gates.max_equalized_odds_gap)
    mitigation(here)
    heading("The study's gates")
    checklist(here)


def _differences(here: Here) -> None:
    heading("Each group's distance from everybody, the worst first")
    labels = {name: accuracy.NAMES[name][0] for name in METRICS}
    metric = st.segmented_control(
        "Metric", METRICS, default="auroc", format_func=lambda name: labels[name], key="contrast", label_visibility="collapsed",
        required=True,
    )  # fmt: skip
    chosen = str(metric or "auroc")
    frame = views.contrast(here.look, here.reader.measured(here.look), _contrasts(here), chosen)
    title = f"{labels[chosen]}: the group less everybody"
    chart(
        drawn(dots.differences, frame, "group", title),
        dots.differences_words(frame, "group", title),
        title,
        frame,
        f"differences-{chosen}",
    )


def _over_rounds(here: Here, gate: float | None) -> None:
    rows = here.reader.metrics(here.look, views.attributes(here.look))
    frame = views.gaps(here.look, rows, here.reader.measured(here.look))
    heading("Gaps between the groups of an attribute, over rounds")
    if frame.empty:
        st.info("Not shown: a gap needs two groups or more, none of them too small to show.", icon=":material/help:")
        return
    names = list(dict.fromkeys(frame["gap"]))
    names.sort(key=[label for label, _ in views.GAPS.values()].index)
    gap = (
        st.segmented_control("Gap", names, default=names[0], key="gap", label_visibility="collapsed", required=True)
        or names[0]
    )
    limit = gate if gap == views.GAPS["equalized_odds_gap"][0] else None
    chart(drawn(charts.gaps, frame, gap, limit), charts.gaps_words(frame, gap, limit), "gaps by round", frame, "gaps")
    meaning = next(text for label, text in views.GAPS.values() if label == gap)
    note(
        f"{words.plain(meaning, 300).capitalize()}. Of noise alone a gap would be above 0; what noise adds on average is taken off."
    )
