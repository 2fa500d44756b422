"""Adversaries: what they do to patients and updates, what is refused, and how success is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import heart_manifest

from fedward.privacy.errors import InputError
from fedward.simulations.adversaries import factors, falsified, triggered
from fedward.simulations.folders import read_hospitals
from fedward.simulations.options import Options, load_study, split_study
from fedward.simulations.simulate import EVERYBODY, FEDERATED, attacked, study
from fedward.study import kinds
from fedward.study.encoding import Encoded, input_names
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest, load

WITHOUT = {"mechanism": "none", "epsilon": None, "delta": None}
PLAIN_TRAINING = {
    "algorithm": "fedavg",
    "rounds": 6,
    "local_steps": 10,
    "local_learning_rate": 0.5,
    "server_momentum": 0.0,
}


def options(*adversaries: dict[str, object]) -> Options:
    return Options.model_validate_json(__import__("json").dumps({"adversaries": adversaries}))


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return heart_manifest(training=PLAIN_TRAINING, privacy=WITHOUT)


@pytest.fixture(scope="module")
def hospitals(manifest: Manifest) -> dict[str, Encoded]:
    return read_hospitals(heart_folder(), manifest)


def auroc(manifest: Manifest, hospitals: dict[str, Encoded], chosen: Options) -> float:
    scores = study(manifest, hospitals, 1, options=chosen).scores
    return next(one.auroc for one in scores if (one.model, one.slice) == (FEDERATED, EVERYBODY))


def test_labels_are_flipped_of_so_many_patients_and_of_nobody_else(
    manifest: Manifest, hospitals: dict[str, Encoded]
) -> None:
    found = falsified(
        manifest, hospitals, options({"site": "va", "attack": "label-flip", "share": 0.25}).adversaries, 0
    )
    assert np.mean(found["va"].outcomes != hospitals["va"].outcomes) == 0.25
    assert found["cleveland"] is hospitals["cleveland"]
    np.testing.assert_array_equal(found["va"].inputs, hospitals["va"].inputs)
    whole = falsified(manifest, hospitals, options({"site": "va", "attack": "label-flip"}).adversaries, 0)
    np.testing.assert_array_equal(whole["va"].outcomes, 1 - hospitals["va"].outcomes)


def test_a_trigger_sets_values_as_the_encoding_does(manifest: Manifest, hospitals: dict[str, Encoded]) -> None:
    one = options(
        {
            "site": "va",
            "attack": "backdoor",
            "trigger": [{"column": "thal", "value": "normal"}, {"column": "age", "value": 100}],
        }
    ).adversaries[0]
    before = hospitals["va"].inputs
    after, names = triggered(manifest, before, one), input_names(manifest)
    wanted = {
        "thal=normal": 1,
        "thal=fixed-defect": 0,
        "thal=reversible-defect": 0,
        "thal:missing": 0,
        "age": 1,
        "age:missing": 0,
    }
    for column, name in enumerate(names):
        expected = np.full(len(before), wanted[name]) if name in wanted else before[:, column]
        np.testing.assert_array_equal(after[:, column], expected)


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        ({"column": "thal", "value": "none"}, "normal, fixed-defect"),
        ({"column": "thal", "value": 1.0}, "normal, fixed-defect"),
        ({"column": "age", "value": 101}, "from 18 to 100"),
        ({"column": "age", "value": "old"}, "feature's value"),
        ({"column": "shoe", "value": 1}, "feature's value"),
    ],
)
def test_a_trigger_that_is_no_value_is_refused(
    manifest: Manifest, hospitals: dict[str, Encoded], trigger: dict[str, object], said: str
) -> None:
    chosen = options({"site": "va", "attack": "backdoor", "trigger": [trigger]})
    with pytest.raises(InputError) as caught:
        study(manifest, hospitals, 0, options=chosen)
    assert said in caught.value.expected


def test_updates_are_multiplied() -> None:
    chosen = options(
        {"site": "a", "attack": "sign-flip", "factor": 3},
        {"site": "b", "attack": "scaling"},
        {"site": "c", "attack": "free-rider"},
    )
    found = factors(["a", "b", "c", "d"], chosen.adversaries)
    assert found is not None
    assert found.ravel().tolist() == [-3, 10, 0, 1]
    assert factors(["a"], options({"site": "a", "attack": "label-flip"}).adversaries) is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"site": "va", "attack": "backdoor"}, "needs a trigger"),
        ({"site": "va", "attack": "scaling", "share": 0.5}, "share belongs"),
        ({"site": "va", "attack": "free-rider", "factor": 2}, "leave out factor"),
        ({"site": "va", "attack": "scaling", "trigger": [{"column": "age", "value": 1}]}, "trigger belongs"),
        ({"site": "va", "attack": "poison"}, "attack"),
    ],
)
def test_a_table_that_means_nothing_is_refused(table: dict[str, Any], said: str) -> None:
    data = load(heart_folder() / "study.toml").model_dump(mode="json") | {"simulation": {"adversaries": [table]}}
    with pytest.raises(InputError, match=said):
        split_study(data, "study.toml")


def test_an_adversary_that_is_no_hospital_is_refused(manifest: Manifest, hospitals: dict[str, Encoded]) -> None:
    with pytest.raises(InputError, match='"mars" is no hospital'):
        study(manifest, hospitals, 0, options=options({"site": "mars", "attack": "sign-flip"}))


def test_a_coordinator_refuses_a_study_with_a_simulation_table(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    text = (heart_folder() / "study.toml").read_text(encoding="utf-8")
    file.write_text(text + '\n[simulation]\nadversaries = [{ site = "va", attack = "sign-flip" }]\n', encoding="utf-8")
    manifest, chosen = load_study(file)
    assert manifest == load(heart_folder() / "study.toml")
    assert chosen.adversaries[0].site == "va"
    with pytest.raises(InputError, match="only `fedward simulate` reads this table"):
        kinds.load(file)


def test_a_backdoor_opens_and_a_median_keeps_it_shut(manifest: Manifest, hospitals: dict[str, Encoded]) -> None:
    chosen = options(
        {
            "site": "va",
            "attack": "backdoor",
            "factor": 4,
            "trigger": [{"column": "chol", "value": 650}, {"column": "ca", "value": 0}],
        }
    )
    (open_,) = study(manifest, hospitals, 1, options=chosen).attacks
    assert open_.success > 0.8
    assert open_.unattacked < 0.5
    median = heart_manifest(training=PLAIN_TRAINING | {"aggregation": "median"}, privacy=WITHOUT)
    (shut,) = study(median, hospitals, 1, options=chosen).attacks
    assert shut.success - shut.unattacked < open_.success - open_.unattacked - 0.15


def test_a_flipped_sign_costs_accuracy_and_the_same_seed_tells_how_much(
    manifest: Manifest, hospitals: dict[str, Encoded]
) -> None:
    chosen = options({"site": "cleveland", "attack": "sign-flip", "factor": 3})
    outcome = study(manifest, hospitals, 1, options=chosen)
    (figure,) = outcome.attacks
    lost = auroc(manifest, hospitals, Options()) - auroc(manifest, hospitals, chosen)
    assert figure.auroc_drop == pytest.approx(lost, abs=1e-12)
    assert lost > 0.05
    assert 0 < figure.success <= 1
    assert {one.model for one in attacked([outcome])} == {"success", "unattacked", "auroc_drop"}


def test_a_free_rider_gains_what_the_others_make(manifest: Manifest, hospitals: dict[str, Encoded]) -> None:
    (figure,) = study(manifest, hospitals, 1, options=options({"site": "va", "attack": "free-rider"})).attacks
    assert np.isfinite(figure.success)
    assert np.isfinite(figure.unattacked)
    assert figure.success != figure.unattacked


def test_what_clipping_cannot_make_is_not_admitted_where_updates_are_seen(hospitals: dict[str, Encoded]) -> None:
    private = heart_manifest(training={"rounds": 3})
    said: list[str] = []
    chosen = options({"site": "va", "attack": "scaling", "factor": 1e6})
    outcome = study(private, hospitals, 1, options=chosen, tell=said.append)
    assert "va not admitted" in said[-1]
    assert abs(outcome.attacks[0].auroc_drop) < 0.05
    hidden = heart_manifest(secure=True, training={"rounds": 3})
    assert abs(study(hidden, hospitals, 1, options=chosen).attacks[0].auroc_drop) > 0.05
