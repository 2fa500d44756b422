"""What a killed node leaves to the next one: only to that of the same folder, and damaged it is as none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedward.client.flower import remembered
from fedward.client.flower.remembered import Left, Remembered


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "session.json"


def test_a_session_is_remembered_with_the_message_under_way_until_it_ends(file: Path) -> None:
    assert Remembered(file).left() is None
    node = Remembered(file)
    node.entered(2**63 + 5)
    assert Remembered(file).left() == Left(2**63 + 5, b"")
    node.took(b"\x00header")
    assert Remembered(file).left() == Left(2**63 + 5, b"\x00header")
    assert file.stat().st_mode & 0o777 == 0o600
    node.answered()
    assert Remembered(file).left() == Left(2**63 + 5, b"")
    assert node.left() is None, "its own session is none that was left"
    node.gone()
    assert Remembered(file).left() is None
    assert list(file.parent.iterdir()) == []


def test_without_a_session_nothing_is_written(file: Path) -> None:
    node = Remembered(file)
    node.took(b"header")
    assert not file.exists()
    Remembered(None).entered(1)
    Remembered(None).gone()
    assert Remembered(None).left() is None


def test_a_copy_of_the_home_and_a_machine_that_started_again_know_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Remembered(file).entered(7)
    shutil.copytree(file.parent, file.parent.with_name("copy"))
    assert Remembered(file.parent.with_name("copy") / file.name).left() is None
    assert Remembered(file).left() == Left(7, b"")
    boot = file.with_name("boot")
    boot.write_text("another\n")
    monkeypatch.setattr(remembered, "_BOOT", boot)
    assert Remembered(file).left() is None
    monkeypatch.setattr(remembered, "_BOOT", file.with_name("none"))
    Remembered(file).entered(8)  # a system that cannot tell
    assert Remembered(file).left() is None


def test_a_folder_that_takes_no_file_stops_nobody(file: Path) -> None:
    shutil.rmtree(file.parent)
    node = Remembered(file)
    node.entered(7)
    node.took(b"header")
    node.gone()
    assert Remembered(file).left() is None


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_a_damaged_file_is_as_none_or_names_another_session(file: Path, data: st.DataObject) -> None:
    """Whatever it names, the coordinator refuses a number that is not this site's."""
    node = Remembered(file)
    node.entered(7)
    node.took(b"header")
    whole = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    file.write_bytes(whole)
    found = Remembered(file).left()
    assert found is None or isinstance(found, Left)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "7", '{"node": []}', "[" * 100_000, '{"place": 1, "node": 1, "message": 1}', "\xff"]
)
def test_what_is_no_session_is_none(file: Path, text: str) -> None:
    file.write_text(text, encoding="latin-1")
    assert Remembered(file).left() is None
