"""The twenty studies on the four heart hospitals that the utility figures share: the same splits, the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.utility_page import Row
from fedward.simulations.baselines import UnsafeSeededDraws, pool, predict
from fedward.simulations.expected import Trials, summarise
from fedward.simulations.folders import read_hospitals
from fedward.simulations.stacked import federate_stacked
from fedward.study.encoding import Encoded, group_names
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest, SealedManifest, load
from fedward.study.metrics import exact_auroc
from fedward.study.vectors import Vector

SEEDS = range(20)
DELTA = 1e-3


@dataclass(frozen=True)
class Heart:
    """The study, its hospitals' sizes, and the twenty studies' patients."""

    manifest: Manifest
    sizes: Mapping[str, int]
    trials: Trials

    def areas(self, models: Sequence[Vector]) -> tuple[NDArray[np.float64], dict[str, float]]:
        """AUROC of one model a study on all its held-out patients, shape (20,); and, by hospital and group, their means."""
        everybody: list[float] = []
        parts: dict[str, list[float]] = {}
        for model, splits in zip(models, self.trials.splits, strict=True):
            tables = {site: part.held_out for site, part in splits.items()}
            together = pool(tables.values())
            everybody.append(_area(self.manifest, model, together))
            for index, name in enumerate(group_names(self.manifest)):
                tables[name] = together.select(together.membership[:, index])
            for name, data in tables.items():
                parts.setdefault(name, []).append(_area(self.manifest, model, data))
        return np.array(everybody), {name: float(np.nanmean(values)) for name, values in parts.items()}

    def trained(self, setting: SealedManifest, study: int | None = None) -> list[Vector]:
        """The last model of a setting in every study, or in one alone."""
        chosen = range(len(SEEDS)) if study is None else [study]
        draws = [UnsafeSeededDraws(SEEDS[index]) for index in chosen]
        models = federate_stacked([setting], [self.trials.training[index] for index in chosen], draws)
        return [model[0] for model in models]

    def row(
        self, kind: str, models: Sequence[Vector], target: float | None = None, schedule: str = "", sigma: str = ""
    ) -> Row:
        """A line of the table."""
        areas, parts = self.areas(models)
        return Row(kind, target, schedule, sigma, summarise(areas), parts)


@cache
def heart() -> Heart:
    """The example study on its four hospitals."""
    manifest = load(heart_folder() / "study.toml")
    public = read_hospitals(heart_folder(), manifest)
    sizes = {site: len(data) for site, data in public.items()}
    return Heart(manifest, sizes, Trials(public, sizes, manifest.training.holdout, SEEDS))


def _area(manifest: Manifest, model: Vector, data: Encoded) -> float:
    """AUROC on raw scores, NaN where one outcome is absent."""
    found = exact_auroc(predict(manifest, model, data), data.outcomes)
    return float("nan") if found is None else found.value
