"""ROC, precision and recall, reliability: what the model's scores are worth, at every threshold."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charts.parts import Chart, ink, series, stacked

SIDE = 360
_AXIS = alt.Axis(format=".1f", tickCount=6)
_SHARE = alt.Scale(domain=[0, 1])
POINT, CHANCE = "the threshold", "no skill"
_PLACES = {"model": 0, POINT: 1, CHANCE: 6}


def _line(frame: pd.DataFrame, x: alt.X, y: alt.Y, said: list[alt.Tooltip]) -> Chart:
    base = alt.Chart(frame.assign(series="model")).encode(x=x, y=y, color=series("series", _PLACES, columns=2))
    line = base.mark_line(strokeWidth=2.5, interpolate="linear").encode(order="step:Q")
    made: Chart = alt.layer(line, base.mark_point(size=35, filled=True, opacity=1).encode(tooltip=said))
    return made


def _point(x: float, y: float, columns: tuple[str, str], titles: tuple[str, str]) -> alt.Chart:
    frame = pd.DataFrame({columns[0]: [x], columns[1]: [y], "series": [POINT]})
    said = [alt.Tooltip(name, title=title, format=".3f") for name, title in zip(columns, titles, strict=True)]
    made: alt.Chart = (
        alt.Chart(frame)
        .mark_point(size=150, filled=True, shape="diamond", opacity=1)
        .encode(x=f"{columns[0]}:Q", y=f"{columns[1]}:Q", color=series("series", _PLACES, columns=2), tooltip=said)
    )
    return made


def _dashed(frame: pd.DataFrame, x: str, y: str) -> alt.Chart:
    base = alt.Chart(frame.assign(series=CHANCE)).mark_line(strokeDash=[4, 4], strokeWidth=1.5)
    made: alt.Chart = base.encode(x=f"{x}:Q", y=f"{y}:Q", color=series("series", _PLACES, columns=2))
    return made


def roc(frame: pd.DataFrame, at: tuple[float, float, float]) -> Chart:
    """Sensitivity against 1 − specificity, with the operating point."""
    titles = ("1 − specificity", "sensitivity")
    x, y = (
        alt.X("false:Q", title=titles[0], scale=_SHARE, axis=_AXIS),
        alt.Y("true:Q", title=titles[1], scale=_SHARE, axis=_AXIS),
    )
    said = [alt.Tooltip("false", title=titles[0], format=".3f"), alt.Tooltip("true", title=titles[1], format=".3f"),
            alt.Tooltip("score", title="scores from", format=".2f")]  # fmt: skip
    none = _dashed(pd.DataFrame({"false": [0, 1], "true": [0, 1]}), "false", "true")
    layers: list[Chart] = [none, _line(frame.assign(step=range(len(frame))), x, y, said)]
    if math.isfinite(at[0]) and math.isfinite(at[1]):
        layers.append(_point(at[0], at[1], ("false", "true"), titles))
    return stacked(*layers, height=SIDE)


def roc_words(frame: pd.DataFrame, at: tuple[float, float, float], area: str) -> str:
    if frame.empty:
        return "ROC curve: too few patients to draw one."
    return (
        f"ROC curve, AUROC {area}; at the threshold sensitivity {words.figure(at[1])}, "
        f"specificity {words.figure(1 - at[0])}. The dashed diagonal is no skill."
    )


def precision(frame: pd.DataFrame, at: tuple[float, float, float], prevalence: float) -> Chart:
    """Precision against recall, with the operating point; without skill precision is the outcome's share."""
    titles = ("recall (sensitivity)", "precision")
    x = alt.X("recall:Q", title=titles[0], scale=_SHARE, axis=_AXIS)
    y = alt.Y("precision:Q", title=titles[1], scale=_SHARE, axis=_AXIS)
    said = [alt.Tooltip("recall", title=titles[0], format=".3f"), alt.Tooltip("precision", format=".3f"),
            alt.Tooltip("score", title="scores from", format=".2f")]  # fmt: skip
    layers: list[Chart] = []
    if math.isfinite(prevalence):
        layers.append(_dashed(pd.DataFrame({"recall": [0, 1], "precision": [prevalence] * 2}), "recall", "precision"))
    layers.append(_line(frame.assign(step=range(len(frame))), x, y, said))
    if math.isfinite(at[1]) and math.isfinite(at[2]):
        layers.append(_point(at[1], at[2], ("recall", "precision"), titles))
    return stacked(*layers, height=SIDE)


def precision_words(frame: pd.DataFrame, at: tuple[float, float, float], area: str) -> str:
    if frame.empty:
        return "Precision and recall: too few patients to draw a curve."
    told = f"at the threshold precision {words.figure(at[2])} at recall {words.figure(at[1])}"
    return f"Precision by recall, AUPRC {area}; {told}. The dashed line is the outcome's share, what no skill gives."


def reliability(frame: pd.DataFrame) -> Chart:
    """The outcome's share by the predicted score, with intervals, and above the axis how many patients each point stands for."""
    x = alt.X("score:Q", title="predicted score (numbers: patients)", scale=_SHARE, axis=_AXIS)
    colour = series("series", {"model": 0, "perfect": 6}, columns=2)
    ideal = alt.Chart(pd.DataFrame({"score": [0, 1], "observed": [0, 1], "series": ["perfect"] * 2}))
    dashed = ideal.mark_line(strokeDash=[4, 4], strokeWidth=1.5).encode(x=x, y="observed:Q", color=colour)
    base = alt.Chart(frame.assign(series="model", told=_told(frame))).encode(x=x, color=colour)
    title = "share with the outcome"
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title, scale=_SHARE, axis=_AXIS), y2="high:Q")
    said = [
        alt.Tooltip("score", title="mean score", format=".3f"),
        alt.Tooltip("told", title="share with the outcome (95%)"),
        alt.Tooltip("patients"),
    ]
    points = base.mark_point(size=70, filled=True, opacity=1).encode(y=alt.Y("observed:Q", title=title), tooltip=said)
    line = base.mark_line(strokeWidth=1.5, opacity=0.6).encode(y=alt.Y("observed:Q", title=title))
    counts = alt.Chart(frame.assign(ink="ink")).mark_text(baseline="bottom", fontSize=11)
    numbers = counts.encode(x=x, y=alt.datum(0.01, scale=_SHARE), text="patients:Q", color=ink())
    return stacked(dashed, bars, line, points, height=SIDE, words=numbers)


def reliability_words(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "Reliability: too few patients to draw a curve."
    rows = [
        f"score {row['score']:.2f}: {told}, {int(row['patients'])} patients"
        for (_, row), told in zip(frame.iterrows(), _told(frame), strict=True)
    ]
    head = "The outcome's share by the predicted score, with 95% intervals; on the dashed diagonal both are equal."
    return f"{head} {words.listed(rows, 24)}."


def _told(frame: pd.DataFrame) -> list[str]:
    return [words.estimate(*one) for one in zip(frame["observed"], frame["low"], frame["high"], strict=True)]
