"""Mapped sites against a node's own training, for models without a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedward.privacy.errors import InputError
from fedward.simulations import site_stack, site_vmap
from fedward.simulations.baselines import rehearse
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.engines import SiteLoop, engine
from fedward.simulations.site_vmap import MappedGradients, SiteVmap, mappable, worth_it
from fedward.study import models
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, SealedManifest, parse
from fedward.study.models import build, to_vector

SIZES = {"a": 20, "b": 10, "c": 14, "d": 30}
PIXELS = 36


def manifest_of(*, private: bool, **training: object) -> Manifest:
    privacy = {"mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-3} if private else {"mechanism": "none"}
    return parse(
        {
            "study": {"id": "images", "title": "Some images"},
            "outcome": {"column": "y"},
            "features": [{"column": "x", "type": "image", "shape": [1, 6, 6]}],
            "model": {"name": "groupnorm-cnn", "channels": [4, 8]},
            "training": {
                "algorithm": "fedavg", "rounds": 2, "local_steps": 4, "sampling_rate": 0.3, "local_learning_rate": 0.3,
                "missing": "refuse",
            } | training,
            "federation": {"quorum": 3},
            "privacy": privacy | {"secure_aggregation": False, "clipping_norm": 0.5},
        }
    )  # fmt: skip


def sealed(*, private: bool, **training: object) -> SealedManifest:
    return rehearse(manifest_of(private=private, **training), SIZES, noise_multiplier=0.8 if private else None)


def hospitals() -> dict[str, Encoded]:
    found = {}
    for place, (site, number) in enumerate(SIZES.items()):
        generator = np.random.default_rng(place)
        inputs = generator.uniform(-1, 1, (number, PIXELS)).astype(np.float32)
        outcomes = (generator.random(number) < 0.5).astype(np.float32)
        found[site] = Encoded(
            tuple(f"p{row}" for row in range(number)), inputs, outcomes, np.zeros((number, 0), np.bool_)
        )
    return found


def keyed() -> dict[str, UnsafeKeyedDraws]:
    return {site: UnsafeKeyedDraws(5, place) for place, site in enumerate(SIZES)}


@pytest.mark.parametrize("training", [{}, {"algorithm": "fedprox", "proximal": 0.5}, {"sampling_rate": 0.02}], ids=str)
@pytest.mark.parametrize("private", [True, False], ids=["dp", "without-dp"])
def test_every_site_s_update_is_what_a_node_computes(
    private: bool, training: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_stack, "_CACHE_FLOATS", 2_000)  # in several pieces
    study = sealed(private=private, **training)
    mapped, loop = SiteVmap(study, hospitals(), keyed()), SiteLoop(study, hospitals(), keyed())
    assert len(mapped._pieces) > 1
    base = to_vector(build(study.manifest))
    corrections = np.random.default_rng(1).normal(0, 0.1, (len(SIZES), len(base))).astype(np.float32)
    for given in (None, corrections):
        expected = loop.updates(base, given)
        np.testing.assert_allclose(mapped.updates(base, given), expected, rtol=1e-3, atol=5e-6)
        base = base + expected[0]
    assert np.abs(expected).max() > 1e-3


def test_a_row_that_is_not_finite_adds_nothing_where_gradients_are_clipped() -> None:
    gradients = MappedGradients(manifest_of(private=True))
    models_ = torch.from_numpy(to_vector(build(manifest_of(private=True))))[None]
    inputs = torch.randn(1, 3, PIXELS, generator=torch.Generator().manual_seed(0))
    outcomes, real = torch.tensor([[1.0, 0.0, 1.0]]), torch.ones(1, 3)
    expected = gradients.clipped(models_, inputs[:, :2], outcomes[:, :2], real[:, :2], 0.5)
    inputs[0, 2, 5] = torch.inf
    np.testing.assert_allclose(gradients.clipped(models_, inputs, outcomes, real, 0.5), expected, rtol=1e-6)
    padded = gradients.clipped(
        models_,
        torch.randn(1, 3, PIXELS).index_copy(1, torch.tensor([0, 1]), inputs[:, :2]),
        outcomes,
        torch.tensor([[1.0, 1.0, 0.0]]),
        0.5,
    )
    np.testing.assert_allclose(padded, expected, rtol=1e-6)


def test_small_batches_are_mapped_large_ones_and_what_cannot_be_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    small, data = sealed(private=False), hospitals()
    assert isinstance(engine("stacked", small, data, keyed()), SiteVmap)
    assert isinstance(engine("loop", small, data, keyed()), SiteLoop)
    monkeypatch.setattr(site_vmap, "_SMALL_BATCH", 1.0)
    assert isinstance(engine("stacked", small, data, keyed()), SiteLoop)
    monkeypatch.undo()
    twice = data | {
        "a": Encoded(("p1", *data["a"].patients[1:]), data["a"].inputs, data["a"].outcomes, data["a"].membership)
    }
    assert not worth_it(small, twice)
    with pytest.raises(InputError, match="cannot be stacked"):
        SiteVmap(small, twice, keyed())


class Statistics(nn.Module):
    """Keeps statistics: no model for a map."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.line = nn.BatchNorm1d(PIXELS), nn.Linear(PIXELS, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.line(self.norm(inputs)).squeeze(1)


class Deciding(nn.Module):
    """Decides by its data: no model for a map."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(PIXELS, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.line(inputs if inputs.sum() > 0 else -inputs).squeeze(1)


@pytest.mark.parametrize("kind", [Statistics, Deciding])
def test_a_model_that_cannot_be_mapped_is_told(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    study = sealed(private=False)
    assert mappable(study.manifest)
    chosen = models.CatalogueModel("groupnorm-cnn", "", lambda _: None, lambda _: kind())
    monkeypatch.setitem(models.BUILT_IN, "groupnorm-cnn", chosen)
    assert not mappable(study.manifest)
    assert isinstance(engine("stacked", study, hospitals(), keyed()), SiteLoop)
