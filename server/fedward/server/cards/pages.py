"""A card as one HTML file that needs no other, and as Markdown with the same figures. The only door of Jinja in the server.

Every text goes through `words`: in HTML it is escaped besides, in Markdown every sign of it stands for itself. What the templates
write themselves, and what is marked as `Markup`, is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedward.server.cards import plots, words
from fedward.server.cards.facts import Card
from fedward.server.cards.tripod import SOURCE

FORMATS = (".html", ".md")
SECTIONS = (
    ("use", "Intended use"),
    ("data", "Data and hospitals"),
    ("performance", "Performance"),
    ("calibration", "Calibration"),
    ("fairness", "Fairness"),
    ("gates", "Gates"),
    ("privacy", "Privacy"),
    ("training", "Training configuration"),
    ("influence", "What the model follows"),
    ("digests", "Digests and signatures"),
    ("limits", "Limits"),
    ("tripod", "TRIPOD+AI"),
)
"""Anchor and heading, in the order of the page; influence only where it was asked for, or patients voted."""


def html(card: Card) -> str:
    """The card as a page."""
    return _environment("html").get_template("card.html.jinja").render(_facts(card), plot=_plot(card))


def markdown(card: Card) -> str:
    """The card as Markdown."""
    return _environment("md").get_template("card.md.jinja").render(_facts(card))


def _plot(card: Card) -> Markup:
    return Markup(plots.calibration(card.calibration) if card.calibration else "")  # noqa: S704 - drawn from numbers


def _facts(card: Card) -> dict[str, Any]:
    sections = [one for one in SECTIONS if one[0] != "influence" or card.influence or card.votes]
    return {"card": card, "sections": sections, "source": SOURCE}


@cache
def _environment(kind: str) -> Environment:
    """`finalize` is called on every value, and never on the templates' own text."""
    told: Callable[[object], object] = _as_html if kind == "html" else _as_markdown
    made = Environment(
        loader=PackageLoader("fedward.server.cards", "templates"),
        autoescape=kind == "html",  # noqa: S701 - Markdown is made safe by `finalize`
        finalize=told,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "figure": words.figure, "epsilon": words.epsilon, "number": words.number, "day": words.day, "group": words.group,
    }  # fmt: skip
    made.globals |= {"interval": words.interval, "counted": words.counted}
    return made


def _as_html(value: object) -> object:
    return value if isinstance(value, Markup) else words.one_line(value)


def _as_markdown(value: object) -> object:
    return value if isinstance(value, Markup) else words.markdown(value)
