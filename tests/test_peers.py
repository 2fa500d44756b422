"""How peers are run beside ours: what fails is said and fails nothing else, what is too slow is ended."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.peer_environments import OURS, Environment, python
from benchmarks.peer_processes import NotMeasuredError, finish
from benchmarks.peer_runs import Run, parsed

GOOD = {"startup_s": 2.5, "round_s": [0.1, 0.2], "loss": 0.4, "note": "serial"}


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes() != b""
    except OSError:
        return False


def test_an_installation_that_fails_is_told_with_the_last_line_of_its_error(tmp_path: Path) -> None:
    program = tmp_path / "own" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "ERROR: no such package" >&2\necho "WARNING: of no interest" >&2\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(NotMeasuredError, match=r"^ERROR: no such package$"):
        Environment("own").ready("missing", ("missing==1.0",), tmp_path)
    assert not list(program.parents[1].glob(".ready-*"))


def test_an_installation_is_kept_until_it_is_another(tmp_path: Path) -> None:
    program = tmp_path / "own" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    for packages in (("one==1.0",), ("one==1.0",), ("one==2.0",)):
        assert Environment("own").ready("one", packages, tmp_path) == program
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["one==1.0", "one==2.0"]


def test_no_new_enough_python_says_what_to_name() -> None:
    with pytest.raises(NotMeasuredError, match=r"no Python 9\.9 or newer.*FEDWARD_PYTHON312"):
        python((9, 9))


def test_what_runs_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    # The child leaves the process group, as NVFLARE's workers do.
    source = (
        "import subprocess, sys, time, os, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"pathlib.Path({str(noted)!r}).write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(60)\n"
    )
    began = time.monotonic()
    with pytest.raises(NotMeasuredError, match="did not end within 5 s"):
        finish([sys.executable, "-c", source], 5.0, dict(os.environ))
    assert time.monotonic() - began < 30
    numbers = [int(text) for text in noted.read_text().split()]
    until = time.monotonic() + 10
    while any(map(alive, numbers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(numbers) == 2
    assert not any(map(alive, numbers))


def test_a_good_last_line_is_read() -> None:
    assert parsed(f"noise\n{json.dumps(GOOD)}\n", 3) == Run(2.5, (0.1, 0.2), 0.4, "serial")


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "done",
        "[]",
        f"{json.dumps(GOOD)}\nand more",
        json.dumps(GOOD | {"other": 1}),
        json.dumps({name: value for name, value in GOOD.items() if name != "loss"}),
        json.dumps(GOOD | {"round_s": [0.1]}),
        json.dumps(GOOD | {"round_s": 0.1}),
        json.dumps(GOOD | {"round_s": [0.1, 0.0]}),
        json.dumps(GOOD | {"round_s": [0.1, "0.2"]}),
        json.dumps(GOOD | {"startup_s": float("nan")}),
        json.dumps(GOOD | {"loss": float("inf")}),
        json.dumps(GOOD | {"loss": True}),
        json.dumps(GOOD | {"note": None}),
    ],
)
def test_anything_else_is_refused(printed: str) -> None:
    with pytest.raises(NotMeasuredError):
        parsed(printed, 3)


class _Broken(Environment):
    def ready(self, peer: str, packages: tuple[str, ...], here: Path = Path()) -> Path:
        raise NotMeasuredError("no wheel for this machine")


def test_a_peer_that_fails_or_did_other_work_is_said_and_the_others_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {
        "fedward": Run(3.0, (0.010,), 0.40, ""),
        "quick": Run(2.0, (0.005,), 0.41, "its own loader"),
        "idle": Run(2.0, (0.001,), 0.69, ""),
    }
    monkeypatch.setattr(peers, "measure", lambda _program, name, _sites, _rounds: runs[name])
    chosen = [peers.Peer(name, (), OURS, 2) for name in ("quick", "idle")]
    found = {
        str(figure).split()[0]: figure for figure in peers.figures((*chosen, peers.Peer("none", (), _Broken("none"))))
    }
    assert all(figure.ok and figure.target is None for figure in found.values())
    assert found["peers.quick.round_as_long_as_ours_10_sites"].value == pytest.approx(0.5)
    assert {name for name in found if "idle" in name or "none" in name} == {
        f"peers.{name}.failed_{sites}_sites" for name in ("idle", "none") for sites in (10, 100)
    }
    printed = capsys.readouterr().out
    assert "peers.quick: WINS at 10 sites: a round is shorter than ours" in printed
    assert "peers.idle: NOT MEASURED at 100 sites: its model's loss is 0.690 and ours 0.400" in printed
    assert "peers.none: NOT MEASURED at 10 sites: its installation failed: no wheel for this machine" in printed
