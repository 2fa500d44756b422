"""A simulated study with its baselines, over seeds, and its folder: what it scores, that it repeats, and that it goes on."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from federation import heart_manifest
from sklearn.metrics import brier_score_loss, roc_auc_score

from fedward.privacy.errors import InputError
from fedward.simulations.baselines import pool, predict, split
from fedward.simulations.expected import split_key
from fedward.simulations.folders import read_hospitals
from fedward.simulations.plots import draw
from fedward.simulations.run_folder import RunFolder, summary
from fedward.simulations.simulate import EVERYBODY, FEDERATED, POOLED, Outcome, Score, gains, study, summarise
from fedward.study.encoding import Encoded
from fedward.study.heart import SITES, heart_folder
from fedward.study.manifest import Manifest

MANIFEST = heart_manifest(training={"rounds": 3})


@pytest.fixture(scope="module")
def hospitals() -> dict[str, Encoded]:
    return read_hospitals(heart_folder(), MANIFEST)


@pytest.fixture(scope="module")
def outcomes(hospitals: dict[str, Encoded]) -> list[Outcome]:
    return [study(MANIFEST, hospitals, seed) for seed in range(3)]


def scores(outcome: Outcome) -> dict[tuple[str, str], Score]:
    return {(score.model, score.slice): score for score in outcome.scores}


def test_scores_are_scikit_learn_s_on_patients_who_trained_nothing(
    hospitals: dict[str, Encoded], outcomes: list[Outcome]
) -> None:
    parts = {
        site: split(data, MANIFEST.training.holdout, split_key(1, site)) for site, data in sorted(hospitals.items())
    }
    unseen = {site: part.held_out for site, part in parts.items()}
    together = pool(unseen.values())
    vector = outcomes[1].vector
    assert vector is not None
    found = scores(outcomes[1])[FEDERATED, EVERYBODY]
    chances = predict(MANIFEST, vector, together)
    assert found.auroc == pytest.approx(roc_auc_score(together.outcomes, chances))
    assert found.brier == pytest.approx(brier_score_loss(together.outcomes, chances))
    assert (found.patients, found.positives) == (len(together), together.outcomes.sum())
    va = unseen["va"]
    at_va = scores(outcomes[1])[FEDERATED, "site=va"]
    assert at_va.auroc == pytest.approx(roc_auc_score(va.outcomes, predict(MANIFEST, vector, va)))
    women = scores(outcomes[1])[FEDERATED, "sex=female"]
    assert women.patients == together.membership[:, 0].sum()
    assert outcomes[1].curve[-1] == found.auroc
    assert len(outcomes[1].curve) == 4


def test_every_baseline_is_in_the_same_table(outcomes: list[Outcome]) -> None:
    models = {model for model, _ in scores(outcomes[0])}
    assert models == {FEDERATED, POOLED, *(f"alone:{site}" for site in SITES)}
    table = {(one.model, one.slice): one for one in summarise(outcomes)}
    mean = table["alone, mean", EVERYBODY]
    own = [np.mean([scores(one)[f"alone:{site}", EVERYBODY].auroc for site in SITES]) for one in outcomes]
    assert mean.mean == pytest.approx(np.mean(own))
    assert mean.low <= mean.mean <= mean.high
    assert mean.deviation == pytest.approx(np.std(own, ddof=1))
    assert table[POOLED, EVERYBODY].mean > mean.mean
    va = next(one for one in gains(outcomes) if one.slice == "site=va")
    paired = [scores(one)[FEDERATED, "site=va"].auroc - scores(one)["alone:va", "site=va"].auroc for one in outcomes]
    assert va.mean == pytest.approx(np.mean(paired))


def test_a_seed_repeats_to_the_bit_and_another_does_not(hospitals: dict[str, Encoded], outcomes: list[Outcome]) -> None:
    again = study(MANIFEST, hospitals, 0)
    assert again.vector is not None
    np.testing.assert_array_equal(again.vector, outcomes[0].vector)
    assert again.scores == outcomes[0].scores
    assert outcomes[1].scores != outcomes[0].scores


def test_the_loop_gives_the_same_study(hospitals: dict[str, Encoded], outcomes: list[Outcome]) -> None:
    looped = study(MANIFEST, hospitals, 0, "loop")
    assert looped.vector is not None
    np.testing.assert_allclose(looped.vector, outcomes[0].vector, atol=1e-5)


def test_a_study_that_diverges_is_a_result(hospitals: dict[str, Encoded]) -> None:
    wild = heart_manifest(
        training={
            "algorithm": "fedavg",
            "rounds": 40,
            "local_steps": 50,
            "local_learning_rate": 10.0,
            "server_learning_rate": 10.0,
        },
        privacy={"mechanism": "none", "epsilon": None, "delta": None},
        model={"name": "mlp", "hidden": [8]},
    )
    found = study(wild, hospitals, 0)
    if found.vector is None:  # machines round differently: where it stays finite, it is scored
        assert found.failure
        assert FEDERATED not in {model for model, _ in scores(found)}
    assert summarise([found])


@pytest.mark.parametrize("seed", [-1])
def test_a_seed_below_0_and_no_hospital_are_refused(seed: int, hospitals: dict[str, Encoded]) -> None:
    with pytest.raises(InputError):
        study(MANIFEST, hospitals, seed)
    with pytest.raises(InputError):
        study(MANIFEST, {}, 0)


def test_a_simulation_casts_no_votes_and_says_so(hospitals: dict[str, Encoded]) -> None:
    with pytest.raises(InputError, match="counts no votes") as caught:
        study(heart_manifest(training={"rounds": 1}, evaluation={"influence": True}), hospitals, 0)
    assert "fedward plan" in (caught.value.remedy or "")


def test_a_folder_goes_on_and_gives_the_same_tables(
    tmp_path: Path, hospitals: dict[str, Encoded], outcomes: list[Outcome]
) -> None:
    folder = RunFolder.open(tmp_path / "run", MANIFEST, hospitals, "stacked")
    for outcome in outcomes:
        assert folder.done(outcome.seed) is None
        folder.keep(outcome)
    folder.finish(MANIFEST, outcomes)
    draw(folder.path / "plots", MANIFEST, outcomes)
    assert {path.name for path in (folder.path / "plots").iterdir()} == {"convergence.svg", "gain.svg", "gap.svg"}

    again = RunFolder.open(tmp_path / "run", MANIFEST, hospitals, "stacked")
    read = [again.done(seed) for seed in range(3)]
    for one, other in zip(read, outcomes, strict=True):
        assert one is not None
        np.testing.assert_array_equal(one.vector, other.vector)
        assert (one.scores, one.curve) == (other.scores, other.curve)
    assert again.done(3) is None
    kept = pd.read_parquet(folder.path / "scores.parquet")
    assert len(kept) == sum(len(one.scores) for one in outcomes)
    assert list(kept.columns) == ["seed", *Score.__dataclass_fields__]
    assert len(pd.read_parquet(folder.path / "rounds.parquet")) == 3 * 4
    assert json.loads((folder.path / "summary.json").read_text()) == json.loads(json.dumps(summary(MANIFEST, outcomes)))
    assert Manifest.model_validate_json((folder.path / "study.json").read_bytes()) == MANIFEST
    assert "numpy" in json.loads((folder.path / "environment.json").read_text())["packages"]


def test_a_folder_of_another_run_is_refused(tmp_path: Path, hospitals: dict[str, Encoded]) -> None:
    RunFolder.open(tmp_path / "run", MANIFEST, hospitals, "stacked")
    others = {
        "manifest": (heart_manifest(training={"rounds": 4}), hospitals, "stacked"),
        "patients": (MANIFEST, {site: hospitals[site] for site in SITES[:3]}, "stacked"),
        "engine": (MANIFEST, hospitals, "loop"),
    }
    for name, (manifest, data, engine) in others.items():
        with pytest.raises(InputError, match=f"its {name} differ"):
            RunFolder.open(tmp_path / "run", manifest, data, engine)  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    with pytest.raises(InputError, match="other files"):
        RunFolder.open(tmp_path / "full", MANIFEST, hospitals, "stacked")


def test_a_folder_whose_making_was_broken_off_is_made_again(tmp_path: Path, hospitals: dict[str, Encoded]) -> None:
    RunFolder.open(tmp_path / "run", MANIFEST, hospitals, "stacked")
    (tmp_path / "run" / "run.json").rename(
        tmp_path / "run" / ".run.json.abcdefgh"
    )  # killed before the last file was there
    RunFolder.open(tmp_path / "run", MANIFEST, hospitals, "stacked")
    assert (tmp_path / "run" / "run.json").is_file()
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be read"):
        RunFolder.open(tmp_path / "run", MANIFEST, hospitals, "stacked")
    (tmp_path / "run" / "run.json").unlink()
    (tmp_path / "run" / "seeds" / "0.json").write_text("{}")  # of a study that was done: nobody knows of which run
    with pytest.raises(InputError, match="other files"):
        RunFolder.open(tmp_path / "run", MANIFEST, hospitals, "stacked")


@pytest.mark.parametrize(
    "broken", ["{", "[]", '{"scores": [], "curve": []}', '{"scores": [{"a": 1}], "curve": [], "failure": ""}']
)
def test_a_damaged_seed_is_named(
    tmp_path: Path, hospitals: dict[str, Encoded], outcomes: list[Outcome], broken: str
) -> None:
    folder = RunFolder.open(tmp_path / "run", MANIFEST, hospitals, "stacked")
    folder.keep(outcomes[0])
    (folder.path / "seeds" / "0.json").write_text(broken)
    with pytest.raises(InputError, match="delete it"):
        folder.done(0)
    folder.keep(outcomes[0])
    (folder.path / "models" / "0.safetensors").write_bytes(b"abc")
    with pytest.raises(InputError, match="delete it"):
        folder.done(0)
    shutil.rmtree(folder.path / "models")
    with pytest.raises(InputError, match="delete it"):
        folder.done(0)


def test_scaffold_s_honest_updates_are_admitted_however_loud_the_noise(
    hospitals: dict[str, Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update holds its own noise and that of control variates, which were made of noised updates."""
    # Of the wide model they would take twenty times as long as the rounds, and nothing here asks for them.
    monkeypatch.setattr("fedward.simulations.simulate.baselines", lambda *_: {})
    loud = heart_manifest(
        training={"algorithm": "scaffold", "rounds": 4, "server_momentum": 0.0, "local_learning_rate": 0.5},
        privacy={"epsilon": 0.3},
        model={"name": "mlp", "hidden": [128, 128]},
    )
    said: list[str] = []
    assert not study(loud, hospitals, 0, tell=said.append).failure
    assert "admitted" not in " ".join(said)


def test_a_site_whose_only_patient_is_held_out_trains_nothing(hospitals: dict[str, Encoded]) -> None:
    """Without noise too, as when a private study is fine-tuned."""
    free = heart_manifest(
        training={"algorithm": "fedavg", "local_steps": 2, "rounds": 2},
        privacy={"mechanism": "none", "epsilon": None, "delta": None},
    )
    va = hospitals["va"]
    one = next(
        Encoded(
            va.patients[row : row + 1],
            va.inputs[row : row + 1],
            va.outcomes[row : row + 1],
            va.membership[row : row + 1],
        )
        for row in range(20)
        if not len(
            split(va.select(np.arange(len(va.outcomes)) == row), free.training.holdout, split_key(0, "va")).training
        )
    )
    stacked, looped = (study(free, hospitals | {"va": one}, 0, engine).vector for engine in ("stacked", "loop"))  # type: ignore[arg-type]
    assert stacked is not None
    assert looped is not None
    np.testing.assert_allclose(stacked, looped, atol=1e-5)


def test_a_site_with_one_outcome_has_no_model_of_its_own(hospitals: dict[str, Encoded]) -> None:
    va = hospitals["va"]
    healthy = Encoded(va.patients, va.inputs, np.zeros_like(va.outcomes), va.membership)
    found = study(MANIFEST, hospitals | {"va": healthy}, 0)
    assert "alone:va" not in {score.model for score in found.scores}
    assert math.isnan(scores(found)[FEDERATED, "site=va"].auroc)
    table = {(one.model, one.slice): one for one in summarise([found])}
    assert table[FEDERATED, "site=va"].seeds == 0
