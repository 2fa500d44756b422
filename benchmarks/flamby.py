"""FLamby's FedAvg on the four heart-disease hospitals, by FLamby's protocol, as a check of Fedward's local training.

Protocol (Ogier du Terrail et al., NeurIPS 2022 Datasets track; `fed_heart_disease`, `fed_benchmark.py`, `FedAvg`):

- 740 patients: without slope, ca and thal, and without patients who miss another value. A cholesterol of 0 is kept.
- 13 inputs: cp and restecg one-hot with their first levels (typical, normal) dropped.
- 66/34 split of each hospital, seed 43, stratified by outcome where both have more than two patients: not in
  Switzerland, which keeps a single healthy one.
- A hospital's inputs are normalised by its own training patients; the *pooled test* by everybody's training patients,
  although the model never saw inputs normalised so: the two are not averages of one another.
- One linear layer, torch's own initial weights by seed; batches of 4 shuffled anew each epoch, an epoch's rest being a
  smaller batch; SGD with rate 1e-3, 100 updates × 15 rounds; averages weighted by training patients; accuracy at 0.5.

What is Fedward's: reading the files through the mappings, each gradient step (`client.training.train`, which without
noise, at rate 1 and divided by the batch's size is FLamby's step) and the aggregation. FLamby's seeds drive its batches
through torch's global generator; here numpy's drives them, so figures repeat FLamby's up to that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import nn

from benchmarks.figures import Figure, near, report
from fedward.client.mapping import Mapping, load_mapping
from fedward.client.sources import read_site_table
from fedward.client.training import train
from fedward.server.aggregation import OptimiserState, step, weighted_mean
from fedward.simulations.baselines import UnsafeSeededDraws, pool
from fedward.study.encoding import Encoded
from fedward.study.heart import SITES, heart_folder
from fedward.study.manifest import CategoricalFeature, Manifest, NumericFeature, load, parse
from fedward.study.models import dimension, load_vector, scores, to_vector
from fedward.study.terms import SiteTerms
from fedward.study.training import Training
from fedward.study.vectors import Vector

PUBLISHED = {"cleveland": 0.731, "hungarian": 0.719, "switzerland": 0.650, "va": 0.640}
PUBLISHED_POOLED = 0.748
TOLERANCE = 0.02
SEEDS = range(42, 47)
PATIENTS = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
"""Training and test patients of FLamby's Table: a split that differs is not FLamby's."""

ROUNDS, UPDATES, BATCH, RATE = 15, 100, 4, 1e-3
_ONE_HOT = ("cp", "restecg")
_DROPPED = ("slope", "ca", "thal")
_AVERAGING = Training(algorithm="fedavg", rounds=ROUNDS)


@dataclass(frozen=True)
class Hospital:
    """Raw inputs, FLamby's 13, of training and test patients."""

    training: Encoded
    test: Encoded


def figures() -> list[Figure]:
    """Accuracy of each hospital's and of the pooled test, means of FLamby's five seeds, against those published."""
    torch.set_num_threads(1)  # 13 inputs: a second thread only waits
    data = hospitals()
    runs = [_run(seed, data) for seed in SEEDS]
    mean = {test: float(np.mean([run[test] for run in runs])) for test in runs[0]}
    found = [near(f"flamby.fedavg.{site}", mean[site], "accuracy", PUBLISHED[site], TOLERANCE) for site in SITES]
    found.append(near("flamby.fedavg.pooled_test", mean["pooled"], "accuracy", PUBLISHED_POOLED, TOLERANCE))
    found.append(report("flamby.fedavg.mean_of_hospitals", float(np.mean([mean[s] for s in SITES])), "accuracy"))
    return found


def hospitals() -> dict[str, Hospital]:
    manifest = _flamby_manifest()
    return {site: _hospital(site, manifest) for site in SITES}


def _flamby_manifest() -> Manifest:
    """The heart study without FLamby's dropped columns, and with bounds that let its zeros pass."""
    data = load(heart_folder() / "study.toml").model_dump(mode="json")
    data["features"] = [feature for feature in data["features"] if feature["column"] not in _DROPPED]
    for feature in data["features"]:
        if feature["column"] in ("chol", "trestbps"):
            feature["bounds"] = [0, feature["bounds"][1]]
    return parse(data, "FLamby's study")


def _zeros_kept(mapping: Mapping) -> Mapping:
    """The mapping with "0" no longer a mark for missing: FLamby takes an unmeasured cholesterol for a low one."""
    columns = {
        name: column.model_copy(update={"missing": tuple(mark for mark in column.missing if mark != "0")})
        for name, column in mapping.columns.items()
        if name not in _DROPPED
    }
    return mapping.model_copy(update={"columns": columns})


def _hospital(site: str, manifest: Manifest) -> Hospital:
    folder = heart_folder()
    mapping = _zeros_kept(load_mapping(folder / f"{site}.mapping.toml"))
    frame = read_site_table(folder / f"{site}.csv", mapping, manifest).frame.dropna()
    data = _inputs(frame, manifest)
    fewest = np.bincount(data.outcomes.astype(np.int64), minlength=2).min()
    training, test = train_test_split(
        np.arange(len(data)),
        train_size=0.66,
        test_size=1 - 0.66,
        random_state=43,
        stratify=data.outcomes if fewest > 2 else None,
    )
    if (len(training), len(test)) != PATIENTS[site]:
        raise ValueError(f"{site}: {len(training)}/{len(test)} patients, FLamby has {PATIENTS[site]}")
    return Hospital(_rows(data, training), _rows(data, test))


def _inputs(frame: pd.DataFrame, manifest: Manifest) -> Encoded:
    # One-hot columns last, as pandas' get_dummies puts them: the order decides which initial weight a column gets.
    columns: list[NDArray[np.float32]] = []
    for feature in sorted(manifest.features, key=lambda feature: feature.column in _ONE_HOT):
        values = frame[feature.column]
        if isinstance(feature, NumericFeature):
            columns.append(values.to_numpy(dtype=np.float32))
        elif isinstance(feature, CategoricalFeature):
            columns += [np.asarray(values == level, dtype=np.float32) for level in feature.levels[1:]]
    return Encoded(
        patients=tuple(str(patient) for patient in frame.index),
        inputs=np.stack(columns, axis=1),
        outcomes=frame[manifest.outcome.column].to_numpy(dtype=np.float32),
        membership=np.zeros((len(frame), 0), dtype=np.bool_),
    )


def _rows(data: Encoded, rows: NDArray[np.int64]) -> Encoded:
    mask = np.zeros(len(data), dtype=np.bool_)
    mask[rows] = True
    return data.select(mask)


def normalised(data: Encoded, by: Encoded) -> Encoded:
    # 1e-9 is FLamby's: Swiss cholesterol is 0 throughout and stays so.
    mean, spread = by.inputs.mean(axis=0), by.inputs.std(axis=0, ddof=1)
    return replace(data, inputs=((data.inputs - mean) / (spread + 1e-9)).astype(np.float32))


def _run(seed: int, data: dict[str, Hospital]) -> dict[str, float]:
    training = [normalised(hospital.training, hospital.training) for hospital in data.values()]
    streams = [batches(patients, np.random.default_rng((seed, place))) for place, patients in enumerate(training)]
    model = initial(seed)
    base, state = to_vector(model), OptimiserState.zeros(dimension(model))
    for _ in range(ROUNDS):
        updates = [_local(model, base, stream) for stream in streams]
        base, state = step(base, weighted_mean(updates, [len(patients) for patients in training]), state, _AVERAGING)
    load_vector(model, base)
    found = {site: accuracy(model, normalised(h.test, h.training)) for site, h in data.items()}
    everybody = pool(hospital.training for hospital in data.values())
    tests = pool(hospital.test for hospital in data.values())
    return found | {"pooled": accuracy(model, normalised(tests, everybody))}


def initial(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(13, 1), nn.Flatten(0))


def batches(data: Encoded, generator: np.random.Generator) -> Iterator[Encoded]:
    """Batches for ever, across rounds, as FLamby's `DataLoaderWithMemory`."""
    while True:
        order = generator.permutation(len(data))
        for place in range(0, len(data), BATCH):
            yield _rows(data, order[place : place + BATCH])


def _local(model: nn.Module, base: Vector, batches: Iterator[Encoded]) -> Vector:
    """One round of one hospital: plain SGD has no memory, so that one call a batch is the same as one call a round."""
    load_vector(model, base)
    for _ in range(UPDATES):
        batch = next(batches)
        train(model, batch, terms_of(len(batch)), UnsafeSeededDraws(0))
    return to_vector(model) - base


def terms_of(patients: int, rate: float = RATE) -> SiteTerms:
    return SiteTerms(
        steps=1,
        learning_rate=rate,
        sampling_rate=1.0,
        expected_batch=patients,
        clipping_norm=math.inf,
        noise_multiplier=0.0,
        proximal=0.0,
    )


def accuracy(model: nn.Module, data: Encoded) -> float:
    predicted = scores(model, data.inputs) > 0.5
    return float((predicted == (data.outcomes > 0.5)).mean())
