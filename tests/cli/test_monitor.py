"""`fedward monitor`, up to where it would serve."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from command import fedward
from federation import Federation
from runs import written

from fedward.dashboard import serve


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int, bool]]:
    """What would have been served."""
    calls: list[tuple[Path, int, bool]] = []
    monkeypatch.setattr(serve, "serve", lambda *given: calls.append(given))
    return calls


def test_it_says_where_and_serves_there(tmp_path: Path, served: list[tuple[Path, int, bool]]) -> None:
    run = written(tmp_path / "run", [])
    ran = fedward("monitor", run, "--no-browser")
    assert ran.code == 0, ran
    port = served[0][1]
    assert f"http://127.0.0.1:{port}" in ran.out
    assert "Ctrl-C" in ran.out
    assert fedward("monitor", run, "--json").json == {"address": f"http://127.0.0.1:{port}", "run": str(run)}
    assert [(one[0], one[2]) for one in served] == [(run, False), (run, True)]


def test_a_taken_port_is_said_and_another_is_found_where_none_was_asked_for(
    tmp_path: Path, served: list[tuple[Path, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written(tmp_path / "run", [])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = fedward("monitor", run, "--port", port, "--json")
        assert (ran.code, ran.json["error"]) == (6, "port-taken")
        assert not served
        monkeypatch.setattr(serve, "PORT", port)
        assert fedward("monitor", run).code == 0
        assert served[0][1] != port


def test_without_streamlit_it_says_what_to_install(
    tmp_path: Path, served: list[tuple[Path, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda _name: None)
    ran = fedward("monitor", written(tmp_path / "run", []))
    assert ran.code == 3
    assert 'pip install "fedward[monitor]"' in ran.err
    assert not served


def test_what_is_no_run_is_refused(tmp_path: Path, fed: Federation, served: list[tuple[Path, int, bool]]) -> None:
    assert fedward("monitor", tmp_path / "none", "--json").json["error"] == "not-a-run"
    ran = fedward("monitor", fed.home.path)
    assert ran.code == 3
    assert "coordinator's home" in ran.err
    assert "fedward coordinator status" in ran.err
    broken = written(tmp_path / "run", [])
    (broken / "study.json").write_text("{")
    assert fedward("monitor", broken, "--json").json["error"] == "unreadable"
    assert not served
