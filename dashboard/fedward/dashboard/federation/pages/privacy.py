"""Privacy: what has it cost?"""

from __future__ import annotations

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.charts import budget as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.pages.frame import Here, chart, empty, figures, heading, note, page
from fedward.dashboard.federation.views import privacy as views


def privacy(named: str) -> None:
    """What has it cost?"""
    page(named, _sentence, _lay_out)


def _costs(here: Here) -> list[views.Cost]:
    return views.costs(here.look, here.reader.tallies(here.look))


def _sentence(here: Here) -> str:
    return views.sentence(here.look, _costs(here))


def _lay_out(here: Here) -> None:
    look, found = here.look, _costs(here)
    if found:
        most = [(label, max(getattr(one, name) for one in found)) for label, name in _FIGURES]
        figures(
            [
                (
                    label,
                    f"{value:.2f}",
                    f"{'The hospital where it is most' if here.whole else 'At your hospital'}; δ = {look.manifest.privacy.delta:g}",
                )
                for label, value in most
            ]
        )
        heading(f"ε of this study at {'each' if here.whole else 'your'} hospital")
        frame = views.table(found)
        chart(drawn(charts.bars, frame), charts.bars_words(frame), "ε by hospital", frame, "epsilon")
        note(words.plain(f"{views.shared(here.reader.tallies(look))} {views.elsewhere(look)}", 1000))
    elif look.manifest.privacy.epsilon is not None:
        empty("The study is not sealed yet: each hospital's noise, and so its ε, is fixed with the seal.")
    heading("What is promised to patients")
    st.markdown(
        "\n".join(f"- **{words.plain(what)}**: {words.plain(meaning, 400)}" for what, meaning in views.promise(look))
    )


_FIGURES = (
    ("ε spent, at most", "spent"),
    ("ε when all rounds are done", "forecast"),
    ("ε promised, at most", "promised"),
)
