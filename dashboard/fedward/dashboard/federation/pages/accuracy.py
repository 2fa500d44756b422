"""Accuracy: does it work?"""

from __future__ import annotations

import streamlit as st

from fedward.dashboard import words
from fedward.dashboard.federation.charts import curves, dots, rounds
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.pages.frame import Here, chart, empty, figures, heading, note, page, table
from fedward.dashboard.federation.reading import EVERYBODY
from fedward.dashboard.federation.views import accuracy as views
from fedward.dashboard.federation.views import counts, given
from fedward.dashboard.federation.views.overview import curve
from fedward.server.records import MetricRow
from fedward.study.manifest import Manifest
from fedward.study.metrics import SMALL

JOINED = f"Neighbouring bins are joined until each has {SMALL} patients or more with the outcome and {SMALL} or more without."


def accuracy(named: str) -> None:
    """Does it work?"""
    page(named, _sentence, _lay_out)


def _sums(here: Here) -> counts.Sums | None:
    rows = here.reader.metrics(here.look, EVERYBODY)
    return counts.sums(here.look, here.reader.evaluation(here.look, rows[-1].version)) if rows else None


def _sentence(here: Here) -> str:
    made = _sums(here)
    return views.sentence(here.look, here.reader.metrics(here.look, EVERYBODY), 0 if made is None else len(made.sites))


def _lay_out(here: Here) -> None:
    look, made = here.look, _sums(here)
    if not isinstance(look.manifest, Manifest):
        return
    metrics = here.reader.metrics(look, EVERYBODY)
    if made is None or not metrics:
        empty(
            "No model has been evaluated yet: the manifest says after which rounds one is. The page follows by itself."
        )
        return
    figures(views.figures(metrics))
    heading("How it converges")
    by_round, gate = curve(metrics), look.manifest.gates.min_auroc
    chart(
        drawn(rounds.convergence, by_round, "AUROC", gate), rounds.convergence_words(by_round, "AUROC", gate), "AUROC by round",
        by_round, "auroc",
    )  # fmt: skip
    _curves(made, views.newest(metrics))
    heading("All metrics of the newest model that was evaluated")
    table("metrics", views.table(metrics), "metrics", open_=True)
    _sites(here)


def _curves(made: counts.Sums, newest: dict[str, MetricRow]) -> None:
    at = counts.operating(made)
    left, middle, right = st.columns(3)
    with left:
        heading("ROC curve")
        frame = counts.roc(made)
        chart(
            drawn(curves.roc, frame, at),
            curves.roc_words(frame, at, views.told(newest.get("auroc"))),
            "ROC curve",
            frame,
            "roc",
        )
    with middle:
        heading("Precision and recall")
        frame = counts.precision(made)
        chart(
            drawn(curves.precision, frame, at, counts.prevalence(made)),
            curves.precision_words(frame, at, views.told(newest.get("auprc"))),
            "precision and recall", frame, "precision",
        )  # fmt: skip
    with right:
        heading("Reliability")
        frame = counts.reliability(made)
        chart(drawn(curves.reliability, frame), curves.reliability_words(frame), "reliability", frame, "reliability")
    noise = f" Each count carries noise of deviation {made.deviation:.1f}." if made.deviation else ""
    note(
        f"Held-out patients of {words.counted(len(made.sites), 'hospital', 'hospitals')}, after round {made.version}. "
        f"Called positive: scores from {made.threshold:g} on. {JOINED}{noise}"
    )


def _sites(here: Here) -> None:
    heading("At each hospital, on its own held-out patients")
    found = here.reader.shared(here.look)
    frame = given.by_site(here.look, found)
    if found:
        chart(
            drawn(dots.values, frame, "hospital", "AUROC"),
            dots.values_words(frame, "hospital", "AUROC"),
            "hospitals",
            frame,
            "hospitals",
        )
        if not here.whole:
            note("What other hospitals gave away is not shown to your role.")
    else:
        st.info(given.unshared(here.look), icon=":material/lock:")
    note(
        "A hospital whose policy allows it (share_metrics) gives a file that it signed, `fedward site metrics DIGEST --release "
        "FILE`, and `fedward coordinator share` takes it in. These numbers carry no noise: no ε covers them. Alone: the model "
        f"that the hospital trained by itself. {views.COMPARED}"
    )
