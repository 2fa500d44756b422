"""A chart as SVG that may stand within a page. The only door of vl-convert, which runs Vega without a browser.

What comes out is taken apart: elements and attributes that draw are kept, and nothing else, whatever a name in the record holds.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import count
from typing import Any, Final
from xml.etree import ElementTree

from fedward.dashboard import words
from fedward.dashboard.report.theme import Scheme, config
from fedward.privacy.errors import InputError, IntegrityError

_SPACE: Final = "{http://www.w3.org/2000/svg}"
_KEPT: Final = frozenset(
    {
        "svg",
        "g",
        "path",
        "line",
        "rect",
        "circle",
        "text",
        "tspan",
        "defs",
        "clipPath",
        "linearGradient",
        "radialGradient",
        "stop",
    }
)
_DRAWS: Final = frozenset(
    ["clip-path", "cx", "cy", "d", "dx", "dy", "fill", "fill-opacity", "font-family", "font-size", "font-style", "font-weight",
     "gradientUnits", "height", "offset", "opacity", "r", "rx", "ry", "stop-color", "stop-opacity", "stroke", "stroke-dasharray",
     "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "stroke-opacity", "stroke-width", "text-anchor",
     "transform", "viewBox", "width", "x", "x1", "x2", "y", "y1", "y2"]
)  # fmt: skip
"""Attributes that are kept as they are; a reference within them, to a clip or gradient, gets the name that it has in the page."""
_REFERENCE: Final = re.compile(r"url\(\s*['\"]?#([^)'\"]+)['\"]?\s*\)")


def installed() -> None:
    """
    Raises:
        InputError: vl-convert is not installed; `no-vl-convert`.
    """
    if find_spec("vl_convert") is None:
        raise InputError(
            "the report needs vl-convert, which draws its charts",
            remedy='pip install "fedward[monitor]"',
            code="no-vl-convert",
        )


def drawn(made: dict[str, Any], width: int, scheme: Scheme, name: str, told: str) -> str:
    """A specification as an `svg` element, so many pixels wide.

    Args:
        made: the specification; its colours are places in the theme's palette.
        width: axis and names included.
        scheme: light or dark.
        name: what ids within it begin with; the chart's own in the page.
        told: the chart in words, for those who do not see it.

    Raises:
        IntegrityError: what was drawn is no SVG.
    """
    import vl_convert  # noqa: PLC0415 - thirty megabytes, which a run without a chart does not need

    fitted = made | {"width": width, "autosize": {"type": "fit-x", "contains": "padding"}, "config": config(scheme)}
    text = vl_convert.vegalite_to_svg(fitted, allowed_base_urls=[])
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - Vega's own text, without a document type
    except ElementTree.ParseError as error:
        raise IntegrityError("a chart could not be drawn", got=str(error)) from None
    _clean(root, _Names(name))
    root.set("role", "img")
    root.set("aria-label", words.one_line(told, 3000))
    root.set("class", scheme)
    return ElementTree.tostring(root, encoding="unicode", default_namespace=None)


class _Names:
    """New names for ids, in the order in which they come: Vega's own count on from chart to chart."""

    def __init__(self, name: str) -> None:
        self._name, self._numbers, self._known = name, count(), dict[str, str]()

    def of(self, old: str) -> str:
        if old not in self._known:
            self._known[old] = f"{self._name}-{next(self._numbers)}"
        return self._known[old]


def _clean(element: ElementTree.Element, names: _Names) -> None:
    """An element and all within it, without whatever does not draw, and without the name space that a page does not need."""
    element.tag = element.tag.removeprefix(_SPACE)
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        if key == "id":
            element.set("id", names.of(value))
        elif key in _DRAWS:
            element.set(key, _REFERENCE.sub(lambda found: f"url(#{names.of(found[1])})", value))
    for child in list(element):
        if child.tag.removeprefix(_SPACE) in _KEPT:
            _clean(child, names)
        else:
            element.remove(child)
