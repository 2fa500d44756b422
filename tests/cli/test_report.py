"""`fedward report`: what it writes, what it refuses, and its exit codes."""

from __future__ import annotations

import stat
from hashlib import sha256
from pathlib import Path

import pytest
from command import fedward, good
from federation import Federation
from runs import written

from fedward.dashboard.report import svg


def test_a_record_s_report_is_written_for_its_owner_alone(fed: Federation, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    made = good("report", "--store", fed.home.path, "--out", out)
    data = out.read_bytes()
    assert data.startswith(b"<!doctype html>")
    assert made == {
        "file": str(out), "sha256": sha256(data).hexdigest(), "bytes": len(data), "store": str(fed.home.path),
        "title": made["title"], "study_digest": fed.store.study(fed.key).digest,
        "sections": ["study", "accuracy", "fairness", "privacy", "participation", "models", "audit"],
    }  # fmt: skip
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    told = fedward("report", fed.home.path, "--out", tmp_path / "again.html")
    assert told.code == 0, told
    assert "7 sections" in told.out
    assert "give it to nobody who may not see that" in told.out
    assert (tmp_path / "again.html").read_bytes() == data


def test_nothing_is_written_over_unless_it_is_asked_for(tmp_path: Path) -> None:
    run, out = written(tmp_path / "run", []), tmp_path / "report.html"
    out.write_text("mine")
    refused = fedward("report", run, "--out", out)
    assert refused.code == 2
    assert "--force" in refused.err
    assert out.read_text() == "mine"
    made = good("report", run, "--out", out, "--force")
    assert made["run"] == str(run)
    assert out.read_bytes().startswith(b"<!doctype html>")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["none", "--out", "a.html"], 3, "not-a-run"),
        (["--store", "none", "--out", "a.html"], 3, "not-a-store"),
        (["run", "--store", "run", "--out", "a.html"], 2, "usage"),
        (["run", "--study", "heart", "--out", "a.html"], 2, "usage"),
        (["run", "--out", "a.pdf"], 2, "usage"),
        (["run", "--out", "folder.html"], 2, "usage"),
        (["run"], 2, "usage"),
        (["broken", "--out", "a.html"], 3, "unreadable"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_with_its_code_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "run", [])
    (written(tmp_path / "broken", []) / "study.json").write_text("{")
    (tmp_path / "folder.html").mkdir()
    ran = fedward("report", *arguments, "--json")
    assert (ran.code, ran.json["error"]) == (code, error), ran
    assert not (tmp_path / "a.html").exists()


def test_a_study_that_is_not_there(fed: Federation, tmp_path: Path) -> None:
    ran = fedward("report", fed.home.path, "--study", "other", "--out", tmp_path / "a.html")
    assert ran.code == 3
    assert 'no single study is meant by "other"' in ran.err


def test_without_vl_convert_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "find_spec", lambda _name: None)
    ran = fedward("report", written(tmp_path / "run", []), "--out", tmp_path / "a.html")
    assert ran.code == 3
    assert 'pip install "fedward[monitor]"' in ran.err
