"""The monitor's look for charts outside Streamlit: Vega's configuration, from the same theme file as the pages'."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

Scheme = Literal["light", "dark"]
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")
_FILE: Final = Path(__file__).parent.parent / ".streamlit" / "config.toml"
_FONT: Final = "Liberation Sans, Arial, Helvetica, sans-serif"
"""Where the first is missing, the next is as wide, so that texts stay where they were measured."""


@cache
def config(scheme: Scheme) -> dict[str, Any]:
    """What Vega-Lite takes as its `config`: the theme's palettes by their places, fonts and lines as on the monitor."""
    theme = tomllib.loads(_FILE.read_text(encoding="utf-8"))["theme"][scheme]
    ink, soft, line = theme["textColor"], theme["grayTextColor"], theme["borderColor"]
    series, ramp = theme["chartCategoricalColors"], theme["chartSequentialColors"]
    names = {"labelColor": soft, "titleColor": soft, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 400}
    return {
        "background": "transparent",
        "font": _FONT,
        "padding": 4,
        "range": {
            "category": series,
            "ramp": ramp,
            "heatmap": ramp,
            "ordinal": ramp,
            "diverging": theme["chartDivergingColors"],
        },
        "view": {"stroke": "transparent"},
        "axis": names | {"gridColor": line, "domainColor": line, "tickColor": line, "titlePadding": 10},
        "axisQuantitative": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": names | {"labelColor": ink, "symbolStrokeWidth": 2, "columnPadding": 24, "titleLimit": 400},
        "header": names,
        "title": {"color": ink, "fontSize": 13, "fontWeight": 600, "anchor": "start"},
        "text": {"color": ink, "fontSize": 12},
        "mark": {"color": series[0]},
        "arc": {"stroke": theme["backgroundColor"]},
    }
