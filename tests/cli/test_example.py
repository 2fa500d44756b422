"""`fedward example`: each study's files, under their own name or another."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import fedward, good

from fedward.study.examples import EXAMPLES
from fedward.study.manifest import load


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_a_study_by_its_name(tmp_path: Path, name: str) -> None:
    found = good("example", name, tmp_path / "mine")
    assert "study.toml" in found["files"]
    load(tmp_path / "mine" / "study.toml")
    ran = fedward("example", name, tmp_path / "mine", "--json")
    assert (ran.code, ran.json["error"]) == (2, "usage")
    assert f"{tmp_path / 'other'}/study.toml" in "".join(fedward("example", name, tmp_path / "other").out.split())


def test_another_word_alone_is_the_folder_of_heart(tmp_path: Path) -> None:
    found = good("example", tmp_path / "mine")
    assert "cleveland.csv" in found["files"]
    wrong = fedward("example", "lung", tmp_path / "new", "--json")
    assert (wrong.code, wrong.json["error"]) == (3, "bad-input")
    assert not (tmp_path / "new").exists()
