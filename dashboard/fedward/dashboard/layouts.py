"""What stands on the pages of a simulated run, on whatever sheet. No Streamlit: the same layouts make pages and static report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fedward.dashboard import charts, views, words
from fedward.dashboard.record import Record
from fedward.dashboard.sheet import Sheet
from fedward.dashboard.views import ALONE, FEDERATED, POOLED, UNATTACKED, UNTUNED, View

MOST = 20
"""Hospitals that a chart shows; the tables have all."""
_NO_PRIVACY = "A hospital's own model and the pooled one were trained without privacy."
_INTERVALS = "Intervals: 95%, of the mean over seeds."
_DIFFERENCE = ("mean", "low", "high")


def title(record: Record) -> str:
    study = record.study.get("study")
    return str(study.get("title") or study.get("id")) if isinstance(study, dict) else record.path.name


def accuracy(_record: Record, shown: View, sheet: Sheet) -> None:
    _figures(shown, sheet)
    levels = shown.models[shown.models["model"].isin([ALONE, POOLED, UNTUNED, UNATTACKED])].dropna(subset=["mean"])
    if not shown.curve.empty:
        sheet.heading("How it converges")
        _chart(
            sheet,
            charts.convergence(shown.curve, levels),
            charts.convergence_words(shown.curve, levels),
            "AUROC by round",
        )
    sheet.heading("At each hospital, on its own held-out patients")
    gain = views.gain_sentence(shown)
    if gain:
        sheet.say(gain)
    hospitals, gains = _least(shown)
    _pair(sheet, hospitals, gains, "hospital", "federated less own model")
    sheet.note(f"{_INTERVALS} {_NO_PRIVACY}{_left_out(shown)}")
    sheet.table("All models, on everybody's held-out patients", shown.models, "models")
    sheet.table("Hospitals: AUROC", shown.hospitals, "hospitals")
    sheet.table("Hospitals: gain over the own model", shown.gains, "gains", signed=_DIFFERENCE)
    sheet.table("Rounds", shown.curve, "rounds")
    for place, (name, frame) in enumerate(shown.extras.items()):
        sheet.table(f"From the run's summary: {name}", frame, f"summary-{place}")


def _figures(shown: View, sheet: Sheet) -> None:
    """The same in at most four figures, each with its interval."""
    labels = {FEDERATED: "Federated", ALONE: "Average hospital alone", POOLED: "Pooled, which privacy forbids"}
    sheet.figures(
        [(label, words.estimate(*views.row(shown.models, "model", model)), "") for model, label in labels.items()]
    )


def _least(shown: View) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hospitals that charts show, in the order of their names: all, or those that gain least."""
    kept = set(shown.gains["hospital"][:MOST])
    order = {name: place for place, name in enumerate(dict.fromkeys(shown.hospitals["hospital"]))}
    gains = shown.gains[shown.gains["hospital"].isin(kept)]
    return shown.hospitals[shown.hospitals["hospital"].isin(kept)], gains.sort_values(
        "hospital", key=lambda x: x.map(order)
    )


def _left_out(shown: View) -> str:
    number = len(shown.gains)
    return f" Charts show the {MOST} of {number} hospitals that gain least; the table has all." if number > MOST else ""


def fairness(_record: Record, shown: View, sheet: Sheet) -> None:
    if not shown.groups.empty:
        sheet.heading("By fairness group, held-out patients of all hospitals")
        order = {name: place for place, name in enumerate(dict.fromkeys(shown.groups["group"]))}
        gaps = shown.gaps.sort_values("group", key=lambda names: names.map(order))
        _pair(sheet, shown.groups, gaps, "group", "the group less everybody")
        sheet.note(
            f"{_INTERVALS} Differences are paired by seed. {_NO_PRIVACY} Groups are those that the manifest names; "
            "a patient may be in several."
        )
        sheet.table("Groups: AUROC", shown.groups, "groups")
        sheet.table("Groups: difference from everybody", shown.gaps, "group-gaps", signed=_DIFFERENCE)
    if not shown.spreads.empty:
        sheet.heading("Largest difference between the groups of an attribute")
        drawing, told = charts.dots(shown.spreads, "gap", "largest difference"), charts.dots_words(shown.spreads, "gap")
        _chart(sheet, drawing, told, "largest difference")
        sheet.note("A group without patients of an outcome is left out. Of noise alone gaps are above 0.")
        sheet.table("Largest differences", shown.spreads, "gaps")


def provenance(record: Record, _shown: View, sheet: Sheet) -> None:
    study = record.study.get("study")
    if isinstance(study, dict) and study.get("description"):
        sheet.say(str(study["description"]))
    sheet.table("What was run, where, with which seeds", views.facts(record), "run", open_=True)
    sheet.download("Manifest (study.json)", _bytes(record.path / "study.json"), "study.json")
    engine = words.one_line(record.identity.get("engine"), 20)
    sheet.command(
        "The same again, into a folder of its own:",
        f"fedward simulate STUDY --engine {engine} --seeds {len(record.seeds)} --out DIR",
    )


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it was there when the page began
        return b""


def _pair(sheet: Sheet, absolute: pd.DataFrame, relative: pd.DataFrame, kind: str, title: str) -> None:
    """AUROC and a difference of it, side by side: the same rows in the same order."""

    def left() -> None:
        _chart(sheet, charts.dots(absolute, kind, "AUROC"), charts.dots_words(absolute, kind), f"AUROC by {kind}")

    def right() -> None:
        rows = absolute["model"].nunique()
        told = charts.differences_words(relative, kind, title)
        _chart(sheet, charts.differences(relative, kind, title, rows), told, f"AUROC: {title}")

    sheet.beside(left, right, shares=(3, 2))


def _chart(sheet: Sheet, drawing: charts.Chart, told: str, title: str) -> None:
    """A chart whose table stands below, with those of the page."""
    sheet.chart(drawing.to_dict(), told, title, None, "")
