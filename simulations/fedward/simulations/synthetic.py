"""Made-up hospitals whose truth is known: how well any model could do on them, and by how much they differ.

Numbers are uniform within their clinical bounds, levels equally likely. The outcome is drawn from a logistic model of the study's
own encoding. Its weights are common, but for a hospital's own shift: w + τ·N(0, 1). The best possible AUROC, that of the true
probabilities, is `Synthetic.best`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.study.encoding import Encoded, encode, feature_columns
from fedward.study.manifest import CategoricalFeature, ImageFeature, Manifest
from fedward.study.metrics import exact_auroc

STRENGTH = 3.0
"""The deviation of the true logits, over patients: a best AUROC of about .89."""


@dataclass(frozen=True)
class Synthetic:
    """Hospitals and the truth about them.

    Attributes:
        hospitals: each one's patients, encoded.
        chances: each patient's true probability of the outcome, shape (n,), in the same order.
        best: the AUROC of those over everybody.
    """

    hospitals: Mapping[str, Encoded]
    chances: Mapping[str, NDArray[np.float64]]
    best: float


def synthetic(manifest: Manifest, sites: int, patients: int, shift: float = 0.0, seed: int = 0) -> Synthetic:
    """Hospitals of so many patients each for a study.

    Args:
        manifest: the study; any features, images aside.
        sites: how many hospitals.
        patients: of each.
        shift: τ, by how much hospitals' own truths differ; 0 is one truth.
        seed: at least 0.

    Raises:
        InputError: a number is out of range, or the study has images.
    """
    _check(manifest, sites, patients, shift)
    generator = np.random.default_rng((seed, sites, patients))
    tables = {site: encode(frame, manifest) for site, frame in _frames(manifest, sites, patients, generator)}
    inputs = next(iter(tables.values())).inputs
    weights = np.asarray(generator.normal(size=inputs.shape[1]))
    weights *= STRENGTH / max(1e-9, float(np.std(inputs @ weights)))
    hospitals, chances = {}, {}
    for site, table in tables.items():
        own = weights + shift * generator.normal(size=weights.shape)
        logits = table.inputs @ own
        chances[site] = 1 / (1 + np.exp(-(logits - np.median(table.inputs @ weights))))
        outcomes = (generator.random(patients) < chances[site]).astype(np.float32)
        hospitals[site] = Encoded(table.patients, table.inputs, outcomes, table.membership)
    best = exact_auroc(
        np.concatenate(list(chances.values())), np.concatenate([one.outcomes for one in hospitals.values()])
    )
    return Synthetic(hospitals, chances, math.nan if best is None else best.value)


def synthetic_tables(
    manifest: Manifest, sites: int, patients: int, shift: float = 0.0, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """The same hospitals as tables in the study's columns, indexed by patient; arguments and errors as `synthetic`."""
    made = synthetic(manifest, sites, patients, shift, seed)
    # The very frames again: nothing is drawn before them.
    frames = _frames(manifest, sites, patients, np.random.default_rng((seed, sites, patients)))
    return {
        site: frame.assign(**{manifest.outcome.column: made.hospitals[site].outcomes.astype(np.int64)})
        for site, frame in frames
    }


def _check(manifest: Manifest, sites: int, patients: int, shift: float) -> None:
    if not (1 <= sites <= 10_000 and 1 <= patients <= 1_000_000 and sites * patients <= 10_000_000):
        raise InputError(
            "the made-up hospitals are out of range", expected="up to 10 million patients", got=f"{sites} × {patients}"
        )
    if not (math.isfinite(shift) and shift >= 0):
        raise InputError("the shift is out of range", expected="a finite number of at least 0", got=repr(shift))
    if any(isinstance(feature, ImageFeature) for feature in manifest.features):
        raise InputError("images are not made up", remedy="give a folder of hospitals")


def _frames(
    manifest: Manifest, sites: int, patients: int, generator: np.random.Generator
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each hospital's name and table, its outcomes still 0."""
    width = len(str(sites))
    for number in range(1, sites + 1):
        yield f"site-{number:0{width}d}", _frame(manifest, patients, generator)


def _frame(manifest: Manifest, patients: int, generator: np.random.Generator) -> pd.DataFrame:
    columns: dict[str, object] = {}
    for feature in manifest.features:
        (name,) = feature_columns(feature)
        if isinstance(feature, CategoricalFeature):
            columns[name] = pd.Categorical(generator.choice(feature.levels, patients), categories=feature.levels)
        elif not isinstance(feature, ImageFeature):
            low, high = feature.bounds
            columns[name] = generator.uniform(low, high, patients)
    columns[manifest.outcome.column] = np.zeros(patients)
    index = pd.Index([f"p{number}" for number in range(patients)], name="patient")
    return pd.DataFrame(columns, index=index)
