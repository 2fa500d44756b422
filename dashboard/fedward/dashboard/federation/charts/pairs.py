"""Two studies side by side: a dot and interval of each, a row a group."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charts.parts import Chart, rows, series, stacked, tips


def pairs(frame: pd.DataFrame, title: str) -> Chart:
    """Columns as `views.models.side_by_side`, of one metric."""
    order, studies = list(dict.fromkeys(frame["group"])), list(dict.fromkeys(frame["study"]))
    known = frame.dropna(subset=["value"])
    places = dict(zip(studies, (0, 1), strict=False))
    base = alt.Chart(known).encode(
        y=rows("group", order), yOffset=alt.YOffset("study:N", sort=studies), color=series("study", places),
        tooltip=tips("group", "study", alt.Tooltip("told", title=f"{title} (95%)")),
    )  # fmt: skip
    lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    shapes = alt.Scale(domain=studies, range=["circle", "square"][: len(studies)])
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format=".2f", tickCount=6))
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=x, shape=alt.Shape("study:N", scale=shapes, legend=None)
    )
    return stacked(lines, points, height=110 + 44 * max(len(order), 1))


def pairs_words(frame: pd.DataFrame, title: str) -> str:
    told = [f"{row['group']}, {row['study']}: {row['told']}" for row in frame.to_dict("records")]
    return f"{title} of two studies with its 95% interval, by group. {words.listed(told, 24)}."
