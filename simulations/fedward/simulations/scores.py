"""How simulated models do: scores of one study, and their summaries over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.simulations.baselines import Split, pool
from fedward.study.bootstrap import interval
from fedward.study.encoding import Encoded, group_names
from fedward.study.manifest import Manifest
from fedward.study.metrics import exact_auroc
from fedward.study.metrics.intervals import attribute_slices

FEDERATED, POOLED, ALONE = "federated", "pooled", "alone:"
UNTUNED = "federated, before fine-tuning"
UNATTACKED = "federated, nobody attacking"
EVERYBODY = "everybody"
GAPS = ("auroc", "equalized_odds", "equal_opportunity", "demographic_parity")


@dataclass(frozen=True)
class Score:
    """How a model does on some held-out patients.

    Attributes:
        model: "federated", "pooled", or "alone:NAME" for a hospital's own.
        slice: "everybody", "site=NAME", or a fairness group as the manifest names it.
        patients: how many.
        positives: how many of them have the outcome.
        auroc: NaN where one outcome is absent.
        brier: the mean squared error of the probabilities; NaN where there is nobody.
        sensitivity: of those with the outcome, the share called positive; NaN where there is none.
        specificity: of those without it, the share that is not; NaN where there is none.
        selected: of all, the share called positive; NaN where there is nobody.
    """

    model: str
    slice: str
    patients: int
    positives: int
    auroc: float
    brier: float
    sensitivity: float = math.nan
    specificity: float = math.nan
    selected: float = math.nan


@dataclass(frozen=True)
class Unseen:
    """Held-out patients: everybody's last encounters, and which rows belong to which slice."""

    everybody: Encoded
    slices: Mapping[str, NDArray[np.bool_]]

    @classmethod
    def of(cls, manifest: Manifest, splits: Mapping[str, Split]) -> Unseen:
        """The held-out patients of all hospitals."""
        tables = {site: part.held_out.last_encounters() for site, part in splits.items()}
        owners = np.repeat(np.arange(len(tables)), [len(data.outcomes) for data in tables.values()])
        together = pool(tables.values())
        slices = {EVERYBODY: np.ones(len(together.outcomes), dtype=np.bool_)}
        slices |= {f"site={site}": owners == place for place, site in enumerate(tables)}
        slices |= {group: together.membership[:, place] for place, group in enumerate(group_names(manifest))}
        return cls(together, slices)

    def auroc(self, probabilities: NDArray[np.float64]) -> float:
        """On everybody; NaN where they have one outcome."""
        return auroc_of(probabilities, self.everybody.outcomes)

    def scores(self, name: str, probabilities: NDArray[np.float64], threshold: float) -> list[Score]:
        """A model's on every slice, from everybody's probabilities, shape (n,)."""
        outcomes = self.everybody.outcomes
        return [
            _score(name, part, probabilities[mask], outcomes[mask], threshold) for part, mask in self.slices.items()
        ]


def _score(
    model: str, part: str, probabilities: NDArray[np.float64], outcomes: NDArray[np.float32], threshold: float
) -> Score:
    called, ill = probabilities >= threshold, outcomes == 1
    return Score(
        model,
        part,
        len(outcomes),
        int(outcomes.sum()),
        auroc_of(probabilities, outcomes),
        _mean((probabilities - outcomes) ** 2),
        _mean(called[ill]),
        _mean(~called[~ill]),
        _mean(called),
    )


def auroc_of(probabilities: NDArray[np.float64], outcomes: NDArray[np.float32]) -> float:
    """NaN where one outcome is absent."""
    found = exact_auroc(probabilities, outcomes)
    return math.nan if found is None else found.value


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


@dataclass(frozen=True)
class Summary:
    """A figure over seeds: its mean with the mean's 95% interval, and the deviation from study to study; NaN where unknown.

    Attributes:
        model: as in `Score`; "alone, mean" is the mean over hospitals' own models in each study.
        slice: as in `Score`; of a gap, the attribute and what differs, such as "sex: auroc".
        patients: held-out patients, their mean over seeds.
        seeds: how many studies have the figure.
    """

    model: str
    slice: str
    patients: float
    mean: float
    low: float
    high: float
    deviation: float
    seeds: int


def summarise_scores(studies: Sequence[Sequence[Score]]) -> list[Summary]:
    """The AUROC of every model on every slice, from each study's scores."""
    values: dict[tuple[str, str], list[float]] = {}
    patients: dict[str, list[int]] = {}
    for scores in studies:
        alone: dict[str, list[float]] = {}
        for score in scores:
            values.setdefault((score.model, score.slice), []).append(score.auroc)
            patients.setdefault(score.slice, []).append(score.patients)
            if score.model.startswith(ALONE):
                alone.setdefault(score.slice, []).append(score.auroc)
        for part, areas in alone.items():
            known = [area for area in areas if not math.isnan(area)]
            values.setdefault(("alone, mean", part), []).append(float(np.mean(known)) if known else math.nan)
    return [summary_of(model, part, patients[part], areas) for (model, part), areas in values.items()]


def site_gains(studies: Sequence[Sequence[Score]]) -> list[Summary]:
    """What each hospital gains on its own patients: the federated model's AUROC less that of its own model, paired by study."""
    found: dict[str, list[float]] = {}
    patients: dict[str, list[int]] = {}
    for scores in studies:
        areas = {(score.model, score.slice): score for score in scores}
        for (model, part), own in areas.items():
            ours = areas.get((FEDERATED, part))
            if ours is not None and model.startswith(ALONE) and part == f"site={model.removeprefix(ALONE)}":
                found.setdefault(part, []).append(ours.auroc - own.auroc)
                patients.setdefault(part, []).append(own.patients)
    return [summary_of("gain", part, patients[part], values) for part, values in found.items()]


def group_gaps(manifest: Manifest, studies: Sequence[Sequence[Score]]) -> list[Summary]:
    """How far the groups of each fairness attribute lie apart, by model but for hospitals' own: see `gaps_of`."""
    names = ("", *group_names(manifest))
    found: dict[tuple[str, str], list[float]] = {}
    numbers: dict[tuple[str, str], list[int]] = {}
    for scores in studies:
        by = {(score.model, score.slice): score for score in scores if not score.model.startswith(ALONE)}
        for model in dict.fromkeys(name for name, _ in by):
            for attribute, places in attribute_slices(manifest).items():
                groups = [by[model, names[place]] for place in places]
                for kind, gap in gaps_of(groups).items():
                    found.setdefault((model, f"{attribute}: {kind}"), []).append(gap)
                    numbers.setdefault((model, f"{attribute}: {kind}"), []).append(sum(one.patients for one in groups))
    return [summary_of(model, part, numbers[model, part], gaps) for (model, part), gaps in found.items()]


def gaps_of(groups: Sequence[Score]) -> dict[str, float]:
    """The largest difference between groups in AUROC, in sensitivity or specificity (equalized odds), in sensitivity (equal
    opportunity; both Hardt, Price & Srebro 2016), and in the share called positive (demographic parity).

    A group in which a rate is not defined, for nobody has that outcome, is left out of it; NaN where fewer than two are left.
    """
    spreads = {
        "auroc": _spread([one.auroc for one in groups]),
        "sensitivity": _spread([one.sensitivity for one in groups]),
        "specificity": _spread([one.specificity for one in groups]),
        "selected": _spread([one.selected for one in groups]),
    }
    odds = (spreads["sensitivity"], spreads["specificity"])
    found = (spreads["auroc"], math.nan if any(map(math.isnan, odds)) else max(odds), odds[0], spreads["selected"])
    return dict(zip(GAPS, found, strict=True))


def _spread(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return max(known) - min(known) if len(known) > 1 else math.nan


def summary_of(model: str, part: str, patients: Sequence[int], values: Sequence[float]) -> Summary:
    """A figure's summary from its value in each study."""
    known = np.array([value for value in values if not math.isnan(value)])
    number = float(np.mean(patients))
    if len(known) < 2:
        mean = float(known[0]) if len(known) else math.nan
        return Summary(model, part, number, mean, math.nan, math.nan, math.nan, len(known))
    return Summary(model, part, number, float(known.mean()), *interval(known), float(known.std(ddof=1)), len(known))
