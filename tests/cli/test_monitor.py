"""`fedward monitor`, up to where it would serve."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from command import fedward
from federation import Federation
from loopback import free_ports
from runs import written
from visitors import access, provider
from visitors import written as access_file

from fedward.dashboard import serve


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int, bool]]:
    """What would have been served, at which port."""
    calls: list[tuple[str, str, int, bool]] = []
    monkeypatch.setattr(serve, "serve", lambda kind, named, at, browser: calls.append((kind, named, at.port, browser)))
    return calls


def test_it_says_where_and_serves_there(tmp_path: Path, served: list[tuple[str, str, int, bool]]) -> None:
    run = written(tmp_path / "run", [])
    ran = fedward("monitor", run, "--no-browser")
    assert ran.code == 0, ran
    port = served[0][2]
    assert f"http://127.0.0.1:{port}" in ran.out
    assert "Ctrl-C" in ran.out
    assert fedward("monitor", run, "--json").json == {"address": f"http://127.0.0.1:{port}", "run": str(run)}
    assert [(one[0], one[1], one[3]) for one in served] == [("run", str(run), False), ("run", str(run), True)]


def test_a_taken_port_is_said_and_another_is_found_where_none_was_asked_for(
    tmp_path: Path, served: list[tuple[str, str, int, bool]], monkeypatch: pytest.MonkeyPatch
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
        assert served[0][2] != port


def test_without_streamlit_it_says_what_to_install(
    tmp_path: Path, served: list[tuple[str, str, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda _name: None)
    ran = fedward("monitor", written(tmp_path / "run", []))
    assert ran.code == 3
    assert 'pip install "fedward[monitor]"' in ran.err
    assert not served


def test_what_is_no_run_is_refused(tmp_path: Path, fed: Federation, served: list[tuple[str, str, int, bool]]) -> None:
    assert fedward("monitor", tmp_path / "none", "--json").json["error"] == "not-a-run"
    ran = fedward("monitor", fed.home.path)
    assert ran.code == 3
    assert "coordinator's home" in ran.err
    assert "fedward monitor --store" in ran.err
    broken = written(tmp_path / "run", [])
    (broken / "study.json").write_text("{")
    assert fedward("monitor", broken, "--json").json["error"] == "unreadable"
    assert not served


def test_an_access_file_is_checked_with_its_provider(tmp_path: Path, served: list[tuple[str, str, int, bool]]) -> None:
    run, port = written(tmp_path / "run", []), free_ports(1)[0]
    rule = {"group": "cleveland-data", "role": "hospital", "site": "cleveland"}
    with provider() as issuer:
        file = access_file(tmp_path / "access", access(issuer, port, [rule]))
        found = fedward("monitor", run, "--access", file, "--check", "--json").json
        told = fedward("monitor", run, "--access", file, "--check").out
        wrong = access(issuer, port, [rule])
        wrong["provider"] |= {"issuer": "https://id.example.org"}
        renamed = fedward("monitor", run, "--access", access_file(tmp_path / "other", wrong), "--check")
    assert found == {
        "url": f"http://localhost:{port}", "address": "127.0.0.1", "port": port, "issuer": issuer,
        "redirect_uri": f"http://localhost:{port}/oauth2callback", "session_minutes": 60,
        "allow": ["group cleveland-data: hospital cleveland"],
    }  # fmt: skip
    assert f"http://localhost:{port}/oauth2callback must be registered for fedward-monitor" in told
    assert renamed.code == 3
    assert f"got: {issuer}" in renamed.err
    gone = fedward("monitor", run, "--access", file, "--check", "--json")
    assert (gone.code, gone.json["error"]) == (6, "no-provider")
    assert not served
    assert fedward("monitor", run, "--access", file).code == 0
    assert served == [("run", str(run), port, True)]


def test_options_that_contradict_an_access_file(tmp_path: Path, served: list[tuple[str, str, int, bool]]) -> None:
    run = written(tmp_path / "run", [])
    file = access_file(tmp_path / "access", access("http://localhost:9", 8501, [{"subject": "a", "role": "viewer"}]))
    for options in (["--check"], ["--access", file, "--port", "8502"], ["--access", file, "--address", "127.0.0.1"]):
        assert fedward("monitor", run, *options).code == 2
    (tmp_path / "access" / "cookie-secret").chmod(0o644)
    assert fedward("monitor", run, "--access", file, "--json").json["error"] == "integrity"
    assert not served


def test_a_coordinators_record_is_served_by_its_folder_its_file_or_as_the_usual_one(
    fed: Federation, tmp_path: Path, served: list[tuple[str, str, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fed.home.path
    assert fedward("monitor", "--store", home, "--json").json["store"] == str(home)
    assert fedward("monitor", "--store", home / "store.sqlite", "--json").json["store"] == str(home)
    monkeypatch.setattr("fedward.dashboard.federation.place.DEFAULT_HOME", home)
    assert fedward("monitor", "--json").json["store"] == str(home)
    assert [one[:2] for one in served] == [("store", str(home))] * 3
    monkeypatch.setattr("fedward.dashboard.federation.place.DEFAULT_HOME", tmp_path / "none")
    ran = fedward("monitor", "--json")
    assert (ran.code, ran.json["error"]) == (3, "not-a-store")
    assert fedward("monitor", home, "--store", home, "--json").code == 2
    (tmp_path / "store.sqlite").write_text("no database")
    assert fedward("monitor", "--store", tmp_path / "store.sqlite", "--json").json["error"]
    assert len(served) == 3
