"""The monitor's charts and what each says in words. Colours are the theme's: a chart names series, never a colour."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.views import FEDERATED, SERIES

Chart = alt.LayerChart | alt.FacetChart
"""What layering charts gives."""
SHAPES = dict(zip(SERIES, ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross"), strict=True))
_ZERO = "zero"
_LABEL_PIXELS, _ROW, _FRAME = 190, 19, 96
"""Pixels of a name beside its row, of one model's row, and of axis and legend around the rows."""


def convergence(curve: pd.DataFrame, levels: pd.DataFrame) -> Chart:
    """AUROC by round with the interval of its mean; levels: model and mean of what it is compared with."""
    rounds = alt.X("round:Q", title="round", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False))
    title, scale = "AUROC, all held-out patients", alt.Scale(zero=False)
    axis = alt.Axis(format=".2f", tickCount=6)
    area = alt.Y("mean:Q", title=title, scale=scale, axis=axis)
    colour = _colours([FEDERATED, *levels["model"]])
    base = alt.Chart(curve.assign(model=FEDERATED, told=_told(curve))).encode(x=rounds, color=colour)
    band = base.mark_area(opacity=0.22).encode(y=alt.Y("low:Q", title=title, scale=scale, axis=axis), y2="high:Q")
    line = base.mark_line(strokeWidth=2.5).encode(y=area)
    points = base.mark_point(size=36, filled=True, opacity=1).encode(y=area, tooltip=_tips("round", "told"))
    rules = alt.Chart(levels.assign(told=_told(levels))).mark_rule(strokeDash=[6, 4], strokeWidth=1.5)
    compared = rules.encode(y=area, color=colour, tooltip=_tips("model", "told"))
    return alt.layer(band, compared, line, points).properties(height=320)


def dots(frame: pd.DataFrame, kind: str, title: str) -> Chart:
    """A dot and interval for each model at each hospital or group, in the frame's order. `kind`: the column that names them."""
    frame = frame[frame["model"].isin(SERIES)]
    found = set(frame["model"])
    present = [name for name in SERIES if name in found]
    base = alt.Chart(frame.assign(told=_told(frame))).encode(
        y=_rows(kind, list(dict.fromkeys(frame[kind]))),
        yOffset=alt.YOffset("model:N", sort=present),
        color=_colours(present),
        tooltip=_tips(kind, "model", "told"),
    )
    axis = alt.X("mean:Q", title=title, scale=alt.Scale(zero=False), axis=_values(".2f"))
    # the domain of the colours, so that one legend shows both
    shapes = alt.Scale(domain=[*SERIES, _ZERO], range=[*SHAPES.values(), "circle"])
    lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    marks = base.mark_point(filled=True, size=75, opacity=1).encode(
        x=axis, shape=alt.Shape("model:N", scale=shapes, legend=_legend(present), title=None)
    )
    return alt.layer(lines, marks).properties(height=height(frame[kind].nunique(), len(present)))


def differences(frame: pd.DataFrame, kind: str, title: str, beside: int) -> Chart:
    """A dot and interval for each hospital or group, and the line of no difference.

    Args:
        frame: the figures, in the order of the rows.
        kind: the column that names the rows.
        title: what is subtracted from what.
        beside: how many models the chart beside it has a row: the rows stand at the same height.
    """
    told = [words.difference(*one) for one in _figures(frame)]
    scale = alt.Scale(domain=[title, *SERIES[1:], _ZERO])  # the first colour is the federated model's
    colour = alt.Color("model:N", scale=scale, legend=_legend([title]), title=None)
    base = alt.Chart(frame.assign(told=told, model=title)).encode(
        y=_rows(kind, list(frame[kind])), color=colour, tooltip=_tips(kind, "told")
    )
    lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="AUROC"), x2="high:Q")
    marks = base.mark_point(filled=True, size=75, opacity=1).encode(
        x=alt.X("mean:Q", title="AUROC", axis=_values("+.3~f"))
    )
    none = alt.Chart(pd.DataFrame({"none": [0.0], "model": [_ZERO]})).mark_rule(strokeDash=[2, 3], strokeWidth=1.5)
    line = none.encode(x=alt.X("none:Q", title="AUROC"), color=colour)
    return alt.layer(line, lines, marks).properties(height=height(len(frame), beside))


def height(names: int, rows: int) -> int:
    """Pixels of a chart of so many names, each with so many rows."""
    return _FRAME + names * (max(rows, 2) * _ROW + 10)


def convergence_words(curve: pd.DataFrame, levels: pd.DataFrame) -> str:
    """The convergence chart for those who do not see it."""
    if curve.empty:
        return "No round is done yet."
    first, last = _told(curve.iloc[[0, -1]])
    compared = "; ".join(f"{name} {told}" for name, told in zip(levels["model"], _told(levels), strict=True))
    begun = f"from {first} before the first round to {last} after round {int(curve['round'].iloc[-1])}"
    return f"AUROC of the federated model by round: {begun}. Dashed lines: {compared or 'none'}."


def dots_words(frame: pd.DataFrame, kind: str) -> str:
    """A dot-and-interval chart for those who do not see it."""
    rows = [
        f"{name}, {model}: {told}" for name, model, told in zip(frame[kind], frame["model"], _told(frame), strict=True)
    ]
    return f"AUROC with its 95% interval by {kind}. {words.listed(rows, 24)}."


def differences_words(frame: pd.DataFrame, kind: str, title: str) -> str:
    """A chart of differences for those who do not see it."""
    rows = [f"{name}: {words.difference(*one)}" for name, one in zip(frame[kind], _figures(frame), strict=True)]
    return f"AUROC, {title}, by {kind}. {words.listed(rows, 24)}."


def _rows(kind: str, order: list[str]) -> alt.Y:
    axis = alt.Axis(labelLimit=_LABEL_PIXELS, ticks=False, grid=False, domain=False)
    return alt.Y(f"{kind}:N", sort=order, title=None, axis=axis, scale=alt.Scale(paddingInner=0.3, paddingOuter=0.1))


def _values(form: str) -> alt.Axis:
    zero = "abs(datum.value) < 1e-9 ? '0' : datum.label"
    return alt.Axis(format=form, tickCount=5, tickMinStep=0.005, labelFlush=False, labelExpr=zero)


def _legend(names: list[str]) -> alt.Legend:
    return alt.Legend(orient="top", title=None, values=names, labelLimit=320, symbolOpacity=1, columns=4)


def _colours(names: list[str]) -> alt.Color:
    """Each series has its place in the theme's palette, whichever others are shown."""
    return alt.Color("model:N", scale=alt.Scale(domain=[*SERIES, _ZERO]), legend=_legend(names), title=None)


def _tips(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(name, title="AUROC (95%)" if name == "told" else name) for name in names]


def _figures(frame: pd.DataFrame) -> list[tuple[float, float, float]]:
    return list(zip(frame["mean"], frame["low"], frame["high"], strict=True))


def _told(frame: pd.DataFrame) -> list[str]:
    return [words.estimate(*one) for one in _figures(frame)]
