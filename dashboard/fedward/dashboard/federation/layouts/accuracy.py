"""Accuracy: does it work?"""

from __future__ import annotations

from fedward.dashboard import words
from fedward.dashboard.federation.charts import curves, dots, rounds
from fedward.dashboard.federation.charts.drawn import drawn
from fedward.dashboard.federation.here import Here
from fedward.dashboard.federation.reading import EVERYBODY
from fedward.dashboard.federation.views import accuracy as views
from fedward.dashboard.federation.views import counts, given
from fedward.dashboard.federation.views.overview import curve
from fedward.dashboard.sheet import Sheet
from fedward.server.records import MetricRow
from fedward.study.manifest import Manifest
from fedward.study.metrics import SMALL

JOINED = f"Neighbouring bins are joined until each has {SMALL} patients or more with the outcome and {SMALL} or more without."


def _sums(here: Here) -> counts.Sums | None:
    rows = here.reader.metrics(here.look, EVERYBODY)
    return counts.sums(here.look, here.reader.evaluation(here.look, rows[-1].version)) if rows else None


def sentence(here: Here) -> str:
    made = _sums(here)
    return views.sentence(here.look, here.reader.metrics(here.look, EVERYBODY), 0 if made is None else len(made.sites))


def lay_out(here: Here, sheet: Sheet) -> None:
    look, made = here.look, _sums(here)
    if not isinstance(look.manifest, Manifest):
        return
    metrics = here.reader.metrics(look, EVERYBODY)
    if made is None or not metrics:
        sheet.empty("No model has been evaluated yet: the manifest says after which rounds one is.")
        return
    sheet.figures(views.figures(metrics))
    sheet.heading("How it converges")
    by_round, gate = curve(metrics), look.manifest.gates.min_auroc
    sheet.chart(
        drawn(rounds.convergence, by_round, "AUROC", gate), rounds.convergence_words(by_round, "AUROC", gate), "AUROC by round",
        by_round, "auroc",
    )  # fmt: skip
    _curves(sheet, made, views.newest(metrics))
    sheet.heading("All metrics of the newest model that was evaluated")
    sheet.table("metrics", views.table(metrics), "metrics", open_=True)
    _sites(here, sheet)


def _curves(sheet: Sheet, made: counts.Sums, newest: dict[str, MetricRow]) -> None:
    at = counts.operating(made)

    def roc() -> None:
        frame, told = counts.roc(made), views.told(newest.get("auroc"))
        sheet.heading("ROC curve")
        sheet.chart(drawn(curves.roc, frame, at), curves.roc_words(frame, at, told), "ROC curve", frame, "roc")

    def precision() -> None:
        frame, told = counts.precision(made), views.told(newest.get("auprc"))
        sheet.heading("Precision and recall")
        sheet.chart(
            drawn(curves.precision, frame, at, counts.prevalence(made)), curves.precision_words(frame, at, told),
            "precision and recall", frame, "precision",
        )  # fmt: skip

    def reliability() -> None:
        frame = counts.reliability(made)
        sheet.heading("Reliability")
        sheet.chart(
            drawn(curves.reliability, frame), curves.reliability_words(frame), "reliability", frame, "reliability"
        )

    sheet.beside(roc, precision, reliability)
    noise = f" Each count carries noise of deviation {made.deviation:.1f}." if made.deviation else ""
    sheet.note(
        f"Held-out patients of {words.counted(len(made.sites), 'hospital', 'hospitals')}, after round {made.version}. "
        f"Called positive: scores from {made.threshold:g} on. {JOINED}{noise}"
    )


def _sites(here: Here, sheet: Sheet) -> None:
    sheet.heading("At each hospital, on its own held-out patients")
    found = here.reader.shared(here.look)
    frame = given.by_site(here.look, found)
    if found:
        told = dots.values_words(frame, "hospital", "AUROC")
        sheet.chart(drawn(dots.values, frame, "hospital", "AUROC"), told, "hospitals", frame, "hospitals")
        if not here.whole:
            sheet.note("What other hospitals gave away is not shown to your role.")
    else:
        sheet.inform(given.unshared(here.look), "lock")
    sheet.note(
        "A hospital whose policy allows it (share_metrics) gives a file that it signed, with “fedward site metrics DIGEST "
        "--release FILE”, and “fedward coordinator share” takes it in. These numbers carry no noise: no ε covers them. Alone: the "
        f"model that the hospital trained by itself. {views.COMPARED}"
    )
