"""A file held by one process: others wait or are refused, a look disturbs nobody, and a dead holder frees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedward.privacy.errors import UsageError
from fedward.study.lock import held, hold


def refusal() -> UsageError:
    return UsageError("taken")


def test_a_second_holder_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path, 0, refusal):
        assert held(path)
        with pytest.raises(UsageError, match="taken"), hold(path, 0.1, refusal):
            pass
    assert not held(path)
    with hold(path, 0, refusal):
        assert held(path)


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from fedward.study.lock import hold\n"
        f"with hold(Path({str(path)!r}), 0, RuntimeError): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert held(path)
        holder.kill()
        holder.wait(10)
    assert not held(path)
