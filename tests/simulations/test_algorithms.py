"""Every algorithm against a reference of ten lines: plain gradient descent, written from the papers, over a site's mean loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from federation import heart_manifest
from numpy.typing import NDArray

from fedward.client.datasets import declared
from fedward.privacy.errors import InputError
from fedward.simulations.algorithms import ControlVariates, fair_step
from fedward.simulations.baselines import rehearse, split
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.engines import EngineName, engine
from fedward.simulations.expected import split_key
from fedward.simulations.rounds import Models, engine_rounds, kept_parameters, models
from fedward.simulations.scores import EVERYBODY, FEDERATED, UNTUNED
from fedward.simulations.simulate import study
from fedward.study.encoding import Encoded, input_names
from fedward.study.manifest import Manifest
from fedward.study.models import build, to_vector

Real = NDArray[np.float64]

WITHOUT = {"mechanism": "none", "epsilon": None, "delta": None}
SIZES = {"a": 100, "b": 40, "c": 60, "d": 30, "e": 80}
K, RATE, ROUNDS = 5, 0.3, 4
FULL = {"server_momentum": 0.0, "local_steps": K, "sampling_rate": 1.0, "local_learning_rate": RATE, "rounds": ROUNDS}


def manifest_of(training: dict[str, object], **more: dict[str, object]) -> Manifest:
    return heart_manifest(training=FULL | training, privacy=WITHOUT, **more)


def hospitals(manifest: Manifest) -> dict[str, Encoded]:
    found = {}
    for place, (site, size) in enumerate(SIZES.items()):
        number = round(size * (1 - manifest.training.holdout))
        generator = np.random.default_rng(place)
        inputs = generator.uniform(-1, 1, (number, len(input_names(manifest)))).astype(np.float32)
        outcomes = (inputs[:, 0] + generator.normal(0.3 * place, 1, number) > 0.3).astype(np.float32)
        names = tuple(f"p{row}" for row in range(number))
        found[site] = Encoded(names, inputs, outcomes, np.zeros((number, 0), dtype=np.bool_))
    return found


class Reference:
    """Logistic regression of each site in float64: loss, gradient of its sum over N₀, and K steps."""

    def __init__(self, manifest: Manifest) -> None:
        self.data = list(hospitals(manifest).values())
        self.cohorts = np.array([number * (1 - manifest.training.holdout) for number in SIZES.values()])
        self.shares = self.cohorts / self.cohorts.sum()

    def rows(self, site: int) -> Real:
        inputs = self.data[site].inputs.astype(np.float64)
        return np.column_stack([inputs, np.ones(len(inputs))])

    def loss(self, site: int, w: Real) -> float:
        z, y = self.rows(site) @ w, self.data[site].outcomes
        return float(np.mean(np.log1p(np.exp(z)) - y * z))

    def gradient(self, site: int, w: Real) -> Real:
        z, y = self.rows(site) @ w, self.data[site].outcomes
        return np.asarray(self.rows(site).T @ (1 / (1 + np.exp(-z)) - y) / self.cohorts[site])

    def local(self, site: int, w: Real, extra: Callable[[Real], Real] = lambda v: np.zeros(len(v))) -> Real:
        v = w.copy()
        for _ in range(K):
            v = v - RATE * (self.gradient(site, v) + extra(v))
        return v


def start(manifest: Manifest) -> Real:
    return to_vector(build(manifest)).astype(np.float64)


def simulated(manifest: Manifest, name: EngineName = "stacked") -> Models:
    sealed, data = rehearse(manifest, SIZES), hospitals(manifest)
    draws = {site: UnsafeKeyedDraws(3, place) for place, site in enumerate(SIZES)}
    *_, last = models(sealed, data, engine(name, sealed, data, draws))
    return last


def fedavg(r: Reference, w: Real) -> Real:
    for _ in range(ROUNDS):
        w = sum(p * r.local(k, w) for k, p in enumerate(r.shares))
    return w


def fedprox(r: Reference, w: Real) -> Real:
    for _ in range(ROUNDS):
        w = sum(p * r.local(k, w, lambda v, w=w: 0.5 * (v - w)) for k, p in enumerate(r.shares))
    return w


def scaffold(r: Reference, w: Real) -> Real:
    c, own = np.zeros(len(w)), [np.zeros(len(w)) for _ in SIZES]
    for _ in range(ROUNDS):
        y = [r.local(k, w, lambda _, pull=c - own[k]: pull) for k in range(len(own))]
        new = [own[k] - c + (w - y[k]) / (K * RATE) for k in range(len(own))]
        c = c + sum(p * (new[k] - own[k]) for k, p in enumerate(r.shares))
        own, w = new, w + sum(p * (y[k] - w) for k, p in enumerate(r.shares))
    return w


def qfedavg(r: Reference, w: Real) -> Real:
    q, smooth = 2.0, 1 / RATE
    for _ in range(ROUNDS):
        f = [r.loss(k, w) for k in range(len(r.data))]
        dw = [smooth * (w - r.local(k, w)) for k in range(len(f))]
        top = sum(p * f[k] ** q * dw[k] for k, p in enumerate(r.shares))
        bottom = sum(p * (q * f[k] ** (q - 1) * dw[k] @ dw[k] + smooth * f[k] ** q) for k, p in enumerate(r.shares))
        w = w - top / bottom
    return w


def adaptive(second: Callable[[Real, Real], Real]) -> Callable[[Reference, Real], Real]:
    def run(r: Reference, w: Real) -> Real:
        m, v = np.zeros(len(w)), np.zeros(len(w))
        for _ in range(ROUNDS):
            delta = fedavg_round(r, w) - w
            m, v = 0.9 * m + 0.1 * delta, second(v, delta**2)
            w = w + 0.5 * m / (np.sqrt(v) + 1e-3)
        return w

    return run


def fedavg_round(r: Reference, w: Real) -> Real:
    return np.asarray(sum(p * r.local(k, w) for k, p in enumerate(r.shares)))


def robust(combine: Callable[[Real], Real]) -> Callable[[Reference, Real], Real]:
    def run(r: Reference, w: Real) -> Real:
        for _ in range(ROUNDS):
            w = w + combine(np.stack([r.local(k, w) - w for k in range(len(r.data))]))
        return w

    return run


def krum(updates: Real) -> Real:
    n, f = len(updates), 1
    scores = [
        sorted(float(((u - v) ** 2).sum()) for j, v in enumerate(updates) if j != i)[: n - f - 2]
        for i, u in enumerate(updates)
    ]
    return np.asarray(updates[int(np.argmin([sum(one) for one in scores]))])


SERVER = {"server_learning_rate": 0.5, "server_momentum": 0.9}
CASES: dict[str, tuple[dict[str, object], Callable[[Reference, Real], Real]]] = {
    "fedavg": ({"algorithm": "fedavg"}, fedavg),
    "fedprox": ({"algorithm": "fedprox", "proximal": 0.5}, fedprox),
    "scaffold": ({"algorithm": "scaffold"}, scaffold),
    "qfedavg": ({"algorithm": "qfedavg", "q": 2.0}, qfedavg),
    "fedadam": ({"algorithm": "fedadam"} | SERVER, adaptive(lambda v, d: 0.99 * v + 0.01 * d)),
    "fedyogi": ({"algorithm": "fedyogi"} | SERVER, adaptive(lambda v, d: v - 0.01 * d * np.sign(v - d))),
    "fedadagrad": ({"algorithm": "fedadagrad"} | SERVER, adaptive(lambda v, d: v + d)),
    "median": ({"algorithm": "fedavg", "aggregation": "median"}, robust(lambda u: np.sort(u, axis=0)[len(u) // 2])),
    "trimmed-mean": (
        {"algorithm": "fedavg", "aggregation": "trimmed-mean", "byzantine": 1},
        robust(lambda u: np.sort(u, axis=0)[1:-1].mean(axis=0)),
    ),
    "krum": ({"algorithm": "fedavg", "aggregation": "krum", "byzantine": 1}, robust(krum)),
}


@pytest.mark.parametrize("name", ["stacked", "loop"])
@pytest.mark.parametrize("case", CASES)
def test_an_algorithm_is_its_paper_s(case: str, name: EngineName) -> None:
    training, reference = CASES[case]
    manifest = manifest_of(training, federation={"quorum": 5}) if case == "krum" else manifest_of(training)
    expected = reference(Reference(manifest), start(manifest))
    found = simulated(manifest, name).shared
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
    other = fedavg(Reference(manifest), start(manifest))
    assert case in {"fedavg"} or np.abs(found - other).max() > 1e-3


def test_of_all_sites_scaffold_s_common_variate_follows_from_the_sum_alone() -> None:
    """So it needs no more of a site than its part of a secure sum."""
    generator = np.random.default_rng(0)
    shares = np.array([0.5, 0.2, 0.3])
    control = ControlVariates(shares, 4, steps=5, rate=0.1)
    everybody = np.ones(3, dtype=np.bool_)
    for _ in range(3):
        updates = generator.normal(size=(3, 4)).astype(np.float32)
        control.learn(updates, everybody)
        np.testing.assert_allclose(control._common, -(shares @ updates) / 0.5, rtol=1e-6)


def test_a_site_that_did_not_contribute_keeps_its_variate() -> None:
    control = ControlVariates(np.array([0.5, 0.5]), 2, steps=1, rate=1.0)
    control.learn(np.ones((2, 2), dtype=np.float32), np.array([True, False]))
    np.testing.assert_allclose(control.corrections(), [[-0.5 + 1, -0.5 + 1], [-0.5, -0.5]])


def test_at_q_0_a_fair_step_is_fedavg_s() -> None:
    updates = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    shares = np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(
        fair_step(updates, np.array([0.1, 0.0, 3.0]), shares, 0.0, 0.1), shares @ updates, rtol=1e-6
    )


def test_a_site_that_fits_worse_counts_for_more() -> None:
    updates = np.eye(2, dtype=np.float32)
    found = fair_step(updates, np.array([0.1, 1.0]), np.array([0.5, 0.5]), 1.0, 0.1)
    assert found[1] > 5 * found[0] > 0


def test_kept_layers_stay_at_their_site_and_the_rest_is_averaged() -> None:
    """FedBN's rule on an MLP: the first layer is everyone's own."""
    manifest = manifest_of({"algorithm": "fedavg", "kept": ["0."]}, model={"name": "mlp", "hidden": [4]})
    kept = kept_parameters(manifest)
    width = len(input_names(manifest))
    assert kept.sum() == 4 * width + 4
    sealed, data = rehearse(manifest, SIZES), hospitals(manifest)
    sites = engine("stacked", sealed, data, {site: UnsafeKeyedDraws(3, place) for place, site in enumerate(SIZES)})
    base = np.tile(to_vector(build(manifest)), (len(SIZES), 1))
    weights = np.array(list(SIZES.values())) / sum(SIZES.values())
    for found in models(sealed, data, sites):
        assert found.own is not None
        np.testing.assert_allclose(found.own, base, rtol=1e-4, atol=1e-6)
        trained = base + sites.updates(base)  # type: ignore[union-attr]  # full batches: no draw changes it
        base = np.where(kept, trained, weights @ trained).astype(np.float32)
    assert np.abs(found.own[0] - found.own[1])[kept].max() > 1e-2
    assert np.abs(found.own[0] - found.own[1])[~kept].max() == 0


def test_what_is_kept_must_be_there_and_leave_something() -> None:
    with pytest.raises(InputError, match='begins with "norm"'):
        kept_parameters(manifest_of({"algorithm": "fedavg", "kept": ["norm"]}))
    with pytest.raises(InputError, match="nothing to share"):
        kept_parameters(manifest_of({"algorithm": "fedavg", "kept": ["0"]}))


def test_nothing_of_it_costs_draws() -> None:
    """FedAvg's own result is the same by the general loop and by the vectors alone."""
    manifest = manifest_of({"algorithm": "fedavg"})
    sealed, data = rehearse(manifest, SIZES), hospitals(manifest)
    draws = {site: UnsafeKeyedDraws(3, place) for place, site in enumerate(SIZES)}
    *_, last = engine_rounds(sealed, data, engine("stacked", sealed, data, draws))
    np.testing.assert_array_equal(last, simulated(manifest).shared)


def test_fine_tuning_is_some_plain_steps_of_each_site_from_the_last_model() -> None:
    """Written out in float64, of logistic regression; the table says how the model did before it, too."""
    manifest = manifest_of({"algorithm": "fedavg", "fine_tuning_steps": 3}, fairness={"groups": []})
    data = hospitals(manifest)
    outcome = study(manifest, data, 2)
    assert outcome.vector is not None
    assert outcome.own is not None
    for place, (site, patients) in enumerate(sorted(data.items())):
        training = split(patients, manifest.training.holdout, split_key(2, site)).training
        rows = np.column_stack([training.inputs, np.ones(len(training))]).astype(np.float64)
        cohort = declared(len(patients)) * (1 - manifest.training.holdout)
        w = outcome.vector.astype(np.float64)
        for _ in range(3):
            w = w - RATE * rows.T @ (1 / (1 + np.exp(-rows @ w)) - training.outcomes) / cohort
        np.testing.assert_allclose(outcome.own[place], w, rtol=1e-4, atol=1e-5)
    assert {UNTUNED, FEDERATED} <= {score.model for score in outcome.scores}
    before = study(manifest_of({"algorithm": "fedavg"}, fairness={"groups": []}), data, 2)
    area = {score.model: score.auroc for score in outcome.scores if score.slice == EVERYBODY}
    assert area[UNTUNED] == next(s.auroc for s in before.scores if (s.model, s.slice) == (FEDERATED, EVERYBODY))
    assert area[UNTUNED] != area[FEDERATED]
