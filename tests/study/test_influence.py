"""What a model follows: captum's attributions against a linear model's own, shares, directions, odds ratios, what is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from federation import heart_manifest
from sklearn.linear_model import LogisticRegression

from fedward.privacy.errors import InputError
from fedward.study import attribution, influence
from fedward.study.encoding import encode, input_names
from fedward.study.examples import example_folder
from fedward.study.manifest import Manifest, load, parse
from fedward.study.models import build, load_vector, scores


def small(model: str = "logistic-regression", **options: Any) -> Manifest:
    """Two features: age, and the kind of chest pain."""
    data = heart_manifest().model_dump(mode="json")
    data["features"] = [one for one in data["features"] if one["column"] in {"age", "cp"}]
    data["fairness"] = {"groups": []}
    data["model"] = {"name": model} | options
    return parse(data)


def weighted(manifest: Manifest, seed: int = 0) -> tuple[Any, np.ndarray[Any, Any]]:
    model = build(manifest)
    size = len(input_names(manifest))
    vector = np.random.default_rng(seed).normal(size=size + 1).astype(np.float32)
    load_vector(model, vector)
    return model, vector


def test_attributions_of_a_linear_model_are_its_own() -> None:
    manifest = heart_manifest()
    model, vector = weighted(manifest)
    inputs = influence.synthetic(manifest, 200, 3).inputs
    baseline = inputs.mean(0, dtype=np.float64)
    found = attribution.integrated_gradients(model, inputs, baseline)
    expected = vector[:-1].astype(np.float64) * (inputs - baseline)
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
    assert found.gap < 1e-6


def test_a_feature_s_share_is_that_of_its_inputs_together() -> None:
    manifest = small()
    assert input_names(manifest) == (
        "age", "age:missing", "cp=typical", "cp=atypical", "cp=non-anginal", "cp=asymptomatic", "cp:missing",
    )  # fmt: skip
    model = build(manifest)
    load_vector(model, np.array([2, 0, -1, 0, 0, 3, 0, 5], dtype=np.float32))
    patients = influence.synthetic(manifest, 500, 1)
    found = influence.influence(manifest, model, patients, None, "words")
    x = patients.inputs.astype(np.float64)
    away = x - np.array([0, 0, 0.25, 0.25, 0.25, 0.25, 0])
    age, cp = np.abs(2 * away[:, 0]).mean(), np.abs(-away[:, 2] + 3 * away[:, 5]).mean()
    by_name = {one.feature: one for one in found.features}
    assert by_name["age"].share == pytest.approx(age / (age + cp), rel=1e-6)
    assert by_name["cp"].log_odds == pytest.approx(cp, rel=1e-6)
    assert sum(one.share for one in found.features) == pytest.approx(1)
    assert all(one.low < one.share < one.high for one in found.features)
    assert by_name["age"].direction == "rises with it"
    assert by_name["cp"].direction == "highest with asymptomatic, lowest with typical"
    assert [one.share for one in found.features] == sorted((one.share for one in found.features), reverse=True)


def test_shares_of_the_bootstrap_hold_those_of_many_patients() -> None:
    manifest = heart_manifest()
    model, _ = weighted(manifest, 5)
    many = influence.synthetic(manifest, 20_000, 9)
    values = attribution.integrated_gradients(model, many.inputs, many.average).values
    means = {
        feature.column: np.abs(
            values[:, [name.split("=")[0].split(":")[0] == feature.column for name in input_names(manifest)]].sum(1)
        ).mean()
        for feature in manifest.features
    }
    truth = {feature: mean / sum(means.values()) for feature, mean in means.items()}
    held = []
    for seed in range(30):
        found = influence.influence(manifest, model, influence.synthetic(manifest, 200, seed), None, "", seed)
        held += [one.low <= truth[one.feature] <= one.high for one in found.features]
    assert 0.9 <= np.mean(held) <= 0.99


def test_an_mlp_s_attributions_add_up_to_its_output() -> None:
    manifest = small("mlp", hidden=[8])
    patients = influence.synthetic(manifest, 100, 0)
    model = build(manifest)
    found = influence.influence(manifest, model, patients, 0.1, "not for an mlp")
    assert (found.odds, found.noise) == ((), "")
    assert found.gap < 1e-3
    values = attribution.integrated_gradients(model, patients.inputs, patients.average).values
    score = scores(model, patients.inputs)
    logit = np.log(score / (1 - score))
    np.testing.assert_allclose(np.diff(values.sum(1)), np.diff(logit), atol=1e-3)


def test_a_model_whose_output_jumps_is_refused() -> None:
    import torch

    class Jump(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.round(3 * x[:, 0]) + 0 * x.sum(1)

    with pytest.raises(InputError, match="do not add up"):
        attribution.integrated_gradients(Jump(), influence.synthetic(small(), 50, 0).inputs, np.full(7, 0.1))


def test_a_model_that_says_the_same_of_everybody_is_refused() -> None:
    with pytest.raises(InputError, match="the same for every patient"):
        influence.influence(small(), build(small()), influence.synthetic(small(), 20, 0), None, "")


def test_odds_ratios_are_those_of_the_original_scale() -> None:
    """scikit-learn's regression on years and levels, against ours on encoded inputs: the same model, fitted without a penalty."""
    data = small().model_dump(mode="json")
    data["training"]["missing"] = "refuse"
    manifest = parse(data)
    rng = np.random.default_rng(0)
    levels = ("typical", "atypical", "non-anginal", "asymptomatic")
    frame = pd.DataFrame(
        {"age": rng.uniform(18, 100, 3000), "cp": np.array(levels, dtype=object)[rng.integers(4, size=3000)]}
    )
    risk = 0.04 * (frame["age"] - 60) + frame["cp"].map(
        {"typical": 0, "atypical": -1, "non-anginal": 0.5, "asymptomatic": 2}
    )
    frame["disease"] = (rng.uniform(size=3000) < 1 / (1 + np.exp(-risk))).astype(float)
    plain = pd.DataFrame({"age": frame["age"] / 50} | {level: frame["cp"] == level for level in levels[1:]}).astype(
        float
    )
    theirs = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000).fit(plain, frame["disease"]).coef_[0]
    encoded = encode(frame, manifest)
    ours = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000).fit(encoded.inputs.astype(float), encoded.outcomes)
    vector = np.append(ours.coef_[0], ours.intercept_).astype(np.float32)
    found = {(one.feature, one.per): one.ratio for one in influence.odds_ratios(manifest, vector, None)}
    assert found[("age", "1 years")] == pytest.approx(math.exp(theirs[0] / 50), rel=1e-3)
    for level, weight in zip(levels[1:], theirs[1:], strict=True):
        assert found[("cp", f"{level}, against typical")] == pytest.approx(math.exp(weight), rel=2e-2)
    assert len(found) == 4


def test_odds_ratios_hold_the_noise_that_is_known_and_none_else() -> None:
    manifest = small()
    vector = np.array([2, 0.5, -1, 0, 0, 3, 0.25, 5], dtype=np.float32)
    plain = list(influence.odds_ratios(manifest, vector, None))
    assert [(one.low, one.high) for one in plain] == [(None, None)] * 6
    noised = list(influence.odds_ratios(manifest, vector, 0.3))
    assert [one.ratio for one in noised] == [one.ratio for one in plain]
    by_per = {one.per: one for one in noised}
    age, pain, missing = by_per["1 years"], by_per["asymptomatic, against typical"], by_per["missing, against 59"]
    assert age.ratio == pytest.approx(math.exp(2 / 41))
    assert age.low == pytest.approx(math.exp((2 - 1.959964 * 0.3) / 41), rel=1e-6)
    assert pain.ratio == pytest.approx(math.exp(4))
    assert pain.high == pytest.approx(math.exp(4 + 1.959964 * 0.3 * math.sqrt(2)), rel=1e-6)
    assert (missing.ratio, missing.low) == (pytest.approx(math.exp(0.5)), pytest.approx(math.exp(0.5 - 1.959964 * 0.3)))
    assert by_per["missing, against typical"].ratio == pytest.approx(math.exp(1.25))


def test_synthetic_patients_are_of_the_manifest_alone_and_come_again() -> None:
    manifest = heart_manifest()
    one, again, other = (influence.synthetic(manifest, 300, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.inputs, again.inputs)
    assert not np.array_equal(one.inputs, other.inputs)
    assert np.abs(one.inputs).max() <= 1
    assert not one.inputs[:, [name.endswith(":missing") for name in input_names(manifest)]].any()
    assert "synthetic: 300 drawn with seed 4" in one.words


def public_csv(folder: Path, rows: str, header: str = "age,cp") -> Path:
    file = folder / "public.csv"
    file.write_text(f"{header}\n{rows}")
    return file


def test_public_patients_are_read_as_the_study_encodes_them(tmp_path: Path) -> None:
    found = influence.public(public_csv(tmp_path, "59,typical\n100,asymptomatic\n,\n"), small())
    np.testing.assert_array_equal(found.inputs, [[0, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 1]])
    assert "the 3 of public.csv" in found.words


@pytest.mark.parametrize(
    ("rows", "header", "match"),
    [
        ("59\n60\n", "age", "lacks columns"),
        ("59,typical\n", "age,cp", "too few"),
        ("59,typical\n17,typical\n", "age,cp", "no number within the study's bounds"),
        ("59,typical\nold,typical\n", "age,cp", "no number within the study's bounds"),
        ("59,typical\nnan,Typical\n", "age,cp", "levels that the study has not"),
        ('59,"typical\n', "age,cp", "cannot be read as CSV"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, rows: str, header: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        influence.public(public_csv(tmp_path, rows, header), small())


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        influence.public(tmp_path / "none.csv", small())


def test_images_are_refused() -> None:
    manifest = load(example_folder("pneumonia") / "study.toml")
    with pytest.raises(InputError, match="an image is one feature"):
        influence.synthetic(manifest)


def test_without_captum_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="Captum") as raised:
        attribution.integrated_gradients(build(small()), influence.synthetic(small(), 20, 0).inputs, np.zeros(7))
    assert (raised.value.code, raised.value.remedy) == ("no-captum", 'pip install "fedward[explain]"')


def test_captum_is_imported_only_when_it_is_used() -> None:
    import subprocess

    script = "import sys, fedward.study.influence; sys.exit('captum' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
