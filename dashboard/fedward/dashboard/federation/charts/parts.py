"""What the charts of a study share: colours by their place in the theme, axes, the sign and word of a mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from fedward.dashboard.federation.views.marks import Mark

Chart = alt.LayerChart | alt.FacetChart | alt.Chart
PLACES = 8
"""Colours of the theme's palette of series; the last is the ink of words."""
LABEL_PIXELS = 190


def marked(column: str, marks: Mapping[str, Mark], title: str, size: float = 90) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of marks, by their words: the same in both themes, and one legend for both."""
    domain = [
        next((mark.word for mark in marks.values() if mark.place == place), f"·{place}") for place in range(PLACES)
    ]
    shown = [mark.word for mark in marks.values()]
    legend = alt.Legend(
        orient="top", title=None, values=shown, symbolOpacity=1, columns=7, symbolSize=size, labelLimit=240
    )
    shapes = [next((mark.shape for mark in marks.values() if mark.word == word), "circle") for word in domain]
    return (
        alt.Color(f"{column}:N", scale=alt.Scale(domain=domain), legend=legend, title=title),
        alt.Shape(f"{column}:N", scale=alt.Scale(domain=domain, range=shapes), legend=legend, title=title),
    )


def series(
    column: str, places: Mapping[str, int], title: str | None = None, legend: bool = True, columns: int = 4
) -> alt.Color:
    """Colour of named series, each with its place in the palette."""
    domain = [next((name for name, at in places.items() if at == place), f"·{place}") for place in range(PLACES)]
    shown = alt.Legend(orient="top", title=title, values=list(places), symbolOpacity=1, columns=columns, labelLimit=320)
    return alt.Color(f"{column}:N", scale=alt.Scale(domain=domain), legend=shown if legend else None, title=title)


def ink() -> alt.Color:
    """The colour of words within a chart, for a layer with a colour scale of its own."""
    domain = [f"·{place}" for place in range(PLACES - 1)]
    return alt.Color("ink:N", scale=alt.Scale(domain=[*domain, "ink"]), legend=None)


def rounds_axis(title: str = "round") -> alt.X:
    return alt.X(
        "round:Q",
        title=title,
        axis=alt.Axis(format="d", tickMinStep=1, tickCount=10),
        scale=alt.Scale(nice=False, zero=False, padding=12),
    )


def rows(column: str, order: Sequence[str], limit: int = LABEL_PIXELS) -> alt.Y:
    """Names beside their rows, in a given order."""
    axis = alt.Axis(labelLimit=limit, ticks=False, grid=False, domain=False, labelOverlap=False, labelFlush=False)
    return alt.Y(
        f"{column}:N", sort=list(order), title=None, axis=axis, scale=alt.Scale(paddingInner=0.25, paddingOuter=0.1)
    )


def tips(*shown: str | alt.Tooltip) -> list[alt.Tooltip]:
    """What a mark says when it is pointed at."""
    return [alt.Tooltip(one) if isinstance(one, str) else one for one in shown]


def level(
    values: Mapping[str, float | str], x: alt.X | None, y: alt.Y | None, colour: alt.Color, said: alt.Tooltip
) -> alt.Chart:
    """A dashed line at a value that others are compared with."""
    base = alt.Chart(pd.DataFrame([dict(values)])).mark_rule(strokeDash=[6, 4], strokeWidth=1.5)
    made: alt.Chart = base.encode(
        **({"x": x} if x is not None else {}), **({"y": y} if y is not None else {}), color=colour, tooltip=[said]
    )
    return made


def stacked(*layers: Chart, height: int, words: Chart | None = None) -> Chart:
    """Layers over each other; `words` are coloured by a scale of their own."""
    drawn: Chart = alt.layer(*layers)
    if words is not None:
        drawn = alt.layer(drawn, words).resolve_scale(color="independent")
    made: Chart = drawn.properties(height=height)
    return made
