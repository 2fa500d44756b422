"""Rounds over time: how each ended and how long it took, and what the model came to."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charts.parts import Chart, level, marked, rounds_axis, series, stacked, tips
from fedward.dashboard.federation.views.marks import OUTCOMES

_SERIES = {"federated": 0, "gate": 1}


def timeline(frame: pd.DataFrame) -> Chart:
    """A mark an attempt: its round, how long it took, and how it ended."""
    shown = [mark for mark in OUTCOMES.values() if mark.word in set(frame["outcome"])]
    colour, shape = marked("outcome", {mark.word: mark for mark in shown}, "outcome")
    told = frame.assign(took=frame["seconds"].fillna(0.0), answered=_answered(frame))
    base = alt.Chart(told).encode(x=rounds_axis())
    height = alt.Y("took:Q", title="seconds", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=4))
    said = tips(
        "what",
        "attempt",
        "outcome",
        alt.Tooltip("answered", title="contributed"),
        alt.Tooltip("seconds", format=".1f"),
        "why",
    )
    stems = base.mark_rule(strokeWidth=1, opacity=0.35).encode(y=height, color=colour)
    points = base.mark_point(filled=True, size=95, opacity=1).encode(y=height, color=colour, shape=shape, tooltip=said)
    return stacked(stems, points, height=260)


def _answered(frame: pd.DataFrame) -> list[str]:
    return [
        "not known yet" if pd.isna(given) else f"{given:.0f} of {of}"
        for given, of in zip(frame["contributed"], frame["hospitals"], strict=True)
    ]


def timeline_words(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "No round has begun."
    counts = frame["outcome"].value_counts()
    ended = ", ".join(f"{count} {name}" for name, count in counts.items())
    first, last = int(frame["round"].min()), int(frame["round"].max())
    newest = frame.iloc[-1]
    last_one = f"The newest, of round {int(newest['round'])}: {newest['outcome']}."
    return f"Attempts of rounds {first} to {last}, seconds and outcome of each: {ended}. {last_one}"


def convergence(curve: pd.DataFrame, title: str, gate: float | None = None) -> Chart:
    """A metric by round with its 95% interval as a band; and the manifest's gate, where it has one."""
    places = _SERIES if gate is not None else {"federated": 0}
    colour = series("series", places, legend=gate is not None)
    told = [words.estimate(*one) for one in zip(curve["mean"], curve["low"], curve["high"], strict=True)]
    base = alt.Chart(curve.assign(series="federated", told=told)).encode(
        x=rounds_axis("rounds committed"), color=colour
    )
    y = alt.Y("mean:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format=".2f", tickCount=6))
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)), y2="high:Q")
    line = base.mark_line(strokeWidth=2.5).encode(y=y)
    size = 45 if len(curve) <= 60 else 12
    points = base.mark_point(size=size, filled=True, opacity=1).encode(
        y=y, tooltip=tips("round", alt.Tooltip("told", title=f"{title} (95%)"))
    )
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    layers: list[Chart] = [bars, points] if len(curve) == 1 else [band, line, points]
    if gate is not None:
        said = alt.Tooltip("gate", title="gate: at least")
        layers.insert(0, level({"gate": gate, "series": "gate"}, None, alt.Y("gate:Q", title=title), colour, said))
    return stacked(*layers, height=330)


def convergence_words(curve: pd.DataFrame, title: str, gate: float | None = None) -> str:
    if curve.empty:
        return f"{title}: no model has been evaluated yet."
    first, last = curve.iloc[0], curve.iloc[-1]
    ends = [words.estimate(float(row["mean"]), float(row["low"]), float(row["high"])) for row in (first, last)]
    said = (
        f"{title} after round {int(last['round'])}: {ends[1]}"
        if len(curve) == 1
        else (f"{title} from {ends[0]} after round {int(first['round'])} to {ends[1]} after round {int(last['round'])}")
    )
    return f"{said}. The band is the 95% interval." + (
        "" if gate is None else f" The gate asks for at least {words.figure(gate)}."
    )
