"""Models: which model may be used?"""

from __future__ import annotations

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.charts import pairs as charts
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.pages.checklist import checklist
from fedward.dashboard.federation.pages.frame import Here, chart, heading, named_study, note, page, table
from fedward.dashboard.federation.views import accuracy
from fedward.dashboard.federation.views import models as views
from fedward.server.comparing import compare
from fedward.server.verdicts import failing


def models(named: str) -> None:
    """Which model may be used?"""
    page(named, _sentence, _lay_out)


def _sentence(here: Here) -> str:
    made = here.reader.verdicts(here.look)
    return views.sentence(here.look, here.reader.releases(here.look.study.study_id), made, failing(made or ()))


def _lay_out(here: Here) -> None:
    if here.look.trains:
        _releases(here)
        heading("The gates of the newest model")
        checklist(here)
    heading("Two studies side by side")
    _compare(here)


def _releases(here: Here) -> None:
    found = here.reader.releases(here.look.study.study_id)
    heading("Releases")
    if found:
        table("releases", views.table(found), "releases", open_=True)
    else:
        st.info(
            "No release yet: a model becomes one when its study's gates hold and a person releases it.",
            icon=":material/inventory_2:",
        )
    table("the newest model", views.newest(here.look), "model", open_=True)
    if not here.whole:
        note(
            "The model card names every hospital with its part, and is for coordinators and auditors: ask them for it."
        )
        return
    history = here.reader.history(here.look)
    for name, data in views.cards(history, here.reader.verdicts(here.look), found).items():
        st.download_button(
            f"Model card ({name})", data, name, key=f"card-{name}", on_click="ignore", icon=":material/description:"
        )


def _compare(here: Here) -> None:
    others = [row for row in here.reader.studies() if row.key != here.look.study.key]
    if not others:
        st.info("There is one study only: a second one can be set beside it here.", icon=":material/compare:")
        return
    keys = {row.key: row for row in others}
    chosen = st.selectbox(
        "Compare with",
        list(keys),
        index=None,
        key="beside",
        format_func=lambda key: named_study(keys[key]),
        placeholder="Choose another study",
    )
    if chosen is None:
        return
    beside = here.reader.look(int(chosen))
    made = compare(here.reader.history(here.look), here.reader.history(beside))
    table("the two studies", views.facts(made, here.look, beside), "studies", open_=True)
    if made.differences:
        st.markdown(
            "The manifests differ:\n" + "\n".join(f"- {words.plain(text, 300)}" for text in made.differences[:40])
        )
    frame = views.side_by_side(made, here.look, beside)
    if frame.empty:
        st.info("Neither study's model has been evaluated.", icon=":material/help:")
        return
    names = [label for label, _ in accuracy.NAMES.values() if label in set(frame["metric"])]
    metric = (
        st.segmented_control(
            "Metric", names, default=names[0], key="paired", required=True, label_visibility="collapsed"
        )
        or names[0]
    )
    part = frame[frame["metric"] == metric]
    chart(
        drawn(charts.pairs, part, metric), charts.pairs_words(part, metric), f"{metric} of both", frame, "side-by-side"
    )
