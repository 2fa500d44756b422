"""A section of the Fairness page: what a threshold for each group would do. It computes, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.charts import dumbbells
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.pages.frame import Here, chart, heading, note
from fedward.dashboard.federation.views import mitigation as views
from fedward.privacy.errors import FedwardError
from fedward.server import mitigating

T = TypeVar("T")


def mitigation(here: Here) -> None:
    """Choose an attribute, a bound and a criterion; see what it would cost."""
    heading("What a threshold for each group would do: an analysis, applied to nothing")
    left, middle, right = st.columns(3)
    with left:
        attribute = _chosen("Attribute", mitigating.compared(here.look.sealed), "attribute", words.plain)
    with middle:
        bound = _chosen("Gap at most", views.BOUNDS, "bound", words.figure, mitigating.BOUND)
    with right:
        criterion = views.CRITERIA[_chosen("Criterion", tuple(views.CRITERIA), "criterion", str)]
    evaluation = here.reader.evaluation(here.look, here.reader.measured(here.look)[0].version)
    try:
        made = mitigating.mitigated(here.look.sealed, evaluation, attribute, bound, criterion)
    except FedwardError as error:
        st.info(words.plain(views.refused(error), 600), icon=":material/help:")
        return
    st.markdown(words.plain(views.sentence(made), 600))
    for measure in views.MEASURES:
        frame, title = views.by_group(made, measure), f"{measure} with a threshold for each group"
        told = dumbbells.dumbbells_words(frame, measure)
        chart(drawn(dumbbells.dumbbells, frame, measure), told, title, frame, f"thresholds-{measure}")
    note(mitigating.limits(made))


def _chosen(label: str, options: Sequence[T], key: str, told: Callable[[T], str], first: T | None = None) -> T:
    at = options[0] if first is None else first
    found = st.segmented_control(label, options, default=at, format_func=told, key=f"mitigation-{key}", required=True)
    return at if found is None else found
