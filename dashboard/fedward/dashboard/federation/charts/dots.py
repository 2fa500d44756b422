"""Dots with intervals, one row a name: hospitals, groups, differences."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charts.parts import Chart, ink, level, rows, series, stacked, tips

_ROW, _FRAME = 30, 70


ALONE = "trained alone"
"""A hospital's own model, of its own patients."""


def values(
    frame: pd.DataFrame, kind: str, title: str, line: tuple[str, float] | None = None, absent: str = "shown"
) -> Chart:
    """A dot and its interval a row, in the frame's order; names without a value say why in the column `absent`.

    Args:
        frame: columns `kind`, value, low, high, and `absent`; with `alone`, that is a mark of its own beside.
        kind: the column that names the rows.
        title: of the value's axis.
        line: the name and value of a dashed line to compare with.
        absent: the column that tells why a value is missing.
    """
    order = list(frame[kind])
    known = frame.dropna(subset=["value"])
    alone = frame.dropna(subset=["alone"]) if "alone" in frame else frame.iloc[:0]
    places = {title: 0} | ({line[0]: 6} if line is not None else {}) | ({ALONE: 1} if len(alone) else {})
    colour = series("series", places, legend=len(places) > 1)
    told = [words.estimate(*one) for one in zip(known["value"], known["low"], known["high"], strict=True)]
    base = alt.Chart(known.assign(series=title, told=told)).encode(y=rows(kind, order), color=colour)
    axis = alt.Axis(format=".2f", tickCount=6)
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=False), axis=axis)
    layers: list[Chart] = []
    if line is not None and math.isfinite(line[1]):
        said = alt.Tooltip("value", title=line[0], format=".3f")
        layers.append(level({"value": line[1], "series": line[0]}, x, None, colour, said))
    layers.append(base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q"))
    layers.append(
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=x, tooltip=tips(kind, alt.Tooltip("told", title=f"{title} (95%)"))
        )
    )
    if len(alone):
        own = alt.Chart(alone.assign(series=ALONE)).mark_point(filled=True, size=90, shape="diamond", opacity=1)
        said = alt.Tooltip("alone", title=f"{title}, {ALONE}", format=".2f")
        layers.append(own.encode(y=rows(kind, order), x="alone:Q", color=colour, tooltip=tips(kind, said)))
    absences = missing(frame[frame["value"].isna()], kind, order, absent)
    return stacked(*layers, height=_FRAME + _ROW * max(len(order), 1), words=absences)


def missing(frame: pd.DataFrame, kind: str, order: list[str], absent: str) -> alt.Chart | None:
    """The word for a value that is not there, at the left of its row; None where every value is there."""
    if frame.empty:
        return None
    base = alt.Chart(frame.assign(ink="ink")).mark_text(align="left", dx=6, fontStyle="italic", opacity=0.85)
    made: alt.Chart = base.encode(y=rows(kind, order), x=alt.value(0), text=f"{absent}:N", color=ink())
    return made


def values_words(frame: pd.DataFrame, kind: str, title: str, absent: str = "shown") -> str:
    told = []
    for row in frame.to_dict("records"):
        known = math.isfinite(row["value"])
        own = f", {ALONE} {words.figure(row['alone'])}" if math.isfinite(row.get("alone", math.nan)) else ""
        told.append(
            f"{row[kind]}: {words.estimate(row['value'], row['low'], row['high']) if known else row[absent]}{own}"
        )
    return f"{title} with its 95% interval, by {kind}. {words.listed(told, 24)}."


def differences(frame: pd.DataFrame, kind: str, title: str) -> Chart:
    """A difference and its interval a row, in the frame's order, and the line of no difference. Columns as `values`."""
    order = list(frame[kind])
    known = frame.dropna(subset=["value"])
    told = [words.difference(*one) for one in zip(known["value"], known["low"], known["high"], strict=True)]
    colour = series("series", {"difference": 0, "none": 6}, legend=False)
    base = alt.Chart(known.assign(series="difference", told=told)).encode(y=rows(kind, order), color=colour)
    zero = alt.Chart(pd.DataFrame({"value": [0.0], "series": ["none"]})).mark_rule(strokeDash=[2, 3], strokeWidth=1.5)
    x = alt.X("value:Q", title=title, axis=alt.Axis(format="+.2f", tickCount=6))
    layers = [
        zero.encode(x=x, color=colour),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q"),
        base.mark_point(filled=True, size=80, opacity=1).encode(
            x=x, tooltip=tips(kind, alt.Tooltip("told", title=f"{title} (95%)"))
        ),
    ]
    absences = missing(frame[frame["value"].isna()], kind, order, "shown")
    return stacked(*layers, height=_FRAME + _ROW * max(len(order), 1), words=absences)


def differences_words(frame: pd.DataFrame, kind: str, title: str) -> str:
    told = [
        f"{row[kind]}: {words.difference(row['value'], row['low'], row['high']) if math.isfinite(row['value']) else row['shown']}"
        for row in frame.to_dict("records")
    ]
    return f"{title}, with its 95% interval, by {kind}; the dashed line is no difference. {words.listed(told, 24)}."
