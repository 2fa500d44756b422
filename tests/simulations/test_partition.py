"""One table cut into hospitals: nobody lost, nobody twice, a patient's rows together, and skewed as asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from federation import heart_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.errors import InputError
from fedward.simulations.folders import cut_hospitals, read_hospitals
from fedward.simulations.partition import FEWEST, Partition, parse_partition, partition
from fedward.study.heart import heart_folder


def table(patients: int, encounters: int = 1, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = np.repeat([f"p{number}" for number in range(patients)], encounters)
    return pd.DataFrame(
        {
            "age": generator.uniform(20, 90, len(rows)),
            "race": generator.choice(["Asian", "Black / African", None], len(rows)),
            "y": (generator.random(len(rows)) < 0.3).astype(float),
        },
        index=pd.Index(rows, name="patient"),
    )


def cut(frame: pd.DataFrame, text: str, seed: int = 0) -> dict[str, pd.DataFrame]:
    return partition(frame, parse_partition(text), "y", np.random.default_rng(seed))


@settings(max_examples=40)
@given(
    patients=st.integers(60, 200),
    encounters=st.integers(1, 3),
    text=st.sampled_from(["iid:3", "labels:3:1", "sizes:4:5", "shift:5:age", "column:race"]),
    seed=st.integers(0, 5),
)
def test_every_row_is_at_one_hospital_and_a_patient_s_are_together(
    patients: int, encounters: int, text: str, seed: int
) -> None:
    frame = table(patients, encounters, seed)
    pieces = cut(frame, text, seed)
    assert sum(map(len, pieces.values())) == len(frame)
    owners: dict[str, str] = {}
    for name, piece in pieces.items():
        for patient in piece.index:
            assert owners.setdefault(patient, name) == name
    assert len(owners) == patients
    if not text.startswith("column"):
        assert all(piece.index.nunique() >= FEWEST for piece in pieces.values())


def test_each_kind_skews_what_it_says() -> None:
    frame = table(4000)

    def spread(text: str, figure: str) -> float:
        pieces = cut(frame, text).values()
        values = {
            "outcome": [piece["y"].mean() for piece in pieces],
            "size": [len(piece) / 400 for piece in pieces],
            "age": [piece["age"].mean() / 20 for piece in pieces],
        }[figure]
        return float(np.std(values))

    assert all(spread("iid:10", figure) < 0.06 for figure in ("outcome", "size", "age"))
    assert spread("labels:10:0.5", "outcome") > 0.15
    assert spread("labels:10:1000", "outcome") < 0.03
    assert spread("sizes:10:0.5", "size") > 0.5
    assert spread("sizes:10:0.5", "outcome") < 0.15
    assert spread("shift:10:age", "age") > 0.5
    assert spread("shift:10:age", "size") == 0


def test_a_hospital_for_each_level_missing_ones_included() -> None:
    pieces = cut(table(200), "column:race")
    assert set(pieces) == {"race-asian", "race-black-african", "race-missing"}
    assert set(pieces["race-asian"]["race"]) == {"Asian"}


def test_the_same_generator_cuts_the_same() -> None:
    frame = table(300)
    assert all(
        cut(frame, "labels:4:0.5", 3)[name].equals(piece) for name, piece in cut(frame, "labels:4:0.5", 3).items()
    )
    assert not cut(frame, "iid:4", 3)["site-1"].equals(cut(frame, "iid:4", 4)["site-1"])


@pytest.mark.parametrize(
    "text",
    ["", "iid", "iid:", "iid:x", "iid:0", "iid:3:1", "labels:3", "labels:3:0", "labels:3:nan", "sizes:3:-1", "shift:3", "shift:3:",
     "column:", "column", "warp:3"],
)  # fmt: skip
def test_what_is_no_way_to_cut_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_partition(text)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Partition("iid", 7), "too few"),
        (Partition("shift", 3, column="race"), "no number"),
        (Partition("shift", 3, column="bmi"), "no column"),
        (Partition("column", column="bmi"), "no column"),
        (Partition("sizes", 6, 0.001), "no draw"),
    ],
)
def test_what_cannot_be_cut_is_refused(how: Partition, words: str) -> None:
    with pytest.raises(InputError, match=words):
        partition(table(60), how, "y", np.random.default_rng(0))


def test_a_folder_s_hospitals_are_cut_anew() -> None:
    manifest = heart_manifest()
    whole = read_hospitals(heart_folder(), manifest)
    pieces = cut_hospitals(heart_folder(), manifest, parse_partition("labels:6:0.5"))
    assert sum(map(len, pieces.values())) == sum(map(len, whole.values())) == 920
    before = np.sort(np.concatenate([data.inputs.sum(axis=1) for data in whole.values()]))
    after = np.sort(np.concatenate([data.inputs.sum(axis=1) for data in pieces.values()]))
    np.testing.assert_array_equal(before, after)
