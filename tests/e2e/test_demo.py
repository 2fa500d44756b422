"""`fedward demo` as somebody types it: with hospitals of their own, interrupted, killed, and given what it cannot take.

What it shows of the built-in hospitals is checked where the README's walk-through runs it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import tomli_w
from command import fedward
from loopback import wait_for

from fedward.study.heart import SITES, heart_folder
from fedward.study.manifest import load

pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]


def demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedward.cli.main", "demo", "--folder", str(folder), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=folder.parent,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], seconds: float = 400.0) -> tuple[str, str]:
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.mark.prove
def test_own_hospitals_without_dp(tmp_path: Path) -> None:
    """Three hospitals of somebody's own, in tables for people, without privacy and saying so."""
    own = tmp_path / "own"
    own.mkdir()
    data = load(heart_folder() / "study.toml").model_dump(mode="json", exclude_none=True)
    data["study"]["id"] = "own-study"
    (own / "study.toml").write_text(tomli_w.dumps(data))
    for site, name in zip(SITES, ("north", "south", "west"), strict=False):
        (own / f"{name}.csv").write_bytes((heart_folder() / f"{site}.csv").read_bytes())
        (own / f"{name}.mapping.toml").write_bytes((heart_folder() / f"{site}.mapping.toml").read_bytes())
    folder = tmp_path / "demo"
    process = demo(folder, "--rounds", "2", "--no-dp", "--sites", str(own))
    out, err = finish(process)
    assert process.returncode == 0, err
    for words in ("AUROC on held-out patients", "by group", "north", "south", "west", "all hospitals", "2 of 2",
                  "WITHOUT differential privacy", "no promise"):  # fmt: skip
        assert words in out, words
    assert "require_dp = false" in err, "the demo hides that its hospitals relaxed their policy"
    assert processes.of_folder(folder) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    process = demo(folder, "--rounds", "100", "--json")
    try:
        wait_for("the processes start", (folder / "coordinator" / "service.json").is_file, 200)
        before = len(processes.of_folder(folder))
        assert before >= 2
        process.send_signal(number)
        wait_for("the demo begins to end", lambda: len(processes.of_folder(folder)) < before)
        process.send_signal(number)  # an impatient second one changes nothing
        _, err = finish(process, 200)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    wait_for("the ServerApp's processes end", lambda: not processes.of_folder(folder), 10,
             lambda: str(processes.of_folder(folder)))  # fmt: skip
    assert (folder / "study.toml").is_file()


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    process = demo(folder, "--rounds", "100", "--json")
    try:
        wait_for("the processes start", (folder / "coordinator" / "service.json").is_file, 200)
        assert len(processes.of_folder(folder)) >= 2
    finally:
        process.kill()
        process.wait(10)
    wait_for("the orphans end", lambda: not processes.of_folder(folder), 20, lambda: str(processes.of_folder(folder)))


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--epsilon", "0"], 3, "privacy.epsilon"),
        (["--epsilon", "nan"], 3, "epsilon"),
        (["--epsilon", "-1"], 3, "privacy.epsilon"),
        (["--rounds", "0"], 2, "--rounds"),
        (["--no-dp", "--epsilon", "1"], 2, "exclude each other"),
        (["--sites", "nowhere"], 3, "no study at"),
    ],
    ids=str,
)
def test_wrong_options_start_nothing(tmp_path: Path, options: list[str], code: int, words: str) -> None:
    ran = fedward("demo", "--folder", tmp_path / "demo", *options)
    assert ran.code == code, ran
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "demo").exists()


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    ran = fedward("demo", "--folder", tmp_path)
    assert ran.code == 2
    assert "another --folder" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_without_hospitals_starts_nothing(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "study.toml").write_bytes((heart_folder() / "study.toml").read_bytes())
    ran = fedward("demo", "--folder", tmp_path / "demo", "--sites", own)
    assert ran.code == 3
    assert "NAME.csv" in ran.err
    assert not (tmp_path / "demo").exists()
