"""Local training against first principles: one patient's gradient at a time, in float64, clipped by hand.

`Noise` injects what is drawn, so that the mechanism can be seen without its noise; the statistical tests use the real
draws, and each rejects a right mechanism with probability about 1e-6.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from federation import heart_manifest
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from fedward.client import training
from fedward.client.closed_form import Batch, layers_of
from fedward.client.training import train, unnoised_sum
from fedward.privacy.draws import SecureDraws
from fedward.privacy.errors import FedwardError
from fedward.privacy.shared_noise import SharedNoise
from fedward.study.encoding import Encoded, input_names
from fedward.study.manifest import Manifest, parse
from fedward.study.models import BUILT_IN, build, dimension, load_vector, to_vector
from fedward.study.terms import SiteTerms

ALPHA = 1e-6


def image_study() -> Manifest:
    data = heart_manifest().model_dump(mode="json")
    data |= {
        "features": [{"column": "scan", "type": "image", "shape": [1, 9, 8]}],
        "fairness": {"groups": []},
        "model": {"name": "groupnorm-cnn", "channels": [4, 4]},
    }
    return parse(data)


STUDIES = {
    "logistic-regression": heart_manifest(),
    "mlp": heart_manifest(model={"name": "mlp", "hidden": [5, 4]}),
    "groupnorm-cnn": image_study(),
}


class Noise:
    """Draws that are said beforehand: noise times `scale`, and a mask for every step (everybody when none is left)."""

    def __init__(self, scale: float = 0.0, masks: list[list[bool]] | None = None) -> None:
        self._rng = np.random.default_rng(0)
        self._scale = scale
        self._masks: Iterator[list[bool]] = iter(masks or [])
        self.asked: list[tuple[tuple[int, ...], float]] = []
        self.rates: list[tuple[int, float]] = []
        self.given: list[NDArray[np.float64]] = []

    def uniform(self, n: int) -> NDArray[np.float64]:
        return self._rng.random(n)

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        shape = shape if isinstance(shape, tuple) else (shape,)
        self.asked.append((shape, sigma))
        self.given.append(self._scale * self._rng.normal(0, sigma, shape))
        return self.given[-1]

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        self.rates.append((n, q))
        return np.array(next(self._masks, [True] * n), dtype=np.bool_)

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        raise AssertionError("local training draws no integers")


class Unnoised(Noise):
    """Discrete noise that is none, so that an integer sum can be seen."""

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        self.asked.append(((n,), deviation))
        return np.zeros(n, dtype=np.int64)


def terms(**changes: float) -> SiteTerms:
    base = {"steps": 1, "learning_rate": 1.0, "sampling_rate": 1.0, "expected_batch": 1.0, "clipping_norm": 1.0}
    return SiteTerms(**(base | {"noise_multiplier": 1.0, "proximal": 0.0} | changes))  # type: ignore[arg-type]


def patients(manifest: Manifest, n: int, seed: int = 0, spread: float = 1.0) -> Encoded:
    rng = np.random.default_rng(seed)
    inputs = (spread * rng.uniform(-1, 1, (n, len(input_names(manifest))))).astype(np.float32)
    outcomes = (rng.random(n) < 0.5).astype(np.float32)
    return Encoded(tuple(map(str, range(n))), inputs, outcomes, np.zeros((n, 0), dtype=np.bool_))


def encounters(data: Encoded, owners: list[int]) -> Encoded:
    """The same rows, as encounters of the patients that `owners` numbers."""
    return Encoded(tuple(f"p{owner}" for owner in owners), data.inputs, data.outcomes, data.membership)


OWNERS = [3, 0, 1, 1, 0, 2, 1, 3, 4, 1, 0, 0]  # 1 to 4 encounters each, rows of a patient apart


def started(manifest: Manifest, seed: int = 1) -> nn.Module:
    """The study's model somewhere that is not its beginning, where logistic regression is all zero."""
    model = build(manifest)
    load_vector(model, np.random.default_rng(seed).normal(0, 0.3, dimension(model)).astype(np.float32))
    return model


def gradients(model: nn.Module, data: Encoded) -> NDArray[np.float64]:
    """Each patient's gradient from a batch of that patient alone, shape (n, d), float64; the loss is its rows' mean."""
    exact, rows = copy.deepcopy(model).double(), []
    for patient in range(len(data)):
        own = data.owners == patient
        exact.zero_grad()
        logit = exact(torch.from_numpy(data.inputs[own]).double())
        sign = torch.from_numpy(2 * data.outcomes[own].astype(np.float64) - 1)
        torch.nn.functional.softplus(-sign * logit).mean().backward()
        rows.append(torch.cat([p.grad.reshape(-1) for p in exact.parameters() if p.grad is not None]).numpy())
    return np.array(rows).reshape(len(data), dimension(model))


def clipped_sum(gradient: NDArray[np.float64], norm: float) -> NDArray[np.float64]:
    sizes = np.linalg.norm(gradient, axis=1, keepdims=True)
    return np.asarray((gradient * np.minimum(1, norm / sizes)).sum(axis=0))


def flat(model: nn.Module) -> NDArray[np.float64]:
    """The parameters in float64, which `to_vector` would cut to the wire's precision."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).double().numpy().copy()


def relative(got: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(got.astype(float) - expected) / np.linalg.norm(expected))


LINEAR = ("logistic-regression", "mlp")
WAYS = [
    *((name, "closed-form") for name in LINEAR),
    *((name, way) for name in STUDIES for way in ("row-gradients", "opacus-hooks")),
]


def test_the_suite_has_every_model_of_the_catalogue() -> None:
    assert set(STUDIES) == set(BUILT_IN)
    assert {name for name in STUDIES if layers_of(started(STUDIES[name])) is not None} == set(LINEAR)


@pytest.fixture
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Sends every model down one path; the others refuse."""

    def refuse(*_: object) -> None:
        raise AssertionError("another path was taken")

    if request.param == "closed-form":
        monkeypatch.setattr(training, "_hooked_step", refuse)
    else:
        monkeypatch.setattr(training, "layers_of", lambda _: None)
        monkeypatch.setattr(training, "_closed_step", refuse)
        monkeypatch.setattr(training, "supported", lambda _: request.param == "row-gradients")
        other = "GradSampleHooks" if request.param == "row-gradients" else "RowGradients"
        monkeypatch.setattr(training, other, refuse)
    return str(request.param)


@pytest.mark.parametrize(("name", "path"), WAYS, indirect=["path"])
@pytest.mark.usefixtures("path")
class TestEveryModel:
    """What holds for each model of the catalogue on each private path that it can take."""

    @pytest.mark.parametrize("owners", [None, [0, 0, 1, 1, 1, 1, 1, 2, 3, 3, 4, 4]], ids=["rows", "encounters"])
    @pytest.mark.parametrize("quantile", [0.0, 0.5, 1.0], ids=["all-clipped", "half-clipped", "none-clipped"])
    def test_in_float64_it_agrees_to_the_sixth_digit(
        self, name: str, path: str, owners: list[int] | None, quantile: float
    ) -> None:
        """Opacus's factor C / (‖g‖ + 1e-6) is itself 1e-6 away from C / ‖g‖ where ‖g‖ is near 1, so the oracle has it too."""
        model, data = started(STUDIES[name]).double(), patients(STUDIES[name], 12)
        data = data if owners is None else encounters(data, owners)
        exact = gradients(model, data)
        sizes = np.linalg.norm(exact, axis=1, keepdims=True)
        norm = float(np.quantile(sizes, quantile)) * (0.5 if quantile == 0 else 1.0001)
        wanted = (exact * np.minimum(1, norm / (sizes + 1e-6))).sum(axis=0)
        step = (training._closed_step if path == "closed-form" else training._hooked_step)(
            model, terms(clipping_norm=norm), Noise()
        )
        base = flat(model)
        place = None if owners is None else np.array(owners)
        step(Batch(data.inputs.astype(np.float64), data.outcomes.astype(np.float64), len(data), place))
        assert relative(base - flat(model), wanted) < 1e-6

    @pytest.mark.parametrize("quantile", [0.0, 0.5, 1.0], ids=["all-clipped", "half-clipped", "none-clipped"])
    def test_the_clipped_sum_is_that_of_one_patient_at_a_time(self, name: str, quantile: float) -> None:
        model, data = started(STUDIES[name]), patients(STUDIES[name], 12)
        exact = gradients(model, data)
        sizes = np.linalg.norm(exact, axis=1)
        norm = float(np.quantile(sizes, quantile)) * (0.5 if quantile == 0 else 1.0001)
        update = train(model, data, terms(clipping_norm=norm), Noise())
        assert relative(-update, clipped_sum(exact, norm)) < 1e-5

    @pytest.mark.parametrize("quantile", [0.0, 0.5, 1.0], ids=["all-clipped", "half-clipped", "none-clipped"])
    def test_encounters_of_a_patient_give_one_clipped_gradient(self, name: str, quantile: float) -> None:
        model, data = started(STUDIES[name]), encounters(patients(STUDIES[name], 12), OWNERS)
        exact = gradients(model, data)
        assert exact.shape[0] == len(data) == 5
        norm = float(np.quantile(np.linalg.norm(exact, axis=1), quantile)) * (0.5 if quantile == 0 else 1.0001)
        update = train(model, data, terms(clipping_norm=norm), Noise())
        assert relative(-update, clipped_sum(exact, norm)) < 1e-5

    def test_a_patient_with_many_encounters_moves_the_sum_by_at_most_the_clipping_norm(self, name: str) -> None:
        manifest, norm = STUDIES[name], 0.2
        data = encounters(patients(manifest, 12, spread=30.0), OWNERS)
        whole = train(started(manifest), data, terms(clipping_norm=norm), Noise()).astype(float)
        for patient in range(len(data)):
            without = data.select(data.owners != patient)
            moved = whole - train(started(manifest), without, terms(clipping_norm=norm), Noise()).astype(float)
            assert np.linalg.norm(moved) <= norm * (1 + 1e-5)

    def test_sampling_takes_a_patient_with_all_encounters(self, name: str) -> None:
        model, data = started(STUDIES[name]), encounters(patients(STUDIES[name], 12), OWNERS)
        noise = Noise(masks=[[True, False, True, False, True]])
        exact = gradients(model, data)[[0, 2, 4]]
        update = train(model, data, terms(clipping_norm=0.5, sampling_rate=0.6), noise)
        assert relative(-update, clipped_sum(exact, 0.5)) < 1e-5
        assert noise.rates == [(5, 0.6)]

    def test_without_a_promise_a_patient_counts_once_too(self, name: str) -> None:
        model, data = started(STUDIES[name]), encounters(patients(STUDIES[name], 12), OWNERS)
        exact = gradients(model, data).sum(axis=0)
        assert relative(-train(model, data, terms(noise_multiplier=0.0), Noise()), exact) < 1e-5

    def test_one_patient_more_or_less_moves_the_sum_by_at_most_the_clipping_norm(self, name: str) -> None:
        """The neighbour test: with the noise away, on the sum before it is divided."""
        manifest, norm = STUDIES[name], 0.2
        data = patients(manifest, 8, spread=30.0)  # far outside the bounds: gradients in the hundreds
        whole = train(started(manifest), data, terms(clipping_norm=norm), Noise()).astype(float)
        moved = []
        for i in range(len(data)):
            mask = np.arange(len(data)) != i
            without = train(started(manifest), data.select(mask), terms(clipping_norm=norm), Noise()).astype(float)
            moved.append(np.linalg.norm(whole - without))
        assert max(moved) <= norm * (1 + 1e-5)
        assert max(moved) > 0.9 * norm  # the bound is reached, so the test sees something

    @pytest.mark.parametrize("owners", [None, OWNERS], ids=["rows", "encounters"])
    @pytest.mark.parametrize("quantile", [0.0, 0.5, 1.0], ids=["all-clipped", "half-clipped", "none-clipped"])
    def test_the_sum_for_shared_noise_is_the_clipped_sum_on_a_grid(
        self, name: str, owners: list[int] | None, quantile: float
    ) -> None:
        manifest = STUDIES[name]
        model, data = started(manifest), patients(manifest, 12)
        data = data if owners is None else encounters(data, owners)
        exact = gradients(model, data)
        sizes = np.linalg.norm(exact, axis=1, keepdims=True)
        norm = float(np.quantile(sizes, quantile)) * (0.5 if quantile == 0 else 1.0001)
        noise = SharedNoise(norm, norm * 2.0**-24, exact.shape[1], 2, 1.0)
        found = unnoised_sum(model, data, norm).noised(noise, Unnoised())
        wanted = (exact * np.minimum(1, norm / (sizes + 1e-6))).sum(axis=0)
        np.testing.assert_allclose(found * noise.step, wanted, atol=noise.step)

    def test_one_patient_more_or_less_moves_the_integers_by_at_most_their_sensitivity(self, name: str) -> None:
        """The neighbour test of shared noise: C and the rounding, on the coarsest grid that is allowed."""
        manifest, norm = STUDIES[name], 0.2
        data = patients(manifest, 8, spread=30.0)
        size = dimension(started(manifest))
        noise = SharedNoise(norm, 0.01 * norm / math.sqrt(size) * (1 - 1e-12), size, 2, 1.0)
        whole = unnoised_sum(started(manifest), data, norm).noised(noise, Unnoised())
        moved = []
        for i in range(len(data)):
            without = unnoised_sum(started(manifest), data.select(np.arange(len(data)) != i), norm)
            moved.append(float(np.linalg.norm((whole - without.noised(noise, Unnoised())).astype(float))))
        assert max(moved) <= noise.sensitivity
        assert max(moved) > 0.9 * norm / noise.step

    def test_nobody_sums_to_nothing(self, name: str) -> None:
        model = started(STUDIES[name])
        noise = SharedNoise(1.0, 2.0**-20, dimension(model), 2, 1.0)
        found = unnoised_sum(model, patients(STUDIES[name], 0), 1.0).noised(noise, Unnoised())
        assert not found.any()

    def test_several_sampled_steps_follow_the_algorithm(self, name: str) -> None:
        manifest = STUDIES[name]
        data, rate, batch, norm = patients(manifest, 6), 0.4, 2.5, 0.3
        masks = [[True, False, True, True, False, False], [False] * 6, [False, True, True, True, True, False]]
        noise = Noise(scale=1.0, masks=masks)
        asked = terms(steps=3, learning_rate=rate, sampling_rate=0.5, expected_batch=batch, clipping_norm=norm)
        model = started(manifest)
        update = train(model, data, asked, noise)
        reference, rows = started(manifest), iter(np.concatenate(noise.given))
        base = to_vector(reference).astype(float)
        for mask in masks:
            drawn = next(rows)
            total = clipped_sum(gradients(reference, data.select(np.array(mask))), norm) if any(mask) else 0
            here = to_vector(reference).astype(float) - rate * (total + drawn) / batch
            load_vector(reference, here.astype(np.float32))
        assert relative(update, to_vector(reference) - base) < 1e-4
        assert next(rows, None) is None
        assert noise.rates == [(6, 0.5)] * 3

    def test_every_parameter_gets_noise_of_sigma_times_the_clipping_norm(self, name: str) -> None:
        noise, model = Noise(), started(STUDIES[name])
        train(model, patients(STUDIES[name], 3), terms(noise_multiplier=2.0, clipping_norm=0.7), noise)
        assert noise.asked == [((1, dimension(model)), pytest.approx(1.4))]

    @pytest.mark.parametrize("n", [0, 5])
    def test_an_empty_batch_still_takes_its_noisy_step(self, name: str, n: int) -> None:
        """Otherwise the update's absence would tell that nobody was sampled."""
        noise, model = Noise(scale=1.0, masks=[[False] * n]), started(STUDIES[name])
        update = train(model, patients(STUDIES[name], n), terms(learning_rate=0.5, expected_batch=0.25), noise)
        drawn = np.concatenate([part.reshape(-1) for part in noise.given])
        assert relative(update, -0.5 * drawn / 0.25) < 1e-4

    def test_one_patient_alone_is_clipped_too(self, name: str) -> None:
        model, data = started(STUDIES[name]), patients(STUDIES[name], 1)
        exact = gradients(model, data)
        update = train(model, data, terms(clipping_norm=0.01, expected_batch=50.0), Noise())
        assert np.linalg.norm(update.astype(float)) * 50 == pytest.approx(0.01, rel=1e-3)
        assert relative(-update * 50.0, clipped_sum(exact, 0.01)) < 1e-2  # float32 of a small step

    def test_fewer_patients_than_expected_divide_by_the_expected_number(self, name: str) -> None:
        """N₀ is public; dividing by the true number would tell it."""
        model, data = started(STUDIES[name]), patients(STUDIES[name], 3)
        exact = clipped_sum(gradients(model, data), 1.0)
        update = train(model, data, terms(expected_batch=100.0, learning_rate=1000.0), Noise())
        assert relative(-update, 1000 * exact / 100) < 1e-5

    def test_the_pull_is_not_clipped_not_noised_and_not_sampled(self, name: str) -> None:
        """FedProx's is post-processing of the noised sum: a step of nobody still pulls."""
        noise = Noise(masks=[[True] * 4, [False] * 4])
        model, data = started(STUDIES[name]), patients(STUDIES[name], 4)
        first = clipped_sum(gradients(model, data), 0.1)
        asked = terms(steps=2, learning_rate=0.5, proximal=0.8, clipping_norm=0.1)
        update = train(model, data, asked, noise)
        assert relative(update, -0.5 * first * (1 - 0.5 * 0.8)) < 1e-4

    def test_the_released_noise_has_the_variance_that_is_accounted(self, name: str) -> None:
        z = residuals(name, 40, sigma=3.0, norm=0.5, batch=10.0)
        assert ALPHA < stats.chi2(z.size).cdf(float((z**2).sum())) < 1 - ALPHA
        assert stats.kstest(z.reshape(-1), "norm").pvalue > ALPHA
        # of every parameter by itself: one that were left out of it would drown in the sum
        assert (z**2).sum(axis=0).min() > stats.chi2(len(z)).ppf(ALPHA / z.shape[1])
        assert (z**2).sum(axis=0).max() < stats.chi2(len(z)).isf(ALPHA / z.shape[1])

    def test_training_changes_no_name_on_the_wire(self, name: str) -> None:
        model = started(STUDIES[name])
        names = [key for key, _ in model.named_parameters()]
        train(model, patients(STUDIES[name], 3), terms(), Noise())
        assert [key for key, _ in model.named_parameters()] == names
        assert dimension(model) == len(to_vector(model))

    def test_without_a_promise_it_is_plain_gradient_descent(self, name: str) -> None:
        model, data = started(STUDIES[name]), patients(STUDIES[name], 7)
        exact, noise = gradients(model, data).sum(axis=0), Noise()
        update = train(model, data, terms(noise_multiplier=0.0, expected_batch=0.5), noise)
        assert relative(-update, exact / 0.5) < 1e-5
        assert noise.asked == []


def test_a_study_with_shared_noise_trains_no_update_of_a_site_s_own() -> None:
    manifest = STUDIES["logistic-regression"]
    with pytest.raises(FedwardError) as caught:
        train(started(manifest), patients(manifest, 3), terms(honest_sites=2), Noise())
    assert caught.value.code == "noise-is-shared"


def test_the_update_is_the_difference_that_was_trained() -> None:
    model = started(STUDIES["mlp"])
    base = to_vector(model)
    update = train(model, patients(STUDIES["mlp"], 5), terms(), Noise(1.0))
    assert update.dtype == np.float32
    assert np.array_equal(update, to_vector(model) - base)


# --- FedProx --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 1.0], ids=["plain", "private"])
def test_the_proximal_pull_is_the_hand_computation(sigma: float) -> None:
    """Li et al. 2020, eq. 2: h(w) = F(w) + μ/2 ‖w − w₀‖², for logistic regression in numpy."""
    manifest, rate, pull, batch = heart_manifest(), 0.3, 0.7, 2.0
    model, data = started(manifest), patients(manifest, 6)
    w0 = to_vector(model).astype(float)
    rows = np.column_stack([data.inputs.astype(float), np.ones(len(data))])
    w = w0.copy()
    for _ in range(3):
        error = 1 / (1 + np.exp(-rows @ w)) - data.outcomes
        w = w - rate * ((rows * error[:, None]).sum(axis=0) / batch + pull * (w - w0))
    asked = terms(
        steps=3, learning_rate=rate, expected_batch=batch, proximal=pull, noise_multiplier=sigma, clipping_norm=1e6
    )
    assert relative(train(model, data, asked, Noise()), w - w0) < 1e-5


# --- noise ----------------------------------------------------------------------------------------------------------------


def residuals(name: str, repeats: int, sigma: float, norm: float, batch: float) -> NDArray[np.float64]:
    """What `repeats` releases of the same sum differ by from it, in units of σC; shape (repeats, d)."""
    manifest = STUDIES[name]
    data, draws = patients(manifest, 4), SecureDraws()
    asked = terms(noise_multiplier=sigma, clipping_norm=norm, expected_batch=batch)
    quiet = train(started(manifest), data, asked, Noise()).astype(float)
    noisy = [train(started(manifest), data, asked, draws).astype(float) for _ in range(repeats)]
    return (np.array(noisy) - quiet) * batch / (sigma * norm)


def test_noise_is_never_the_same_twice() -> None:
    """Across rounds, sites and restarts: every release has noise of its own."""
    z = residuals("mlp", 12, sigma=1.0, norm=1.0, batch=1.0)
    correlation = np.corrcoef(z)[np.triu_indices(len(z), 1)]
    assert np.abs(correlation).max() < 6 / np.sqrt(z.shape[1])
    assert len(np.unique(z.round(6))) > 0.99 * z.size


@pytest.mark.parametrize("place", ["inputs", "base"])
def test_training_that_does_not_stay_finite_releases_nothing(place: str) -> None:
    manifest = heart_manifest()
    model, data, asked = started(manifest), patients(manifest, 3), terms(learning_rate=1e38)
    if place == "inputs":  # with noise, a patient of whom nothing finite is computed adds nothing
        data.inputs[1, 0] = np.nan
        asked = terms(noise_multiplier=0.0)
    else:
        load_vector(model, np.full(dimension(model), 3e38, dtype=np.float32))
    with pytest.raises(FedwardError) as caught:
        train(model, data, asked, Noise(1.0))
    assert caught.value.code == "training-diverged"
