"""A folder that is copied, and what the file system says when it takes nothing more."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from smalldisk import SmallDisk

from fedward.privacy.durable import copy_folder, is_disk_error


def _folder(path: Path) -> Path:
    (path / "keys" / "old").mkdir(parents=True)
    (path / "keys" / "home.json").write_bytes(b"{}")
    (path / "keys" / "old" / "one.pem").write_bytes(b"secret")
    (path / "keys" / "old" / "one.pem").chmod(0o600)
    (path / "keys").chmod(0o700)
    os.utime(path / "keys" / "home.json", (1, 2))
    return path


def test_a_copy_has_everything_with_its_permissions_and_dates(tmp_path: Path) -> None:
    source, target = _folder(tmp_path / "from"), tmp_path / "to"
    copy_folder(source, target)
    found = {
        path.relative_to(target).as_posix(): (path.stat().st_mode, int(path.stat().st_mtime), path.is_dir() or path.read_bytes())
        for path in target.rglob("*")
    }  # fmt: skip
    assert found == {
        path.relative_to(source).as_posix(): (path.stat().st_mode, int(path.stat().st_mtime), path.is_dir() or path.read_bytes())
        for path in source.rglob("*")
    }  # fmt: skip
    assert len(found) == 4
    with pytest.raises(FileExistsError):
        copy_folder(source, target)


def test_a_copy_that_fails_says_why_as_the_system_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _folder(tmp_path / "from")

    def full(_from: object, to: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(OSError, match="No space left") as found:
        copy_folder(source, tmp_path / "to")
    assert is_disk_error(found.value)


def test_a_copy_onto_a_file_system_that_is_full(tmp_path: Path) -> None:
    source = _folder(tmp_path / "from")
    with SmallDisk(tmp_path / "small", size=1) as disk:
        disk.fill()
        with pytest.raises(OSError, match="No space left") as found:
            copy_folder(source, disk.folder / "to")
        assert is_disk_error(found.value)
        disk.free()
        shutil.rmtree(disk.folder / "to", ignore_errors=True)
        copy_folder(source, disk.folder / "to")
