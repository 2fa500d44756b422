"""What AUROC a study may expect: simulated on public data, scored on all held-out patients of all hospitals together."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedward.client.datasets import declared
from fedward.privacy.errors import FedwardError, InputError
from fedward.simulations.baselines import Split, UnsafeSeededDraws, pool, predict, split
from fedward.simulations.rounds import federate
from fedward.simulations.stacked import federate_stacked, predict_stacked, stackable
from fedward.study.bootstrap import interval
from fedward.study.encoding import Encoded
from fedward.study.manifest import SealedManifest
from fedward.study.metrics import exact_auroc


@dataclass(frozen=True)
class Expected:
    """AUROC over seeds: its mean with a 95% interval of that mean, and the deviation of a single study."""

    mean: float
    low: float
    high: float
    deviation: float
    seeds: int


def summarise(areas: Sequence[float] | NDArray[np.float64]) -> Expected:
    """Mean and its percentile bootstrap interval over seeds (Efron 1979), the resamples fixed.

    Raises:
        InputError: fewer than two values, or one is no number: that study diverged.
    """
    values = np.asarray(areas, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise InputError(
            "the simulated studies give no figure",
            expected="at least two, each with a finite model",
            got=f"{int(np.isfinite(values).sum())} of {len(values)}",
            remedy="simulate more seeds, or lower training.server_learning_rate",
        )
    return Expected(float(values.mean()), *interval(values), float(values.std(ddof=1)), len(values))


@dataclass(frozen=True)
class Trials:
    """Studies to simulate: public hospitals' patients, planned hospitals' sizes, and one seed for each study.

    Every seed draws the held-out patients anew, and the noise. A planned hospital of another size than the public one has its
    training patients drawn with replacement; more hospitals than public ones take them in turn. Held-out patients are those
    of the public hospitals, each once.

    Attributes:
        public: the hospitals' patients.
        patients: each planned hospital's registered patients.
        holdout: the share that never trains.
        seeds: one a study.
    """

    public: Mapping[str, Encoded]
    patients: Mapping[str, int]
    holdout: float
    seeds: Sequence[int]

    def shifted(self, by: int) -> Trials:
        """As many studies with other seeds."""
        return replace(self, seeds=[seed + by for seed in self.seeds])

    def fast(self, sealed: SealedManifest) -> bool:
        """Whether hundreds of such studies take seconds."""
        return stackable([sealed], self.training)

    @cached_property
    def splits(self) -> list[dict[str, Split]]:
        """Each study's public hospitals, split."""
        return [
            {site: split(data, self.holdout, split_key(seed, site)) for site, data in sorted(self.public.items())}
            for seed in self.seeds
        ]

    @cached_property
    def training(self) -> list[dict[str, Encoded]]:
        """Each study's training patients at the planned hospitals."""
        return [self._planned(seed, splits) for seed, splits in zip(self.seeds, self.splits, strict=True)]

    @cached_property
    def unseen(self) -> list[Encoded]:
        """Each study's held-out patients of all hospitals."""
        return [pool(one.held_out for one in splits.values()) for splits in self.splits]

    def _planned(self, seed: int, splits: Mapping[str, Split]) -> dict[str, Encoded]:
        found = {}
        names = list(splits)
        for index, (site, number) in enumerate(sorted(self.patients.items())):
            source = site if site in splits else names[index % len(names)]
            data = splits[source].training
            if site != source or declared(number) != declared(len(self.public[source])):
                data = _drawn(data, max(1, round(number * (1 - self.holdout))), np.random.default_rng((seed, index)))
            found[site] = data
        return found

    def run(
        self, settings: Sequence[SealedManifest], report: Callable[[str], None] = lambda _line: None
    ) -> NDArray[np.float64]:
        """AUROC of every setting in every study, shape (settings, seeds); NaN where training did not stay finite.

        `report` is told of each study where one takes seconds.

        Raises:
            InputError: the settings' roster is not the planned hospitals, or held-out patients have one outcome only.
        """
        draws = [UnsafeSeededDraws(seed) for seed in self.seeds]
        found = np.full((len(settings), len(self.seeds)), math.nan)
        if stackable(settings, self.training):
            models = federate_stacked(settings, self.training, draws)
            for study, unseen in enumerate(self.unseen):
                for setting, scores in enumerate(predict_stacked(models[study], unseen.inputs)):
                    found[setting, study] = area(scores, unseen)
            return found
        for setting, sealed in enumerate(settings):
            for study, seed in enumerate(self.seeds):
                report(f"simulated study {study + 1} of {len(self.seeds)}, {sealed.manifest.training.rounds} rounds")
                try:
                    vector = federate(sealed, self.training[study], UnsafeSeededDraws(seed))
                except InputError:
                    raise
                except FedwardError:
                    continue
                unseen = self.unseen[study].last_encounters()
                found[setting, study] = area(predict(sealed.manifest, vector, unseen), unseen)
        return found

    def expected(self, sealed: SealedManifest, report: Callable[[str], None] = lambda _line: None) -> Expected:
        """AUROC of one setting; errors as `run` and `summarise`."""
        return summarise(self.run([sealed], report)[0])


def split_key(seed: int, site: str) -> bytes:
    """The key of a hospital's split in a simulated study, 32 bytes."""
    return hashlib.sha256(f"fedward/benchmark/{seed}/{site}".encode()).digest()


def area(scores: NDArray[np.float64], unseen: Encoded) -> float:
    """AUROC on raw scores, NaN if one is no number.

    Raises:
        InputError: the patients have one outcome only.
    """
    if not np.isfinite(scores).all():
        return math.nan
    found = exact_auroc(scores, unseen.outcomes)
    if found is None:
        raise InputError("AUROC needs patients of both outcomes", got=f"{len(unseen)} patients of at most one")
    return found.value


def _drawn(data: Encoded, number: int, generator: np.random.Generator) -> Encoded:
    """Patients drawn with replacement, all rows of each, under new names."""
    rows: list[list[int]] = [[] for _ in range(len(data))]
    for row, owner in enumerate(data.owners):
        rows[owner].append(row)
    chosen = generator.integers(0, len(rows), number)
    places = np.array([row for patient in chosen for row in rows[patient]], dtype=np.int64)
    names = tuple(str(copy) for copy, patient in enumerate(chosen) for _ in rows[patient])
    return Encoded(names, data.inputs[places], data.outcomes[places], data.membership[places])
