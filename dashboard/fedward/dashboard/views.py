"""What a run's folder comes to, as plain frames and sentences: no page, no chart, no clock.

Means over seeds have 95% bootstrap intervals; differences are paired by seed. NaN means undefined: a figure that no seed has,
or the interval of a single one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.dashboard import words
from fedward.dashboard.record import Record
from fedward.study.bootstrap import interval
from fedward.study.terms import privacy_words

FEDERATED, POOLED, ALONE, OWN = "federated", "pooled", "alone, mean", "own model"
UNTUNED, UNATTACKED = "federated, before fine-tuning", "federated, nobody attacking"
SERIES = (FEDERATED, OWN, POOLED, ALONE, UNTUNED, UNATTACKED)
"""The order of legends and colours, on every page."""

_EVERYBODY, _SITE, _PREFIX = "everybody", "site=", "alone:"
_FIGURES = ("mean", "low", "high", "deviation", "seeds")
_ABSENT = frozenset({"suppressed", "not shared"})
"""Words of a column `shown` that say why a row has no figures."""
_KNOWN = frozenset({"seeds", "diverged", "auroc", "gain_over_own_model", "fairness_gap"})


@dataclass(frozen=True)
class View:
    """Everything that the pages show of a run.

    Attributes:
        models: model, mean, low, high, deviation, seeds, brier: AUROC on everybody; hospitals' own models after the others.
        lead: "alone, mean" and "pooled": the federated model's AUROC less theirs, paired.
        curve: round, mean, low, high, deviation, seeds: the federated model's AUROC on everybody.
        hospitals: hospital, patients, model, and the figures: AUROC on a hospital's own held-out patients.
        gains: hospital, patients, and the figures: federated less own model there, paired; the least first.
        groups: attribute, group, patients, model, and the figures.
        gaps: attribute, group, patients, and the figures: a group's AUROC less everybody's, federated, paired; the least first.
        spreads: gap, model, patients, and the figures: how far an attribute's groups lie apart; of a finished run.
        extras: the summary's other tables, by name.
        hidden: hospitals whose rows were taken out, as whoever looks does not see them; see `redaction`.
    """

    models: pd.DataFrame
    lead: pd.DataFrame
    curve: pd.DataFrame
    hospitals: pd.DataFrame
    gains: pd.DataFrame
    groups: pd.DataFrame
    gaps: pd.DataFrame
    spreads: pd.DataFrame
    extras: Mapping[str, pd.DataFrame]
    hidden: int = 0


def view(record: Record) -> View:
    """All frames of a run; those of a run without a finished seed are empty."""
    everybody, parts = _everybody(record.scores), _parts(record.scores)
    return View(
        models=models(record.scores, everybody),
        lead=_lead(everybody),
        curve=_curve(record),
        hospitals=_sliced(parts[parts["slice"].str.startswith(_SITE)], "hospital"),
        gains=_gains(parts),
        groups=_named(_sliced(parts[~parts["slice"].str.startswith(_SITE)], "group")),
        gaps=_named(_gaps(parts, everybody)),
        spreads=_spreads(record.summary),
        extras=extras(record.summary),
    )


def models(scores: pd.DataFrame, everybody: pd.DataFrame) -> pd.DataFrame:
    """Every model's AUROC and Brier score on all held-out patients."""
    one_by_one = scores[scores["slice"] == _EVERYBODY]
    all_of_them = pd.concat([everybody[everybody["model"] == ALONE], one_by_one], ignore_index=True)
    rows = [
        {"model": str(name), **_mean(part["auroc"]), "brier": _plain_mean(part["brier"])}
        for name, part in all_of_them.groupby("model")
    ]
    order = {FEDERATED: 0, ALONE: 1, POOLED: 2}
    rows.sort(key=lambda row: (order.get(str(row["model"]), 3), str(row["model"])))
    return pd.DataFrame(rows, columns=["model", *_FIGURES, "brier"])


def extras(summary: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """What a summary holds beside the known: lists of objects as tables, single figures together in one."""
    found: dict[str, pd.DataFrame] = {}
    single: list[dict[str, object]] = []
    for name, value in summary.items():
        if name in _KNOWN:
            continue
        rows = _rows(value)
        if rows:
            found[words.one_line(name.replace("_", " "), 60)] = pd.json_normalize(rows)
        elif isinstance(value, (str, int, float)):
            single.append({"figure": words.one_line(name.replace("_", " "), 60), "value": str(value)})
    return found | ({"other figures": pd.DataFrame(single)} if single else {})


def _spreads(summary: Mapping[str, Any]) -> pd.DataFrame:
    """The summary's gaps, named as people say them: "sex: equalized odds"."""
    columns = ["gap", "model", "patients", *_FIGURES]
    frame = pd.json_normalize(_rows(summary.get("fairness_gap", []))).rename(columns={"slice": "gap"})
    if not set(columns) <= set(frame.columns):
        return pd.DataFrame(columns=columns)
    numbers = frame[["patients", *_FIGURES]].apply(pd.to_numeric, errors="coerce")
    names = frame[["gap", "model"]].astype(str)
    found: pd.DataFrame = pd.concat([names.assign(gap=names["gap"].str.replace("_", " ")), numbers], axis=1)
    return found


def _rows(value: object) -> list[dict[str, Any]]:
    """A table's rows out of a list of objects, or an object of objects or figures; none else."""
    if isinstance(value, list):
        return [{str(key): cell for key, cell in row.items()} for row in value if isinstance(row, dict)]
    if not isinstance(value, dict):
        return []
    return [{"name": str(key), **(row if isinstance(row, dict) else {"value": row})} for key, row in value.items()]


def _everybody(scores: pd.DataFrame) -> pd.DataFrame:
    """seed, model, auroc, brier on all held-out patients, with the hospitals' mean in each seed."""
    return _with_alone(scores[scores["slice"] == _EVERYBODY])


def _parts(scores: pd.DataFrame) -> pd.DataFrame:
    """seed, model, slice, patients, auroc: at a hospital its own model's, in a group the mean over hospitals' models."""
    sites, elsewhere = _masks(scores)
    at_home = scores["model"].str.startswith(_PREFIX) & (
        scores["model"].str.removeprefix(_PREFIX) == scores["slice"].str.removeprefix(_SITE)
    )
    own = scores[sites & at_home].assign(model=OWN)
    shared = ~scores["model"].str.startswith(_PREFIX)
    return pd.concat([scores[sites & shared], own, _with_alone(scores[elsewhere])], ignore_index=True)


def _masks(scores: pd.DataFrame) -> tuple[pd.Series[bool], pd.Series[bool]]:
    sites = scores["slice"].str.startswith(_SITE)
    return sites, ~sites & (scores["slice"] != _EVERYBODY)


def _with_alone(scores: pd.DataFrame) -> pd.DataFrame:
    alone = scores["model"].str.startswith(_PREFIX)
    keys = ["seed", "slice"]
    mean = scores[alone].groupby(keys, sort=False, as_index=False)[["patients", "auroc", "brier"]].mean()
    return pd.concat([scores[~alone], mean.assign(model=ALONE)], ignore_index=True)


def _mean(values: Sequence[float] | pd.Series[float] | NDArray[np.float64]) -> dict[str, float]:
    """The figures of a mean over seeds, as `fedward.simulations.simulate.Summary` has them."""
    array = np.asarray(values, dtype=np.float64)
    known = array[np.isfinite(array)]
    if len(known) < 2:
        mean = float(known[0]) if len(known) else math.nan
        return dict(zip(_FIGURES, (mean, math.nan, math.nan, math.nan, len(known)), strict=True))
    return dict(
        zip(_FIGURES, (float(known.mean()), *interval(known), float(known.std(ddof=1)), len(known)), strict=True)
    )


def _plain_mean(values: pd.Series[float]) -> float:
    return float(values.mean()) if values.notna().any() else math.nan


def _paired(ours: pd.Series[float], theirs: pd.Series[float]) -> dict[str, float]:
    """The figures of a difference by seed; both indexed by seed."""
    return _mean(ours.sub(theirs).dropna())


def _by_seed(scores: pd.DataFrame, model: str) -> pd.Series[float]:
    return scores[scores["model"] == model].set_index("seed")["auroc"]


def _lead(everybody: pd.DataFrame) -> pd.DataFrame:
    ours = _by_seed(everybody, FEDERATED)
    rows = [{"model": other, **_paired(ours, _by_seed(everybody, other))} for other in (ALONE, POOLED)]
    return pd.DataFrame(rows, columns=["model", *_FIGURES])


def _curve(record: Record) -> pd.DataFrame:
    """Without the curves that broke off: their last rounds would have fewer seeds than the first."""
    whole = record.curve[~record.curve["seed"].isin(record.diverged)]
    rows = [{"round": int(str(number)), **_mean(part["auroc"])} for number, part in whole.groupby("round")]
    return pd.DataFrame(rows, columns=["round", *_FIGURES])


def _sliced(scores: pd.DataFrame, kind: str) -> pd.DataFrame:
    rows = []
    sizes = _sizes(scores)
    for (part, model), found in scores.groupby(["slice", "model"], sort=False):
        name = str(part).removeprefix(_SITE) if kind == "hospital" else str(part)
        rows.append({kind: name, "patients": sizes[str(part)], "model": str(model), **_mean(found["auroc"])})
    return pd.DataFrame(rows, columns=[kind, "patients", "model", *_FIGURES])


def _sizes(scores: pd.DataFrame) -> dict[str, float]:
    """Held-out patients of each slice: the mean over seeds."""
    per_seed = scores.drop_duplicates(["seed", "slice"])
    return {str(part): float(size) for part, size in per_seed.groupby("slice")["patients"].mean().items()}


def _gains(parts: pd.DataFrame) -> pd.DataFrame:
    rows = []
    at_sites = parts[parts["slice"].str.startswith(_SITE)]
    sizes = _sizes(at_sites)
    for part, found in at_sites.groupby("slice", sort=False):
        figures = _paired(_by_seed(found, FEDERATED), _by_seed(found, OWN))
        rows.append({"hospital": str(part).removeprefix(_SITE), "patients": sizes[str(part)], **figures})
    frame = pd.DataFrame(rows, columns=["hospital", "patients", *_FIGURES])
    return frame.sort_values("mean", kind="stable", ignore_index=True)


def _gaps(parts: pd.DataFrame, everybody: pd.DataFrame) -> pd.DataFrame:
    rows = []
    groups = parts[~parts["slice"].str.startswith(_SITE)]
    sizes, whole = _sizes(groups), _by_seed(everybody, FEDERATED)
    for part, found in groups.groupby("slice", sort=False):
        rows.append({"group": str(part), "patients": sizes[str(part)], **_paired(_by_seed(found, FEDERATED), whole)})
    frame = pd.DataFrame(rows, columns=["group", "patients", *_FIGURES])
    return frame.sort_values("mean", kind="stable", ignore_index=True)


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Groups as people say them, with the attribute that they are a part of."""
    frame.insert(0, "attribute", [words.attribute(name) for name in frame["group"]])
    frame["group"] = [words.group(name) for name in frame["group"]]
    return frame


def row(frame: pd.DataFrame, column: str, name: str) -> tuple[float, float, float]:
    """Mean, low and high of a row; NaN where there is none."""
    found = frame[frame[column] == name]
    if found.empty:
        return math.nan, math.nan, math.nan
    return float(found["mean"].iloc[0]), float(found["low"].iloc[0]), float(found["high"].iloc[0])


def accuracy_sentence(record: Record, shown: View) -> str:
    """Does it work? The federated model beside the average hospital alone and the pool."""
    if not record.seeds:
        return "No seed is done yet."
    mean, low, high = row(shown.models, "model", FEDERATED)
    over = words.counted(len(record.seeds) - len(record.diverged), "seed", "seeds")
    if not math.isfinite(mean):
        return f"No federated AUROC: {_diverged(record)}" if record.diverged else "The federated AUROC is undefined."
    attacked = adversaries(record)
    under = f" while {words.listed(attacked, 4)}" if attacked else ""
    said = [f"Federated AUROC {words.estimate(mean, low, high)} over {over}{under}"]
    for other, name in ((ALONE, "the average hospital alone"), (POOLED, "the pool that privacy forbids")):
        lead = row(shown.lead, "model", other)
        if math.isfinite(lead[0]):
            said.append(f"{words.difference(*lead)} {'over' if lead[0] > 0 else 'against'} {name}")
    return "; ".join(said) + "." + (f" {_diverged(record)}" if record.diverged else "")


def adversaries(record: Record) -> list[str]:
    """Who attacks, and how: "va attacks (sign-flip)"."""
    found = record.options.get("adversaries")
    rows = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return [f"{one.get('site')} attacks ({one.get('attack')})" for one in rows]


def _diverged(record: Record) -> str:
    studies = words.counted(len(record.diverged), "study", "studies")
    return (
        f"{studies} did not stay finite (seeds {words.listed([str(one) for one in record.diverged])}): lower the rates."
    )


def gain_sentence(shown: View) -> str:
    """How many hospitals the study is worth joining for, on their own patients."""
    if shown.hidden:
        return f"{words.counted(shown.hidden, 'other hospital is', 'other hospitals are')} not shown to you."
    known = shown.gains.dropna(subset=["mean"])
    if known.empty:
        return ""
    sure = known.dropna(subset=["low"])
    if sure.empty:
        return "One seed gives no interval: more seeds tell which hospitals gain over their own model."
    more, less = int((sure["low"] > 0).sum()), int((sure["high"] < 0).sum())
    said = f"On their own patients {more} of {len(sure)} hospitals gain over their own model, {less} lose"
    return f"{said}; for {len(sure) - more - less} the interval holds zero."


def fairness_sentence(_record: Record, shown: View) -> str:
    """For whom does it work less well? The group whose AUROC is farthest below everybody's."""
    known = shown.gaps.dropna(subset=["mean"])
    if known.empty:
        return "The study names no fairness groups, or no seed is done yet."
    worst = known.iloc[0]
    told = words.difference(float(worst["mean"]), float(worst["low"]), float(worst["high"]))
    if worst["mean"] >= 0:
        return "No group's AUROC is below that of all held-out patients."
    if not math.isfinite(worst["low"]):
        return f"Lowest AUROC beside everybody's: {worst['group']}, {told}; one seed gives no interval."
    sure = "" if worst["high"] < 0 else " The interval holds zero."
    return f"Lowest AUROC beside everybody's: {worst['group']}, {told}.{sure}"


def provenance_sentence(record: Record, _shown: View) -> str:
    """How much was run, and what fixes it."""
    done = words.counted(len(record.seeds), "seed is", "seeds are")
    engine = record.identity.get("engine")
    return f"{done} done with the {engine} engine; manifest, patients, seed, engine and machine fix every number."


def privacy_sentence(record: Record) -> str:
    """ε with the words that it means nothing without."""
    manifest = record.manifest()
    if manifest is None:
        return "This version of Fedward cannot read the study's privacy terms: see study.json in the folder."
    privacy = manifest.privacy
    if privacy.epsilon is None:
        return "The study trains without differential privacy: it promises patients nothing."
    return f"ε at most {privacy.epsilon:g} at δ = {privacy.delta:g}, were it real: {privacy_words(manifest)}."


def facts(record: Record) -> pd.DataFrame:
    """What was run, where, with which seeds: columns "what" and "is"."""
    manifest = record.manifest()
    rows = [("folder", str(record.path)), ("study digest", str(record.identity.get("manifest", "")))]
    if manifest is not None:
        rows[:0] = [
            ("study", manifest.study.id),
            ("outcome", manifest.outcome.column),
            ("model", manifest.model.name),
            ("algorithm", manifest.training.algorithm),
            ("rounds", str(manifest.training.rounds)),
            ("held out", f"{manifest.training.holdout:.0%} of each hospital's patients"),
        ]
    rows += [
        ("patients' digest", str(record.identity.get("patients", ""))),
        ("engine", str(record.identity.get("engine", ""))),
        ("seeds done", f"{len(record.seeds)}: {words.listed([str(one) for one in record.seeds], 20)}"),
        ("adversaries", words.listed(adversaries(record)) or "none"),
        ("decision threshold", str(record.options.get("threshold", ""))),
        ("diverged", words.listed([str(one) for one in record.diverged], 20) or "none"),
        ("finished", "yes" if record.finished else "no"),
    ]
    rows += [(str(name), str(value)) for name, value in record.environment.items() if not isinstance(value, dict)]
    packages = record.environment.get("packages")
    if isinstance(packages, dict):
        rows += [(str(name), str(value)) for name, value in packages.items()]
    return pd.DataFrame(
        [(words.one_line(what, 60), words.one_line(value)) for what, value in rows], columns=["what", "is"]
    )


def csv(frame: pd.DataFrame) -> bytes:
    """A table to download; text that a spreadsheet would compute is quoted, as its names come from files."""
    safe = frame.copy()
    for name in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[name]):
            safe[name] = [
                f"'{cell}" if str(cell)[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell for cell in safe[name]
            ]
    return safe.to_csv(index=False).encode()


def printed(frame: pd.DataFrame, signed: Sequence[str] = ()) -> pd.DataFrame:
    """A frame as text: three digits where there are any, none of a column of whole numbers, and a figure that is missing says why:
    what the row's column `shown` says of it ("suppressed", "not shared"), else that it is undefined.

    `signed`: the columns that are differences, and show their sign.
    """
    why = list(frame["shown"]) if "shown" in frame else [words.UNDEFINED] * len(frame)
    absent = [word if word in _ABSENT else words.UNDEFINED for word in why]
    shown = frame.copy()
    for name in shown.columns:
        form = ("{:+.3f}" if name in signed else "{:.3f}") if fractional(shown[name]) else "{:.0f}"
        numbers = pd.api.types.is_numeric_dtype(shown[name])
        shown[name] = [
            (word if pd.isna(cell) else form.format(cell)) if numbers else str(cell)
            for cell, word in zip(shown[name], absent, strict=True)
        ]
    return shown


def fractional(column: pd.Series[float]) -> bool:
    """Whether a column holds numbers with digits after the point."""
    known = column.dropna()
    return bool(pd.api.types.is_float_dtype(column)) and not bool((known == known.round()).all())
