"""The same study on one machine, over many seeds: federated, each hospital alone, and the pool that privacy forbids.

A seed draws the held-out patients anew, the Poisson samples and the noise; everything else is the manifest's. Every model is scored
exactly, on raw scores of held-out patients who trained none of them: of all hospitals together, of each hospital, of each fairness
group. The seed, the engine and the machine's arithmetic fix a study to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import FedwardError, InputError, UnreachableError
from fedward.simulations.baselines import Split, engine_rounds, local_only, pool, pooled, predict, rehearse, split
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.engines import EngineFactory, EngineName, engine
from fedward.simulations.expected import interval, split_key
from fedward.study.encoding import Encoded, group_names
from fedward.study.manifest import Manifest
from fedward.study.metrics import exact_auroc
from fedward.study.models import Vector

FEDERATED, POOLED, ALONE = "federated", "pooled", "alone:"
EVERYBODY = "everybody"

Report = Callable[[str], None]


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
    """

    model: str
    slice: str
    patients: int
    positives: int
    auroc: float
    brier: float


@dataclass(frozen=True)
class Outcome:
    """One simulated study.

    Attributes:
        seed: what it was drawn from.
        scores: of every model on every slice.
        curve: AUROC of the federated model on everybody before the first round and after each, length rounds + 1.
        vector: the federated model's parameters, shape (d,).
        failure: why there is no federated model, else "".
    """

    seed: int
    scores: tuple[Score, ...]
    curve: tuple[float, ...]
    vector: Vector | None
    failure: str = ""


def study(
    manifest: Manifest,
    hospitals: Mapping[str, Encoded],
    seed: int,
    engine_name: EngineName | EngineFactory = "stacked",
    tell: Report = lambda _line: None,
) -> Outcome:
    """Simulate one study with all its baselines.

    Args:
        manifest: the study.
        hospitals: every hospital's patients, held-out ones included.
        seed: at least 0.
        engine_name: who computes the sites' updates; or what makes the engine.
        tell: hears of each round.

    Raises:
        InputError: no hospital, the study does not fit them, or the seed is below 0.
        RefusalError: no noise multiplier in reach keeps the manifest's promise.
        UnreachableError: the engine's workers are lost.
    """
    if not hospitals or seed < 0:
        raise InputError("a simulation needs hospitals and a seed of at least 0", got=f"{len(hospitals)}, seed {seed}")
    splits = {
        site: split(data, manifest.training.holdout, split_key(seed, site)) for site, data in sorted(hospitals.items())
    }
    sealed = rehearse(manifest, {site: len(data) for site, data in hospitals.items()})
    training = {site: part.training for site, part in splits.items()}
    if isinstance(engine_name, str):
        draws = {site: UnsafeKeyedDraws(seed, place) for place, site in enumerate(splits)}
        sites = engine(engine_name, sealed, training, draws)
    else:
        sites = engine_name(sealed, training, seed)
    unseen = _unseen(splits)
    curve: list[float] = []
    vector: Vector | None = None
    failure = ""
    try:
        for number, model in enumerate(engine_rounds(sealed, sites)):
            tell(f"seed {seed}: round {number} of {manifest.training.rounds}")
            curve.append(_auroc(predict(manifest, model, unseen.everybody), unseen.everybody.outcomes))
            vector = model
    except (InputError, UnreachableError):
        raise
    except FedwardError as error:  # a study that diverged is a result, and the other seeds go on
        vector, failure = None, error.what
    models = dict(baselines(manifest, training))
    if vector is not None:
        models = {FEDERATED: vector, **models}
    scores = tuple(score for name, model in models.items() for score in _scores(manifest, name, model, unseen))
    return Outcome(seed, scores, tuple(curve), vector, failure)


def baselines(manifest: Manifest, training: Mapping[str, Encoded]) -> dict[str, Vector]:
    """The pooled model, and each hospital's own; one whose patients have a single outcome has none."""
    found = {POOLED: pooled(manifest, training.values())}
    for site, data in training.items():
        if len(np.unique(data.outcomes)) == 2:
            found[f"{ALONE}{site}"] = local_only(manifest, data)
    return found


@dataclass(frozen=True)
class _Unseen:
    """Held-out patients: everybody's last encounters, and which rows belong to which slice."""

    everybody: Encoded
    slices: Mapping[str, NDArray[np.bool_]]


def _unseen(splits: Mapping[str, Split]) -> _Unseen:
    tables = {site: part.held_out.last_encounters() for site, part in splits.items()}
    owners = np.repeat(np.arange(len(tables)), [len(data.outcomes) for data in tables.values()])
    slices = {f"site={site}": owners == place for place, site in enumerate(tables)}
    return _Unseen(pool(tables.values()), slices)


def _scores(manifest: Manifest, name: str, model: Vector, unseen: _Unseen) -> list[Score]:
    data = unseen.everybody
    probabilities = predict(manifest, model, data)
    slices = {EVERYBODY: np.ones(len(data.outcomes), dtype=np.bool_), **unseen.slices}
    slices |= {group: data.membership[:, place] for place, group in enumerate(group_names(manifest))}
    return [_score(name, part, probabilities[mask], data.outcomes[mask]) for part, mask in slices.items()]


def _score(model: str, part: str, probabilities: NDArray[np.float64], outcomes: NDArray[np.float32]) -> Score:
    brier = float(np.mean((probabilities - outcomes) ** 2)) if len(outcomes) else math.nan
    return Score(model, part, len(outcomes), int(outcomes.sum()), _auroc(probabilities, outcomes), brier)


def _auroc(probabilities: NDArray[np.float64], outcomes: NDArray[np.float32]) -> float:
    found = exact_auroc(probabilities, outcomes)
    return math.nan if found is None else found.value


@dataclass(frozen=True)
class Summary:
    """A figure over seeds: its mean with the mean's 95% interval, and the deviation from study to study; NaN where unknown.

    Attributes:
        model: as in `Score`; "alone, mean" is the mean over hospitals' own models in each study.
        slice: as in `Score`.
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


def summarise(outcomes: Sequence[Outcome]) -> list[Summary]:
    """The AUROC of every model on every slice."""
    values: dict[tuple[str, str], list[float]] = {}
    patients: dict[str, list[int]] = {}
    for one in outcomes:
        alone: dict[str, list[float]] = {}
        for score in one.scores:
            values.setdefault((score.model, score.slice), []).append(score.auroc)
            patients.setdefault(score.slice, []).append(score.patients)
            if score.model.startswith(ALONE):
                alone.setdefault(score.slice, []).append(score.auroc)
        for part, areas in alone.items():
            known = [area for area in areas if not math.isnan(area)]
            values.setdefault(("alone, mean", part), []).append(float(np.mean(known)) if known else math.nan)
    return [_summary(model, part, patients[part], areas) for (model, part), areas in values.items()]


def gains(outcomes: Sequence[Outcome]) -> list[Summary]:
    """What each hospital gains on its own patients: the federated model's AUROC less that of its own model, paired by study."""
    found: dict[str, list[float]] = {}
    patients: dict[str, list[int]] = {}
    for one in outcomes:
        areas = {(score.model, score.slice): score for score in one.scores}
        for (model, part), own in areas.items():
            ours = areas.get((FEDERATED, part))
            if ours is not None and model.startswith(ALONE) and part == f"site={model.removeprefix(ALONE)}":
                found.setdefault(part, []).append(ours.auroc - own.auroc)
                patients.setdefault(part, []).append(own.patients)
    return [_summary("gain", part, patients[part], values) for part, values in found.items()]


def _summary(model: str, part: str, patients: Sequence[int], values: Sequence[float]) -> Summary:
    known = np.array([value for value in values if not math.isnan(value)])
    number = float(np.mean(patients))
    if len(known) < 2:
        mean = float(known[0]) if len(known) else math.nan
        return Summary(model, part, number, mean, math.nan, math.nan, math.nan, len(known))
    return Summary(model, part, number, float(known.mean()), *interval(known), float(known.std(ddof=1)), len(known))
