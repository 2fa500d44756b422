"""Groups by metrics: a cell shows its value, its shade how it differs from everybody's; a cell too small to show is hatched."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charts.parts import Chart, ink, level, rounds_axis, series, stacked, tips

_ROW, _FRAME = 34, 170
_STEPS = 10
"""Colours of the theme's diverging scale."""
_HATCH = "M-2.6,0.8L-1,-0.8M-1.8,0.8L-0.2,-0.8M-1,0.8L0.6,-0.8M-0.2,0.8L1.4,-0.8M0.6,0.8L2.2,-0.8M1.4,0.8L2.6,-0.4M-2.6,0L-1.8,-0.8"
"""Slanted lines over a cell about three times as wide as it is high."""


_LINES = (0, 2, 3, 4, 5, 6)
"""Places of attributes in the palette; the gate has its own on every page."""


def heat(frame: pd.DataFrame) -> Chart:
    """Columns as `views.fairness.heat`."""
    groups, metrics = list(dict.fromkeys(frame["group"])), list(dict.fromkeys(frame["metric"]))
    most = max(float(frame["shade"].abs().max()), 0.05) if frame["shade"].notna().any() else 0.05
    y = alt.Y(
        "group:N",
        sort=groups,
        title=None,
        axis=alt.Axis(labelLimit=190, ticks=False, domain=False, grid=False, labelFlush=False),
    )
    lines = "split(datum.label, ' ')"
    x = alt.X(
        "metric:N", sort=metrics, title=None,
        axis=alt.Axis(orient="top", labelAngle=0, labelExpr=lines, labelBaseline="top", labelPadding=58, labelOverlap=False,
                      labelFlush=False, ticks=False, domain=False),
    )  # fmt: skip
    said = tips("group", "metric", alt.Tooltip("told", title="value (95%)"))
    shown = frame[frame["shown"] != "suppressed"].assign(
        ink="ink", short=[words.figure(one) for one in frame.loc[frame["shown"] != "suppressed", "value"]]
    )
    base = alt.Chart(shown).encode(x=x, y=y)
    legend = alt.Legend(
        title="worse ← than everybody → better",
        orient="bottom",
        direction="horizontal",
        gradientLength=240,
        format="+.2f",
        tickCount=4,
    )
    scale = alt.Scale(domain=[most * (2 * step / (_STEPS - 1) - 1) for step in range(_STEPS)], range="diverging")
    cells = base.mark_rect(cornerRadius=3).encode(
        color=alt.condition(
            "isValid(datum.shade)", alt.Color("shade:Q", scale=scale, legend=legend), alt.value("transparent")
        ),
        tooltip=said,
    )
    texts = base.mark_text(fontSize=13).encode(text="short:N", tooltip=said, color=ink())
    hidden = frame[frame["shown"] == "suppressed"]
    small = alt.Chart(hidden.assign(ink="ink")).encode(x=x, y=y, tooltip=said)
    hatched = small.mark_point(shape=_HATCH, size=900, strokeWidth=1, opacity=0.35, filled=False).encode(color=ink())
    labels = small.mark_text(fontSize=12, fontStyle="italic", fontWeight=600).encode(text="told:N", color=ink())
    return stacked(
        cells, height=_FRAME + _ROW * len(groups), words=alt.layer(texts, *([] if hidden.empty else [hatched, labels]))
    )


def heat_words(frame: pd.DataFrame) -> str:
    first = frame[frame["metric"] == frame["metric"].iloc[0]] if not frame.empty else frame
    rows = [f"{group}: {told}" for group, told in zip(first["group"], first["told"], strict=True)]
    name = frame["metric"].iloc[0] if not frame.empty else "metrics"
    return f"Metrics by group; the table has all. {name}: {words.listed(rows, 24)}. Groups that are too small to show are hatched."


def gaps(frame: pd.DataFrame, gap: str, gate: float | None) -> Chart:
    """One gap by round, a line an attribute, with its band; and the manifest's gate."""
    part = frame[frame["gap"] == gap]
    names = list(dict.fromkeys(part["attribute"]))
    places = dict(zip(names, _LINES, strict=False)) | ({"gate": 1} if gate is not None else {})
    colour = series("attribute", places)
    told = [words.estimate(*one) for one in zip(part["mean"], part["low"], part["high"], strict=True)]
    base = alt.Chart(part.assign(told=told)).encode(x=rounds_axis("rounds committed"), color=colour)
    y = alt.Y("mean:Q", title=f"{gap} gap", scale=alt.Scale(zero=True), axis=alt.Axis(format=".2f"))
    layers: list[Chart] = [
        base.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", title=f"{gap} gap"), y2="high:Q"),
        base.mark_line(strokeWidth=2.5).encode(y=y),
        base.mark_point(size=40, filled=True, opacity=1).encode(
            y=y, tooltip=tips("attribute", "round", alt.Tooltip("told", title="gap (95%)"))
        ),
    ]
    if gate is not None:
        layers.append(
            level({"mean": gate, "attribute": "gate"}, None, y, colour, alt.Tooltip("mean", title="gate: at most"))
        )
    return stacked(*layers, height=300)


def gaps_words(frame: pd.DataFrame, gap: str, gate: float | None) -> str:
    part = frame[frame["gap"] == gap]
    last = [
        f"{name}: {words.estimate(float(row['mean']), float(row['low']), float(row['high']))} after round {int(row['round'])}"
        for name, rows in part.groupby("attribute", sort=False)
        for row in rows.tail(1).to_dict("records")
    ]
    asks = "" if gate is None else f" The gate asks for at most {words.figure(gate)}."
    return f"{gap} gap by round and attribute, with 95% intervals. Newest: {words.listed(last)}.{asks}"
