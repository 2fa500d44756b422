"""Which sums a site helped to open: recorded before anything leaves, for good, one set of sites a base model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.client import reveals as module
from fedward.client.reveals import Reveals
from fedward.privacy.errors import FedwardError, IntegrityError, UnreachableError

A, B = "a" * 64, "b" * 64
FOUR, THREE = ("n", "o", "s", "w"), ("n", "o", "s")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "opened" / "study.jsonl"


def test_nothing_was_opened_before_anything_was(path: Path) -> None:
    reveals = Reveals(path)
    assert reveals.other_than(A, FOUR) is None
    assert not path.exists()


def test_one_set_a_base_model_for_good(path: Path) -> None:
    Reveals(path).add(A, FOUR)
    for reveals in (Reveals(path), Reveals(path)):  # as after a restart
        assert reveals.other_than(A, FOUR) is None
        assert reveals.other_than(A, THREE) == FOUR
        assert reveals.other_than(B, THREE) is None
        with pytest.raises(IntegrityError) as caught:
            reveals.add(A, THREE)
        assert caught.value.code == "differencing"
    assert Reveals(path).other_than(A, THREE) == FOUR
    assert len(path.read_bytes().splitlines()) == 1


def test_the_same_sum_again_says_nothing_new(path: Path) -> None:
    reveals = Reveals(path)
    for _ in range(3):
        reveals.add(A, FOUR)
    Reveals(path).add(A, list(FOUR))
    reveals.add(B, THREE)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"base": A, "sites": list(FOUR)},
        {"base": B, "sites": list(THREE)},
    ]


def test_it_is_on_disk_before_the_caller_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bytes]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((target.name, target.read_bytes() if target.is_file() else b""))
        real(handle)

    monkeypatch.setattr(module.os, "fsync", fsync)
    Reveals(path).add(A, FOUR)
    assert [name for name, _ in synced] == ["study.jsonl", "opened"]  # the line, then the new file's name
    assert json.loads(synced[0][1])["base"] == A
    Reveals(path).add(B, FOUR)
    assert json.loads(synced[2][1].splitlines()[1])["base"] == B


def test_a_folder_that_others_cannot_enter(path: Path) -> None:
    Reveals(path).add(A, FOUR)
    assert path.parent.stat().st_mode & 0o077 == 0


def test_what_cannot_be_written_is_not_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    reveals = Reveals(path)
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "fsync", full)
        with pytest.raises(UnreachableError, match="cannot be recorded") as caught:
            reveals.add(A, FOUR)
        assert caught.value.code == "disk"
        assert "No space left" in str(caught.value)


def test_a_folder_that_cannot_be_made_refuses(tmp_path: Path) -> None:
    (tmp_path / "opened").write_text("a file in the way")
    with pytest.raises(UnreachableError) as caught:
        Reveals(tmp_path / "opened" / "study.jsonl").add(A, FOUR)
    assert caught.value.code == "disk"


@pytest.mark.parametrize("left", range(1, 12, 3))
def test_a_last_line_that_was_cut_is_of_a_write_that_nothing_followed(path: Path, left: int) -> None:
    Reveals(path).add(A, FOUR)
    whole = path.read_bytes()
    path.write_bytes(whole + json.dumps({"base": B, "sites": list(FOUR)}).encode()[:left])
    reveals = Reveals(path)
    assert reveals.other_than(B, THREE) is None
    assert reveals.other_than(A, THREE) == FOUR
    reveals.add(B, THREE)
    assert path.read_bytes().startswith(whole)
    assert Reveals(path).other_than(B, FOUR) == THREE
    assert Reveals(path).other_than(A, THREE) == FOUR


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"base": "a"}',
        b'{"sites": ["n"]}',
        b'{"base": "a", "sites": null}',
        b'{"base": "a", "sites": 7}',
        b"\xff\xfe",
        b"",
    ],
)
def test_any_other_damage_refuses_rather_than_forgets(path: Path, line: bytes) -> None:
    Reveals(path).add(A, FOUR)
    for damaged in (line + b"\n" + path.read_bytes(), path.read_bytes() + line + b"\n"):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="damaged"):
            Reveals(path).other_than(B, FOUR)
        with pytest.raises(IntegrityError, match="damaged"):
            Reveals(path).add(B, FOUR)
        assert path.read_bytes() == damaged


def test_a_file_that_is_taken_back_or_removed_makes_a_running_node_forget_nothing(path: Path) -> None:
    reveals = Reveals(path)
    reveals.add(A, FOUR)
    backup = path.read_bytes()
    reveals.add(B, FOUR)
    path.write_bytes(backup)
    assert reveals.other_than(B, THREE) == FOUR
    path.unlink()
    assert reveals.other_than(A, THREE) == FOUR
    assert reveals.other_than(B, THREE) == FOUR


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([FOUR, THREE, ("n", "o", "w")]), st.booleans()), max_size=12
    )
)
def test_whatever_is_asked_in_whatever_order_no_base_has_two_sets(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, tuple[str, ...], bool]]
) -> None:
    path = tmp_path_factory.mktemp("reveals") / "opened" / "study.jsonl"
    model: dict[str, tuple[str, ...]] = {}
    reveals = Reveals(path)
    for base, sites, restarted in asked:
        reveals = Reveals(path) if restarted else reveals
        expected = model.get(base)
        assert reveals.other_than(base, sites) == (None if expected in {None, sites} else expected)
        try:
            reveals.add(base, sites)
        except FedwardError:
            assert expected not in {None, sites}
        else:
            assert model.setdefault(base, sites) == sites
