"""Where hospitals come from, by one text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from federation import heart_manifest

from fedward.privacy.errors import InputError, UsageError
from fedward.simulations.folders import cut_hospitals, read_hospitals
from fedward.simulations.partition import parse_partition
from fedward.simulations.sources import read_sites
from fedward.simulations.write_folder import write_hospitals
from fedward.study.examples import example_folder
from fedward.study.heart import SITES, heart_folder
from fedward.study.manifest import load

MANIFEST = heart_manifest()


def test_the_example_and_its_folder_are_the_same_hospitals() -> None:
    named, folder = read_sites("heart", MANIFEST), read_sites(str(heart_folder()), MANIFEST)
    assert tuple(named.hospitals) == SITES
    assert named.said == ""
    for site, data in read_hospitals(heart_folder(), MANIFEST).items():
        np.testing.assert_array_equal(named.hospitals[site].inputs, data.inputs)
        np.testing.assert_array_equal(folder.hospitals[site].inputs, data.inputs)


def test_a_partition_cuts_them_anew() -> None:
    found = read_sites("heart", MANIFEST, "labels:6:0.5").hospitals
    wanted = cut_hospitals(heart_folder(), MANIFEST, parse_partition("labels:6:0.5"))
    assert {site: data.patients for site, data in found.items()} == {s: d.patients for s, d in wanted.items()}


def test_made_up_hospitals_tell_their_best() -> None:
    found = read_sites("synthetic:12:30:0.5", MANIFEST)
    assert {len(data) for data in found.hospitals.values()} == {30}
    assert "best possible AUROC" in found.said


@pytest.mark.parametrize("text", ["synthetic", "synthetic:", "diabetes130", "diabetes130:", "medmnist", "medmnist:"])
def test_a_kind_of_source_needs_what_is_behind_its_colon(text: str) -> None:
    with pytest.raises(UsageError, match="behind the colon"):
        read_sites(text, MANIFEST)


def test_a_folder_may_have_the_name_of_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_hospitals(Path("synthetic"), heart_folder() / "study.toml", 3, 20)
    assert len(read_sites("synthetic", MANIFEST).hospitals) == 3


def test_the_example_s_hospitals_serve_no_other_study() -> None:
    other = load(example_folder("diabetes130") / "study.toml")
    with pytest.raises(InputError, match=r'do not serve study "diabetes130-readmission".*--sites'):
        read_sites("heart", other)


@pytest.mark.parametrize("text", ["synthetic:3", "synthetic:a:4", "synthetic:3:4:5:6"])
def test_what_names_no_hospitals_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no made-up"):
        read_sites(text, MANIFEST)


def test_made_up_hospitals_are_not_cut_and_a_folder_must_be_there() -> None:
    with pytest.raises(UsageError, match="not cut anew"):
        read_sites("synthetic:3:30", MANIFEST, "iid:3")
    with pytest.raises(InputError, match="no hospital's data"):
        read_sites("/nowhere", MANIFEST)
