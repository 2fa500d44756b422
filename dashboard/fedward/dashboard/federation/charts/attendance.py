"""Hospitals by rounds: one mark a status, told apart by sign and colour; and how long answers take."""

from __future__ import annotations

from collections import Counter

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charts.parts import Chart, ink, marked, rows, series, stacked, tips
from fedward.dashboard.federation.views.marks import STATUSES

_FRAME = 110


def grid(frame: pd.DataFrame) -> Chart:
    """Columns as `views.participation.grid`: an attempt a column, a hospital a row."""
    order, numbers = list(dict.fromkeys(frame["hospital"])), list(dict.fromkeys(frame["attempt"]))
    shown = {mark.word: mark for mark in STATUSES.values() if mark.word in set(frame["status"])}
    colour, shape = marked("status", shown, "status")
    rounds = dict(zip(frame["attempt"], frame["round"], strict=True))
    every = max(len(numbers) // 25, 1)
    labels = [number for place, number in enumerate(numbers) if place % every == 0]
    named = "{" + ",".join(f"'{number}':'{rounds[number]}'" for number in labels) + "}[datum.label]"
    x = alt.X(
        "attempt:O", title="round of each attempt",
        axis=alt.Axis(values=labels, labelExpr=named, labelAngle=0, grid=False, ticks=False), scale=alt.Scale(paddingOuter=0.2),
    )  # fmt: skip
    said = tips("hospital", "what", "attempt", "status", "why", alt.Tooltip("seconds", format=".1f"))
    height = 28 if len(order) <= 20 else 18
    base = alt.Chart(frame).encode(x=x, y=rows("hospital", order), color=colour, shape=shape, tooltip=said)
    size = 130 if len(numbers) <= 60 and len(order) <= 20 else 55
    return stacked(base.mark_point(filled=True, size=size, opacity=1), height=_FRAME + height * len(order))


def grid_words(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "No round has begun."
    counts: dict[str, Counter[str]] = {}
    for site, status in zip(frame["hospital"], frame["status"], strict=True):
        counts.setdefault(site, Counter())[status] += 1
    told = [
        f"{site}: " + ", ".join(f"{count} {name}" for name, count in found.most_common())
        for site, found in counts.items()
    ]
    return f"Each hospital's status in {frame['attempt'].nunique()} attempts. {words.listed(told, 50)}."


def answers(frame: pd.DataFrame) -> Chart:
    """The median time of a hospital's answers, and the fastest and slowest."""
    order, title = list(frame["hospital"]), "seconds until the answer: median, fastest to slowest"
    known = frame.dropna(subset=["value"])
    colour = series("series", {"answers": 0}, legend=False)
    base = alt.Chart(known.assign(series="answers")).encode(y=rows("hospital", order), color=colour)
    x = alt.X("value:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6))
    lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    times = (("value", "median"), ("low", "fastest"), ("high", "slowest"))
    said = tips("hospital", *(alt.Tooltip(name, title=what, format=".2f") for name, what in times))
    points = base.mark_point(filled=True, size=80, opacity=1).encode(x=x, tooltip=said)
    silent = alt.Chart(frame[frame["value"].isna()].assign(ink="ink")).mark_text(align="left", dx=6, fontStyle="italic")
    none = silent.encode(y=rows("hospital", order), x=alt.value(0), text="shown:N", color=ink())
    height = 26 if len(order) <= 20 else 18
    return stacked(lines, points, height=70 + height * len(order), words=None if frame["value"].notna().all() else none)


def answers_words(frame: pd.DataFrame) -> str:
    told = [
        f"{row['hospital']}: {row['value']:.1f} s ({row['low']:.1f} to {row['high']:.1f})"
        if not pd.isna(row["value"])
        else f"{row['hospital']}: {row['shown']}"
        for row in frame.to_dict("records")
    ]
    return f"Median time of answers by hospital, with the fastest and slowest. {words.listed(told, 50)}."
