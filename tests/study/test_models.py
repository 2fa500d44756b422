"""The contract of every catalogue model, and the catalogue itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federation import heart_manifest
from torch import nn

from fedward.privacy.canonical import digest
from fedward.privacy.errors import InputError
from fedward.study import models
from fedward.study.encoding import input_names
from fedward.study.manifest import Manifest, parse
from fedward.study.models import CatalogueModel, build, dimension, load_vector, scores, to_vector
from fedward.study.vectors import vector_digest

IMAGE = {"column": "scan", "type": "image", "shape": [2, 9, 7]}


def with_image(**model: object) -> Manifest:
    data = heart_manifest().model_dump(mode="json")
    data |= {"features": [IMAGE], "fairness": {"groups": []}, "model": model}
    return parse(data)


class ModelContract:
    """What every model of the catalogue keeps; a subclass says which model, and what its parameters are by hand."""

    __test__ = False
    manifest: Manifest
    names: tuple[str, ...]
    size: int

    def inputs(self, n: int) -> torch.Tensor:
        width = len(input_names(self.manifest))
        return torch.rand((n, width), generator=torch.Generator().manual_seed(n)) * 2 - 1

    def test_it_is_in_the_catalogue_by_its_name(self) -> None:
        assert models.catalogue()[self.manifest.model.name].name == self.manifest.model.name

    def test_its_parameters_have_these_names_and_sizes(self) -> None:
        model = build(self.manifest)
        assert tuple(name for name, _ in model.named_parameters()) == self.names
        assert dimension(model) == self.size == len(to_vector(model))
        assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())

    def test_every_party_builds_it_alike_whatever_the_global_generator(self) -> None:
        torch.manual_seed(1)
        first = to_vector(build(self.manifest))
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert np.array_equal(first, to_vector(build(self.manifest)))
        assert torch.equal(state, torch.get_rng_state())  # and building it draws nothing from there

    @pytest.mark.parametrize("n", [0, 1, 2, 17])
    def test_n_rows_give_n_logits(self, n: int) -> None:
        logits = build(self.manifest)(self.inputs(n))
        assert logits.shape == (n,)
        assert torch.isfinite(logits).all()

    def test_a_row_s_logit_depends_on_that_row_only(self) -> None:
        """A batch statistic would mix patients, which clipping each patient's gradient cannot bound."""
        model, inputs = self.moved(), self.inputs(5)
        model.train()
        whole = model(inputs)
        for i in range(5):
            torch.testing.assert_close(model(inputs[i : i + 1])[0], whole[i], rtol=1e-4, atol=1e-5)

    def test_it_has_no_buffers(self) -> None:
        """What is no parameter does not travel, so it could differ between sites."""
        assert list(build(self.manifest).buffers()) == []

    def test_a_vector_loaded_comes_back(self) -> None:
        model = build(self.manifest)
        vector = np.random.default_rng(0).normal(size=self.size).astype(np.float32)
        load_vector(model, vector)
        assert np.array_equal(to_vector(model), vector)
        # In the order of named_parameters, each row by row.
        place = 0
        for parameter in model.parameters():
            part = vector[place : place + parameter.numel()].reshape(parameter.shape)
            assert np.array_equal(parameter.detach().numpy(), part)
            place += parameter.numel()

    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_vector_of_another_length_is_refused_and_changes_nothing(self, change: int) -> None:
        model = build(self.manifest)
        before = to_vector(model)
        with pytest.raises(InputError, match="do not fit"):
            load_vector(model, np.ones(self.size + change, dtype=np.float32))
        with pytest.raises(InputError, match="do not fit"):
            load_vector(model, np.ones((1, self.size), dtype=np.float32))
        assert np.array_equal(to_vector(model), before)

    def test_the_loaded_vector_is_a_copy(self) -> None:
        model, vector = build(self.manifest), np.ones(self.size, dtype=np.float32)
        load_vector(model, vector)
        vector[:] = 7
        assert to_vector(model).max() == 1

    def test_scores_are_the_logits_probabilities(self) -> None:
        model, inputs = self.moved(), self.inputs(6)
        got = scores(model, inputs.numpy())
        logits = model(inputs).detach().double().numpy()
        np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits)), rtol=1e-6)
        assert scores(model, inputs.numpy()[:0]).shape == (0,)
        assert scores(model, inputs.numpy()[:1]).shape == (1,)

    def moved(self) -> nn.Module:
        """The model away from its initial parameters, which may be all zero."""
        model = build(self.manifest)
        load_vector(model, np.random.default_rng(3).normal(0, 0.3, self.size).astype(np.float32))
        return model


class TestLogisticRegression(ModelContract):
    __test__ = True
    manifest = heart_manifest()
    names = ("0.weight", "0.bias")
    # 6 numbers and 7 sets of 2, 4, 2, 3, 2, 3, 3 levels, each of the 13 with an indicator; and the bias
    size = 6 + (2 + 4 + 2 + 3 + 2 + 3 + 3) + 13 + 1

    def test_it_begins_at_zero(self) -> None:
        assert not to_vector(build(self.manifest)).any()


class TestMlp(ModelContract):
    __test__ = True
    manifest = heart_manifest(model={"name": "mlp", "hidden": [8, 3]})
    names = ("0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias")
    size = (38 * 8 + 8) + (8 * 3 + 3) + (3 + 1)

    def test_the_seed_decides_where_it_begins(self) -> None:
        other = heart_manifest(model={"name": "mlp", "hidden": [8, 3], "seed": 1})
        assert not np.array_equal(to_vector(build(self.manifest)), to_vector(build(other)))

    def test_it_begins_within_the_bound_of_its_fan_in(self) -> None:
        weight = build(self.manifest)[0].weight  # type: ignore[index]
        assert 0.9 / np.sqrt(38) < weight.abs().max().item() <= 1 / np.sqrt(38)


class TestGroupNormCnn(ModelContract):
    __test__ = True
    manifest = with_image(name="groupnorm-cnn", channels=[6, 4])
    names = (
        "1.weight",
        "1.bias",
        "2.weight",
        "2.bias",
        "4.weight",
        "4.bias",
        "5.weight",
        "5.bias",
        "9.weight",
        "9.bias",
    )
    size = (2 * 9 * 6 + 6) + 2 * 6 + (6 * 9 * 4 + 4) + 2 * 4 + (4 * 4 + 1)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (heart_manifest(model={"hidden": [4]}), "no hidden layers"),
        (heart_manifest(model={"channels": [4]}), "no channels"),
        (heart_manifest(model={"name": "mlp"}), "hidden = "),
        (heart_manifest(model={"name": "mlp", "hidden": [4], "channels": [4]}), "no channels"),
        (heart_manifest(model={"name": "groupnorm-cnn", "channels": [4]}), "exactly one image"),
        (with_image(name="groupnorm-cnn"), "channels = "),
        (with_image(name="groupnorm-cnn", channels=[4], hidden=[4]), "no hidden layers"),
        (with_image(name="logistic-regression"), "takes no image"),
        (with_image(name="mlp", hidden=[4]), "takes no image"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(manifest: Manifest, words: str) -> None:
    with pytest.raises(InputError) as caught:
        build(manifest)
    assert words in caught.value.text()


class Point:
    def __init__(self, name: str, offered: object) -> None:
        self.name, self._offered = name, offered

    def load(self) -> object:
        return self._offered


def test_an_installed_model_can_be_named_by_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    own = CatalogueModel("own", "a hospital's", lambda _: None, lambda _: nn.Linear(1, 1))
    monkeypatch.setattr(models, "entry_points", lambda group: [Point("own", own)] if group == "fedward.models" else [])
    assert isinstance(build(heart_manifest(model={"name": "own"})), nn.Linear)


def test_a_process_searches_the_installed_packages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[str] = []
    monkeypatch.setattr(models, "entry_points", lambda group: searches.append(group) or [])
    first = models.catalogue()
    first.clear()  # a caller's copy
    assert set(models.catalogue()) == set(models.BUILT_IN)
    assert len(searches) == 1


@pytest.mark.parametrize(
    "offered", ["no model", CatalogueModel("mlp", "takes a built-in name", lambda _: None, lambda _: nn.Linear(1, 1))]
)
def test_an_installed_package_cannot_replace_a_built_in_model(offered: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "entry_points", lambda **_: [Point("bad", offered)])
    with pytest.raises(InputError, match='installed model "bad"'):
        models.catalogue()


def test_a_model_s_name_is_the_digest_of_its_wire_bytes() -> None:
    assert vector_digest(np.array([1.0, -2.0], dtype=np.float32)) == digest(bytes.fromhex("0000803f000000c0"))
