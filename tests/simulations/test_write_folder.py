"""Made-up hospitals as files are the made-up hospitals, and hundreds of them are read and simulated in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import fedward, good
from federation import heart_manifest

from fedward.privacy.errors import InputError, UsageError
from fedward.simulations.folders import read_hospitals
from fedward.simulations.simulate import EVERYBODY, FEDERATED, study
from fedward.simulations.synthetic import synthetic
from fedward.simulations.write_folder import write_hospitals
from fedward.study.examples import example_folder
from fedward.study.manifest import load

MANIFEST = heart_manifest()
STUDY = example_folder("heart") / "study.toml"


def test_two_hundred_hospitals_are_read_and_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A model of its own for each of the 200 is nothing that this asks for.
    monkeypatch.setattr("fedward.simulations.simulate.baselines", lambda *_: {})
    names = write_hospitals(tmp_path / "many", STUDY, 200, 40, shift=0.3, seed=4)
    assert len(names) == 200
    hospitals = read_hospitals(tmp_path / "many", load(tmp_path / "many" / "study.toml"))
    assert list(hospitals) == names
    assert {len(data) for data in hospitals.values()} == {40}
    outcome = study(MANIFEST, hospitals, 0)
    found = next(one for one in outcome.scores if (one.model, one.slice) == (FEDERATED, EVERYBODY))
    # The patients are learnable, although each hospital has a few dozen and the noise of ε = 3.
    assert found.auroc > 0.75


def test_the_files_say_exactly_what_was_drawn(tmp_path: Path) -> None:
    write_hospitals(tmp_path, STUDY, 7, 30, shift=1.0, seed=3)
    read, made = read_hospitals(tmp_path, MANIFEST), synthetic(MANIFEST, 7, 30, 1.0, 3).hospitals
    assert list(read) == list(made)
    for site, data in made.items():
        np.testing.assert_array_equal(read[site].inputs, data.inputs)
        np.testing.assert_array_equal(read[site].outcomes, data.outcomes)
        np.testing.assert_array_equal(read[site].membership, data.membership)
        assert read[site].patients == data.patients


def test_a_study_that_has_a_column_patient_too(tmp_path: Path) -> None:
    study_file = tmp_path / "study.toml"
    study_file.write_text(STUDY.read_text().replace('column = "chol"', 'column = "patient"'))
    write_hospitals(tmp_path / "out", study_file, 3, 20)
    assert len(read_hospitals(tmp_path / "out", load(study_file))) == 3


def test_the_command_writes_them(tmp_path: Path) -> None:
    out = tmp_path / "few"
    found = good("example", "synthetic", out, "--sites", 5, "--patients", 60, "--study", "heart", "--seed", 2)
    assert (found["folder"], len(found["files"])) == (str(out), 11)
    assert {path.name for path in out.iterdir()} == set(found["files"])
    ran = fedward("simulate", out, "--sites", out, "--seeds", 1)
    assert ran.code == 0, ran
    refused = fedward("example", "synthetic", out, "--json")
    assert (refused.code, refused.json["error"]) == (2, "usage")
    more = fedward("example", "synthetic", tmp_path / "many", "--sites", 30, "--patients", 12)
    assert "and 57 more" in " ".join(more.out.split())


def test_what_cannot_be_made_up_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="images"):
        write_hospitals(tmp_path / "new", example_folder("pneumonia") / "study.toml", 3, 20)
    with pytest.raises(InputError, match="out of range"):
        write_hospitals(tmp_path / "new", STUDY, 3, 0)
    assert not (tmp_path / "new").exists()
    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        write_hospitals(tmp_path, STUDY, 3, 20)
