"""Small durable files: whole or not at all, and secret where they must be."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedward.privacy.errors import InputError, IntegrityError, UnreachableError
from fedward.study import manifest
from fedward.study.enrolment import JoinRequest
from fedward.study.files import read_json, read_model, read_secret, write_atomic, write_secret

FULL_DISK = """
import resource, sys
from pathlib import Path
from fedward.privacy.errors import UnreachableError
from fedward.study.files import write_atomic

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), b"n" * 5000)
except UnreachableError as error:
    print(error.text())
else:
    sys.exit("it was written")
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for data in (b"old", b"", b"new" * 10_000):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert mode(path) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout
    assert "free disk space" in done.stdout
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "fchmod"])
def test_a_failure_half_way_leaves_the_old_file(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(UnreachableError, match="cannot write"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_data_is_on_disk_before_it_takes_the_file_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file", []
    real = os.fsync

    def fsync(handle: int) -> None:
        seen.append((path.exists(), stat.S_ISDIR(os.fstat(handle).st_mode)))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(path, b"data")
    assert seen == [(False, False), (True, True)]  # the file's bytes, then the folder's new entry


@pytest.mark.parametrize("write", [write_atomic, write_secret])
def test_a_folder_that_is_a_file_is_an_error_with_a_remedy(tmp_path: Path, write: object) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnreachableError, match="cannot write"):
        write(tmp_path / "file" / "below", b"data")  # type: ignore[operator]


def test_a_secret_is_its_owner_s_from_the_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "key"
    write_secret(path, b"secret")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert read_secret(path, "the key") == b"secret"


def test_a_secret_in_a_folder_that_was_open_closes_it(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    write_secret(folder / "key", b"secret")
    assert mode(folder) == 0o700


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_a_secret_that_others_may_use_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "key"
    write_secret(path, b"secret")
    path.chmod(bits)
    with pytest.raises(IntegrityError, match="read by others") as caught:
        read_secret(path, "the key")
    assert oct(bits) in caught.value.text()


def test_a_secret_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no the key"):
        read_secret(tmp_path / "key", "the key")


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "1" * 5_000, "nul"], ids=["empty", "cut", "deep", "huge-number", "word"]
)
def test_what_is_no_json_is_an_input_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not JSON"):
        read_json(path, "a file")


def test_json_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"a": 1}')
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 8)
    assert read_json(path, "a file") == {"a": 1}
    path.write_text('{"a": 10}')
    with pytest.raises(InputError, match="too large"):
        read_json(path, "a file")
    with pytest.raises(InputError, match="too large"):
        read_model(path, JoinRequest, "request")


@pytest.mark.parametrize("data", [[], {}, {"format": 1}, {"format": 2, "site": "a"}])
def test_json_that_is_another_thing_is_refused_by_name(tmp_path: Path, data: object) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="is no request"):
        read_model(path, JoinRequest, "request")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        read_json(path, "a file")
