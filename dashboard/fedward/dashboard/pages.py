"""The pages of a run: each answers one question with a sentence, one or two charts, and the tables behind. They only lay out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import streamlit as st

from fedward.dashboard import charts, gatekeeper, views, words
from fedward.dashboard.record import Record, Stamp, read, stamp
from fedward.dashboard.redaction import redacted_run
from fedward.dashboard.views import ALONE, FEDERATED, POOLED, UNATTACKED, UNTUNED, View
from fedward.privacy.errors import FedwardError

EVERY_S = 2
"""How often an open page looks whether its folder has changed."""
MOST = 20
"""Hospitals that a chart shows; the tables have all."""
_NO_PRIVACY = "A hospital's own model and the pooled one were trained without privacy."
_INTERVALS = "Intervals: 95%, of the mean over seeds."

Sentence = Callable[[Record, View], str]
LayOut = Callable[[Record, View], None]


def accuracy(folder: Path) -> None:
    """Does it work?"""
    _page(folder, views.accuracy_sentence, _accuracy)


def fairness(folder: Path) -> None:
    """For whom does it work less well?"""
    _page(folder, views.fairness_sentence, _fairness)


def provenance(folder: Path) -> None:
    """What was run, and can it be run again?"""
    _page(folder, views.provenance_sentence, _provenance, fewest=0)


@st.cache_data(max_entries=2, show_spinner="Reading the run's folder")
def _seen(folder: str, at: Stamp) -> tuple[Record, View]:  # noqa: ARG001 - the cache's key
    record = read(Path(folder))
    return record, views.view(record)


def _page(folder: Path, sentence: Sentence, lay_out: LayOut, fewest: int = 1) -> None:
    """A page of a folder that may change while it is looked at, or that may not be readable.

    `fewest`: the seeds without which there is nothing to lay out.
    """
    granted, at = gatekeeper.admitted(), stamp(folder)
    try:
        record, shown = redacted_run(*_seen(str(folder), at), granted)
    except FedwardError as error:
        tell(error)
        _watch(folder, at, None)
        return
    st.header(words.plain(_title(record)), anchor=False)
    st.subheader(words.plain(sentence(record, shown), 600), anchor=False)
    _watch(folder, at, None if record.finished else len(record.seeds))
    if len(record.seeds) >= fewest:
        lay_out(record, shown)
    st.caption(words.plain(views.privacy_sentence(record), 1000))


def _title(record: Record) -> str:
    study = record.study.get("study")
    return str(study.get("title") or study.get("id")) if isinstance(study, dict) else record.path.name


def tell(error: FedwardError) -> None:
    """What went wrong and what helps, as the command line says it."""
    st.error(words.plain(f"{error.what}.", 500), icon=":material/error:")
    for label, text in (("Expected", error.expected), ("Got", error.got)):
        if text:
            st.markdown(f"{label}: {words.plain(text, 500)}")
    if error.remedy:
        st.markdown("What helps:")
        st.code(words.one_line(error.remedy, 500), language=None, wrap_lines=True)


@gatekeeper.fragment(run_every=EVERY_S)
def _watch(folder: Path, at: Stamp, done: int | None) -> None:
    """Draws the page anew when the folder has changed, and says of an unfinished run since when nothing has come.

    Costs a few looks at the file system where nothing has. `done`: the seeds of an unfinished run, else None.
    """
    if stamp(folder) != at:
        st.rerun()
    if done is not None:
        seeds, since = words.counted(done, "seed is", "seeds are"), words.ago(time.time() - max(at) / 1e9)
        st.info(
            f"Not finished: {seeds} done, the last sign came {since}. The page follows by itself; a run that was broken "
            "off goes on with the same `fedward simulate`.",
            icon=":material/hourglass_top:",
        )


def _accuracy(_record: Record, shown: View) -> None:
    _figures(shown)
    levels = shown.models[shown.models["model"].isin([ALONE, POOLED, UNTUNED, UNATTACKED])].dropna(subset=["mean"])
    if not shown.curve.empty:
        _heading("How it converges")
        chart = charts.convergence(shown.curve, levels)
        _chart(chart, charts.convergence_words(shown.curve, levels))
    _heading("At each hospital, on its own held-out patients")
    gain = views.gain_sentence(shown)
    if gain:
        st.markdown(words.plain(gain, 400))
    hospitals, gains = _least(shown)
    title = "federated less own model"
    _pair(hospitals, gains, "hospital", title)
    st.caption(f"{_INTERVALS} {_NO_PRIVACY}{_left_out(shown)}")
    _table("All models, on everybody's held-out patients", "models", shown.models)
    _table("Hospitals: AUROC", "hospitals", shown.hospitals)
    _table("Hospitals: gain over the own model", "gains", shown.gains, signed=True)
    _table("Rounds", "rounds", shown.curve)
    for place, (name, frame) in enumerate(shown.extras.items()):
        _table(f"From the run's summary: {name}", f"summary-{place}", frame)


def _figures(shown: View) -> None:
    """The same in at most four figures, each with its interval."""
    labels = {FEDERATED: "Federated", ALONE: "Average hospital alone", POOLED: "Pooled, which privacy forbids"}
    for place, (model, label) in zip(st.columns(len(labels)), labels.items(), strict=True):
        place.metric(label, words.estimate(*views.row(shown.models, "model", model)))


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


def _fairness(_record: Record, shown: View) -> None:
    if not shown.groups.empty:
        _heading("By fairness group, held-out patients of all hospitals")
        order = {name: place for place, name in enumerate(dict.fromkeys(shown.groups["group"]))}
        gaps = shown.gaps.sort_values("group", key=lambda names: names.map(order))
        _pair(shown.groups, gaps, "group", "the group less everybody")
        st.caption(
            f"{_INTERVALS} Differences are paired by seed. {_NO_PRIVACY} Groups are those that the manifest names; "
            "a patient may be in several."
        )
        _table("Groups: AUROC", "groups", shown.groups)
        _table("Groups: difference from everybody", "group-gaps", shown.gaps, signed=True)
    if not shown.spreads.empty:
        _heading("Largest difference between the groups of an attribute")
        _chart(charts.dots(shown.spreads, "gap", "largest difference"), charts.dots_words(shown.spreads, "gap"))
        st.caption("A group without patients of an outcome is left out. Of noise alone gaps are above 0.")
        _table("Largest differences", "gaps", shown.spreads)


def _provenance(record: Record, _shown: View) -> None:
    study = record.study.get("study")
    if isinstance(study, dict) and study.get("description"):
        st.markdown(words.plain(study["description"], 2000))
    table = views.facts(record)
    st.dataframe(table, hide_index=True, height="content", alt="What was run, where, with which seeds")
    left, right = st.columns(2)
    left.download_button("Manifest (study.json)", _bytes(record.path / "study.json"), "study.json", on_click="ignore")
    right.download_button("This table (CSV)", views.csv(table), "run.csv", on_click="ignore")
    st.markdown("The same again, into a folder of its own:")
    engine = words.one_line(record.identity.get("engine"), 20)
    st.code(f"fedward simulate STUDY --engine {engine} --seeds {len(record.seeds)} --out DIR", language=None)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it was there when the page began
        return b""


def _heading(text: str) -> None:
    st.markdown(f"#### {text}")


def _pair(absolute: pd.DataFrame, relative: pd.DataFrame, kind: str, title: str) -> None:
    """AUROC and a difference of it, side by side: the same rows in the same order."""
    left, right = st.columns([3, 2])
    with left:
        _chart(charts.dots(absolute, kind, "AUROC"), charts.dots_words(absolute, kind))
    with right:
        rows = absolute["model"].nunique()
        _chart(charts.differences(relative, kind, title, rows), charts.differences_words(relative, kind, title))


def _chart(chart: charts.Chart, told: str) -> None:
    st.altair_chart(chart, alt=words.one_line(told, 3000))


def _table(title: str, file: str, frame: pd.DataFrame, signed: bool = False) -> None:
    """A table behind a click, with download. Undefined figures say so."""
    with st.expander(words.plain(title)):
        form = "%+.3f" if signed else "%.3f"
        digits = {
            name: st.column_config.NumberColumn(name, format=form if name != "deviation" else "%.3f")
            for name in ("mean", "low", "high", "deviation", "brier")
            if name in frame.columns
        }
        whole = (
            {"patients": st.column_config.NumberColumn("patients", format="%.0f")}
            if "patients" in frame.columns
            else {}
        )
        st.dataframe(frame, hide_index=True, column_config=digits | whole, placeholder=words.UNDEFINED, alt=title)
        st.download_button(
            "Download CSV", views.csv(frame), f"{file}.csv", "text/csv", key=f"csv-{file}", on_click="ignore"
        )
