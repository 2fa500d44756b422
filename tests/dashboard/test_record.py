"""A run's folder is read as it stands; what cannot be read says which file and what helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from runs import broken_off, written

from fedward.dashboard.record import check, read, stamp
from fedward.privacy.errors import InputError


def test_seeds_own_files_and_the_finished_tables_say_the_same(run: Path, tmp_path: Path) -> None:
    finished, open_ = read(run), read(broken_off(run, tmp_path / "open", [0, 1, 2]))
    assert (finished.finished, open_.finished) == (True, False)
    assert finished.seeds == open_.seeds == (0, 1, 2)
    pd.testing.assert_frame_equal(finished.scores, open_.scores, check_dtype=False)
    pd.testing.assert_frame_equal(finished.curve, open_.curve, check_dtype=False)
    assert open_.summary == {}


def test_a_finished_run_that_goes_on_shows_its_new_seeds(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "more")
    before = stamp(folder)
    shutil.copy(folder / "seeds" / "2.json", folder / "seeds" / "3.json")
    record = read(folder)
    assert (record.seeds, record.finished) == ((0, 1, 2, 3), False)
    assert set(record.scores["seed"]) == {0, 1, 2, 3}
    assert stamp(folder) != before


def test_a_seed_that_is_made_anew_is_read_anew(run: Path, tmp_path: Path) -> None:
    folder = broken_off(run, tmp_path / "open", [0])
    read(folder)
    file = folder / "seeds" / "0.json"
    data = json.loads(file.read_text())
    data["scores"][0]["auroc"] = 0.125
    file.write_text(json.dumps(data))
    assert read(folder).scores["auroc"][0] == 0.125


def test_a_run_that_has_just_begun_has_empty_tables(tmp_path: Path) -> None:
    record = read(written(tmp_path / "run", []))
    assert (record.seeds, record.finished, len(record.scores), len(record.curve)) == ((), False, 0, 0)


def test_what_is_no_run_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        check(tmp_path / "none")
    with pytest.raises(InputError, match=r"without run\.json"):
        check(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a file"):
        check(tmp_path / "file")
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(InputError, match="a sweep's folder"):
        check(tmp_path)
    (tmp_path / "federation.json").write_text("{}")
    with pytest.raises(InputError, match=r"coordinator's home.*fedward monitor --store"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("name", "helps"),
    [(f"{name}.json", "new folder") for name in ("run", "study", "environment", "simulation")]
    + [(name, "same fedward simulate") for name in ("summary.json", "scores.parquet", "rounds.parquet")],
)
@pytest.mark.parametrize("broken", [b"", b"\xff\x00nonsense", b"[1]"], ids=["empty", "bytes", "another kind"])
def test_an_unreadable_file_is_named_with_what_helps(
    run: Path, tmp_path: Path, name: str, helps: str, broken: bytes
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / name).write_bytes(broken)
    with pytest.raises(InputError) as caught:
        read(folder)
    assert str(folder / name) in caught.value.what
    assert helps in str(caught.value.remedy)


@pytest.mark.parametrize(
    "data", ["{", '{"scores": [{"model": "federated"}], "curve": [], "failure": ""}', '{"scores": 3}']
)
def test_an_unreadable_seed_is_to_be_made_anew(run: Path, tmp_path: Path, data: str) -> None:
    folder = broken_off(run, tmp_path / "run", [0, 1])
    (folder / "seeds" / "1.json").write_text(data)
    with pytest.raises(InputError, match=r"seeds/1\.json cannot be read.*delete it"):
        read(folder)


def test_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"another version.*format 9"):
        read(written(tmp_path / "run", [], run={"format": 9}))


def test_a_study_that_this_version_does_not_know_has_no_manifest(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [])
    assert read(folder).manifest() is not None
    (folder / "study.json").write_text('{"study": {"id": "x"}, "new": 1}')
    assert read(folder).manifest() is None
