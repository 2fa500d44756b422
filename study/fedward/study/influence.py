"""Which features a model's output follows, over public or made-up patients, and a logistic regression's odds ratios.

A feature's influence is the mean absolute attribution of its inputs together, as a share of all features'. The baseline is the
average patient, so that in a linear model an input's attribution is w (x − mean x). No hospital's patient is in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from fedward.privacy.errors import InputError
from fedward.study.attribution import integrated_gradients
from fedward.study.encoding import Matrix, encode, feature_spans
from fedward.study.manifest import CategoricalFeature, Feature, ImageFeature, Manifest, NumericFeature
from fedward.study.metrics import Z95
from fedward.study.models import to_vector
from fedward.study.vectors import Vector
from fedward.study.votes import middle_patient

ROWS: Final = 1000
MOST_ROWS: Final = 100_000
REPLICATES: Final = 1000
_CLEAR: Final = 0.5
"""From this correlation of value and attribution on, a direction is named."""


@dataclass(frozen=True)
class Patients:
    """Whom a model is asked about, encoded, (n, width); the average of them all, (width,); and who they are, in words."""

    inputs: Matrix
    average: NDArray[np.float64]
    words: str


@dataclass(frozen=True)
class FeatureInfluence:
    """A feature's part.

    Attributes:
        share: of the mean absolute attributions of all features, with a 95% interval of a bootstrap over the patients; the average
            patient is held fixed.
        log_odds: its mean absolute attribution.
        direction: which values raise the predicted probability, in words.
    """

    feature: str
    share: float
    low: float
    high: float
    log_odds: float
    direction: str


@dataclass(frozen=True)
class Odds:
    """An odds ratio of a logistic regression; the interval holds the noise of training alone, None where that is not known."""

    feature: str
    per: str
    ratio: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Influence:
    """Features by share, the largest first. `noise` says what the intervals of `odds` hold; empty without odds ratios."""

    about: str
    rows: int
    features: tuple[FeatureInfluence, ...]
    odds: tuple[Odds, ...]
    noise: str
    gap: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def synthetic(manifest: Manifest, rows: int = ROWS, seed: int = 0) -> Patients:
    """Made-up patients: every feature for itself, uniform within its bounds or over its levels.

    Raises:
        InputError: a feature is an image.
    """
    _no_images(manifest)
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for feature in manifest.features:
        if isinstance(feature, CategoricalFeature):
            columns[feature.column] = np.array(feature.levels, dtype=object)[
                rng.integers(len(feature.levels), size=rows)
            ]
        else:
            low, high = feature.bounds
            columns[feature.column] = rng.uniform(low, high, rows)
    words = (
        f"The patients are synthetic: {rows} drawn with seed {seed}, every feature for itself, uniform within the manifest's "
        "bounds and levels. Real patients are not like that, and shares over them differ."
    )
    # Known, and so not drawn anew by a bootstrap.
    return Patients(_encoded(pd.DataFrame(columns), manifest), middle_patient(manifest), words)


def public(path: Path, manifest: Manifest) -> Patients:
    """Patients of a CSV file in the study's own columns and levels; an outcome is not needed. They are read here.

    Raises:
        InputError: a feature is an image, the file cannot be read, lacks a column, or a value is none of the study's.
    """
    _no_images(manifest)
    try:
        frame = pd.read_csv(path, dtype=str, nrows=MOST_ROWS + 1, skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' errors of parsing are ValueErrors
        raise InputError(f"{path} cannot be read as CSV", got=str(error)[:200], remedy="check the path") from None
    if not 2 <= len(frame) <= MOST_ROWS:
        raise InputError(f"{path.name} has too few or too many rows", expected=f"2 to {MOST_ROWS}", got=str(len(frame)))
    absent = [feature.column for feature in manifest.features if feature.column not in frame.columns]
    if absent:
        raise InputError(f"{path.name} lacks columns of the study", expected=", ".join(absent[:10]))
    columns = {feature.column: _checked(frame[feature.column], feature, path.name) for feature in manifest.features}
    words = f"The patients are the {len(frame)} of {path.name}, which whoever made this says are public."
    inputs = _encoded(pd.DataFrame(columns), manifest)
    return Patients(inputs, inputs.mean(0, dtype=np.float64), words)


def influence(
    manifest: Manifest, model: nn.Module, patients: Patients, deviation: float | None, noise: str, seed: int = 0
) -> Influence:
    """A model's influence table.

    Args:
        manifest: the study.
        model: with the parameters to explain.
        patients: to explain it on.
        deviation: of the noise that training left in each coefficient of a logistic regression; None where that is not known.
        noise: in words, what that is.
        seed: of the bootstrap.

    Raises:
        InputError: as `integrated_gradients`; or the output is the same for every patient.
    """
    inputs = patients.inputs
    found = integrated_gradients(model, inputs, patients.average)
    spans = list(feature_spans(manifest))
    by_feature = np.stack([found.values[:, span].sum(1) for _, span in spans], axis=1)
    means = np.abs(by_feature).mean(0)
    if not means.sum() > 0:
        raise InputError("the model's output is the same for every patient", remedy="train it for more rounds")
    shares = _bootstrap(np.abs(by_feature), np.random.default_rng(seed))
    low, high = np.quantile(shares, (0.025, 0.975), axis=0)
    made = [
        FeatureInfluence(
            feature.column, float(means[at] / means.sum()), float(low[at]), float(high[at]), float(means[at]),
            _direction(feature, inputs[:, span], by_feature[:, at]),
        )
        for at, (feature, span) in enumerate(spans)
    ]  # fmt: skip
    linear = manifest.model.name == "logistic-regression"
    return Influence(
        about="Integrated gradients of the log-odds, from the average patient to each of a sample. " + patients.words,
        rows=len(inputs),
        features=tuple(sorted(made, key=lambda one: (-one.share, one.feature))),
        odds=tuple(odds_ratios(manifest, to_vector(model), deviation)) if linear else (),
        noise=noise if linear else "",
        gap=found.gap,
    )


def odds_ratios(manifest: Manifest, parameters: Vector, deviation: float | None) -> Iterator[Odds]:
    """Of each number per unit, of each level against the first, and of a missing value against the middle or the first level.

    A number is scaled by its half-range h, so that one unit is w / h in log-odds.

    Args:
        manifest: a study of a logistic regression.
        parameters: its weights in the inputs' order, and then its bias.
        deviation: of independent noise on each parameter; None where it is not known.
    """
    for feature, span in feature_spans(manifest):
        weights = parameters[span].astype(np.float64)
        if isinstance(feature, CategoricalFeature):
            first = feature.levels[0]
            named = [*feature.levels, "missing"][: len(weights)]
            for name, weight in zip(named[1:], weights[1:], strict=True):
                # Two coefficients, each with noise of its own.
                yield _odds(feature, f"{name}, against {first}", weight - weights[0], deviation, math.sqrt(2))
        elif isinstance(feature, NumericFeature):
            low, high = feature.bounds
            half = (high - low) / 2
            unit = f"1 {feature.unit}".strip()
            yield _odds(feature, unit, weights[0] / half, deviation, 1 / half)
            if len(weights) > 1:
                yield _odds(feature, f"missing, against {(low + high) / 2:g}", weights[1], deviation, 1.0)


def _odds(feature: Feature, per: str, log_odds: float, deviation: float | None, scale: float) -> Odds:
    if deviation is None:
        return Odds(feature.column, per, math.exp(log_odds), None, None)
    half = Z95 * deviation * scale
    return Odds(feature.column, per, math.exp(log_odds), math.exp(log_odds - half), math.exp(log_odds + half))


def _direction(feature: Feature, values: Matrix, attributed: NDArray[np.float64]) -> str:
    if np.ptp(attributed) == 0:
        return "none"
    if isinstance(feature, CategoricalFeature):
        means = {
            level: float(attributed[values[:, place] == 1].mean())
            for place, level in enumerate(feature.levels)
            if (values[:, place] == 1).any()
        }
        highest, lowest = max(means, key=lambda level: means[level]), min(means, key=lambda level: means[level])
        return "none" if highest == lowest else f"highest with {highest}, lowest with {lowest}"
    if np.ptp(values[:, 0]) == 0:
        return "none"
    correlation = float(np.corrcoef(values[:, 0], attributed)[0, 1])
    if abs(correlation) < _CLEAR:
        return "mixed"
    return "rises with it" if correlation > 0 else "falls with it"


def _bootstrap(absolute: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Shares over patients drawn anew, (REPLICATES, features)."""
    rows = len(absolute)
    made = np.stack([rng.multinomial(rows, np.full(rows, 1 / rows)) @ absolute for _ in range(REPLICATES)])
    return np.asarray(made / made.sum(1, keepdims=True))


def _checked(column: pd.Series[Any], feature: Feature, name: str) -> pd.Series[Any]:
    if isinstance(feature, CategoricalFeature):
        strange = sorted(set(column.dropna()) - set(feature.levels))
        if strange:
            raise InputError(
                f'column "{feature.column}" of {name} has levels that the study has not',
                expected=", ".join(feature.levels),
                got=", ".join(strange[:5])[:200],
            )
        return column.astype(object)
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    low, high = feature.bounds
    wrong = (numbers.isna() & column.notna()) | (numbers < low) | (numbers > high)
    if wrong.any():
        raise InputError(
            f'column "{feature.column}" of {name} has values that are no number within the study\'s bounds',
            expected=f"{low:g} to {high:g}",
            got=f"{str(column[wrong].iloc[0])[:40]}, and {int(wrong.sum()) - 1} more",
        )
    return numbers


def _encoded(frame: pd.DataFrame, manifest: Manifest) -> Matrix:
    return encode(frame.assign(**{manifest.outcome.column: 0.0}), manifest).inputs


def _no_images(manifest: Manifest) -> None:
    if any(isinstance(feature, ImageFeature) for feature in manifest.features):
        raise InputError(
            "an image is one feature: which of several a model follows cannot be said",
            expected="a study whose features are numbers and levels",
            remedy="leave it out",
        )
