"""Two values of one thing and the way between them, a row a group: what is, and what would be."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charts.dots import missing
from fedward.dashboard.federation.charts.parts import Chart, rows, series, stacked, tips

_ROW, _FRAME = 30, 100
COMMON, OWN = "common threshold", "its own threshold"
_PLACES = {COMMON: 1, OWN: 0}
_SHAPES = ("circle", "diamond")


def dumbbells(frame: pd.DataFrame, measure: str) -> Chart:
    """Columns as `views.mitigation.by_group` has them of a measure."""
    order, title = list(frame["group"]), f"{measure} (share of one)"
    known = frame.dropna(subset=["common"])
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format=".2f", tickCount=6))
    ways = alt.Chart(known.assign(series=COMMON)).mark_rule(strokeWidth=2, opacity=0.6)
    ways = ways.encode(y=rows("group", order), x=alt.X("common:Q", title=title), x2="own:Q", color=_colour())
    places = alt.Scale(domain=list(_PLACES), range=list(_SHAPES))
    ends = alt.Chart(_ends(known)).mark_point(filled=True, size=90, opacity=1)
    ends = ends.encode(
        y=rows("group", order), x=x, color=_colour(), shape=alt.Shape("series:N", scale=places, legend=None),
        tooltip=tips("group", "series", alt.Tooltip("value", title=measure, format=".3f"),
                     alt.Tooltip("threshold", title="scores called positive from", format=".3f")),
    )  # fmt: skip
    out = missing(frame[frame["common"].isna()], "group", order, "shown")
    return stacked(ways, ends, height=_FRAME + _ROW * max(len(order), 1), words=out)


def _colour() -> alt.Color:
    return series("series", _PLACES)


def _ends(known: pd.DataFrame) -> pd.DataFrame:
    """group, series, value, threshold: both ends of every row."""
    parts = [
        pd.DataFrame({"group": known["group"], "series": name, "value": known[value], "threshold": known[threshold]})
        for name, value, threshold in ((COMMON, "common", "threshold"), (OWN, "own", "own_threshold"))
    ]
    return pd.concat(parts, ignore_index=True)


def dumbbells_words(frame: pd.DataFrame, measure: str) -> str:
    told = [
        f"{row['group']}: {words.figure(row['common'])} to {words.figure(row['own'])}"
        if math.isfinite(row["common"])
        else f"{row['group']}: {row['shown']}"
        for row in frame.to_dict("records")
    ]
    return f"{measure.capitalize()} by group, with the common threshold and with its own. {words.listed(told, 24)}."
