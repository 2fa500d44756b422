"""A member of a download: found wherever it lies, never more of it than allowed."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import pytest

from fedward.privacy.errors import InputError
from fedward.simulations.archives import member


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return path


def test_a_member_is_found_in_any_folder_and_macos_s_shadow_is_not_it(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", **{"deep/er/t.csv": b"1,2", "__MACOSX/deep/er/t.csv": b"x", "other": b""})
    assert member(path, "t.csv") == b"1,2"


def test_what_unfolds_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.zip", **{"t.csv": bytes(5_000_000)})
    assert path.stat().st_size < 10_000
    assert len(member(path, "t.csv", 5_000_000)) == 5_000_000
    with pytest.raises(InputError, match="too large"):
        member(path, "t.csv", 4_999_999)


def test_a_size_that_lies_is_refused(tmp_path: Path) -> None:
    data = archive(tmp_path / "a.zip", **{"t.csv": bytes(5_000_000)}).read_bytes()
    (tmp_path / "b.zip").write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="cannot be read as a zip"):
            member(tmp_path / "b.zip", "t.csv", 1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000  # it was never unfolded
    finally:
        tracemalloc.stop()


def test_what_is_no_archive_or_lacks_the_member_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match="cannot be read as a zip"):
        member(tmp_path / "text.zip", "t.csv")
    with pytest.raises(InputError, match=r"no file t\.csv.*other"):
        member(archive(tmp_path / "a.zip", other=b""), "t.csv")
    with pytest.raises(InputError, match="several files"):
        member(archive(tmp_path / "b.zip", **{"a/t.csv": b"1", "b/t.csv": b"2"}), "t.csv")
    whole = archive(tmp_path / "c.zip", **{"t.csv": bytes(range(256)) * 40}).read_bytes()
    (tmp_path / "c.zip").write_bytes(whole[:40] + b"\xff\xff\xff" + whole[43:])
    with pytest.raises(InputError, match="cannot be read as a zip"):
        member(tmp_path / "c.zip", "t.csv")
