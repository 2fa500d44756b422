"""ε by hospital: spent, forecast, and the line of what was promised."""

from __future__ import annotations

import altair as alt
import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charts.parts import Chart, rows, series, stacked, tips

SPENT, FORECAST, PROMISED = "spent so far", "when all rounds are done", "promised at most"
_ROW, _FRAME = 26, 110
_PLACES = {SPENT: 0, FORECAST: 5, PROMISED: 1}


def bars(frame: pd.DataFrame) -> Chart:
    """Columns as `views.privacy.table`."""
    order = list(frame["hospital"])
    parts = pd.concat(
        [
            frame[["hospital"]].assign(epsilon=frame["ε forecast"], series=FORECAST),
            frame[["hospital"]].assign(epsilon=frame["ε spent"], series=SPENT),
        ]
    )
    y, colour, title = rows("hospital", order), series("series", _PLACES), "ε of this study"
    x = alt.X("epsilon:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(format=".2f", tickCount=6))
    said = tips("hospital", alt.Tooltip("series", title="ε"), alt.Tooltip("epsilon", title="at most", format=".3f"))
    made = [
        alt.Chart(parts[parts["series"] == name]).mark_bar(height={"band": band}, opacity=opacity).encode(
            x=x, y=y, color=colour, tooltip=said
        )
        for name, band, opacity in ((FORECAST, 0.85, 0.45), (SPENT, 0.5, 1.0))
    ]  # fmt: skip
    line = alt.Chart(frame[["hospital"]].assign(epsilon=frame["ε promised"], series=PROMISED))
    ticks = line.mark_tick(thickness=3, bandSize=_ROW - 2, size=_ROW - 2).encode(x=x, y=y, color=colour, tooltip=said)
    return stacked(*made, ticks, height=_FRAME + _ROW * max(len(order), 1))


def bars_words(frame: pd.DataFrame) -> str:
    told = [
        f"{row['hospital']}: {row['ε spent']:.2f} spent, {row['ε forecast']:.2f} when all rounds are done, "
        f"of {row['ε promised']:.2f}"
        for row in frame.to_dict("records")
    ]
    return f"ε of this study by hospital. {words.listed(told, 24)}."
