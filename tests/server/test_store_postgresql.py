"""A store in PostgreSQL: no secret in what people read, commits on the disk, errors by name, a server that goes and comes back."""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import postgres
import pytest
from enrolled import enrol
from federation import Federation, heart_manifest
from invariants import Released, check_study
from observed import run, state
from stores import Place, place_of, server
from typer.testing import CliRunner

from fedward.cli.main import app
from fedward.privacy.errors import FedwardError, InputError, RefusalError, UnreachableError, UsageError
from fedward.server import postgresql
from fedward.server.home import CoordinatorHome
from fedward.server.lifecycle import Stop
from fedward.server.store import Store

__all__ = ["server"]
SECRET = "geheim-7Kq"  # noqa: S105 - planted, to be found nowhere


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    return place_of("postgresql", request)


def refused(place: str) -> FedwardError:
    with pytest.raises(FedwardError) as found:
        Store.open(place).close()
    told = found.value.text() + "".join(traceback.format_exception(found.value)) + json.dumps(found.value.as_json())
    assert SECRET not in told
    assert postgres.PASSWORD not in told
    return found.value


# --- the URL and the password ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"postgresql+psycopg://u:{SECRET}@h/d", "password-in-url"),
        (f"postgresql://u@h/d?password={SECRET}", "password-in-url"),
        (f"no url {SECRET}", "bad-input"),
        (f"mysql://u@h/{SECRET}", "bad-input"),
        ("sqlite:///store.sqlite", "bad-input"),
        ("postgresql+asyncpg://u@h/d", "bad-input"),
        ("postgresql://h/d", "bad-input"),
        ("postgresql://u@h", "bad-input"),
        (f"postgresql://u@h/d?options=-c%20fsync=off{SECRET}", "bad-input"),
    ],
)
def test_a_url_that_is_none_or_holds_a_password_is_refused_and_not_repeated(url: str, code: str) -> None:
    assert refused(url).code == code


def test_another_machine_is_spoken_to_over_verified_tls_unless_a_person_says_otherwise() -> None:
    assert postgresql.parse("postgresql://u@db.example.org/d").query["sslmode"] == "verify-full"
    assert postgresql.parse("postgresql://u@db.example.org/d?sslmode=require").query["sslmode"] == "require"
    assert "sslmode" not in postgresql.parse("postgresql://u@127.0.0.1/d").query


def test_the_password_comes_from_the_environment_a_credential_or_a_pgpassfile(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(place.place)
    monkeypatch.setenv("FEDWARD_STORE_PASSWORD", SECRET)
    wrong = refused(url)
    assert (wrong.code, wrong.got) == ("store-unreachable", "the server refuses the login")
    monkeypatch.delenv("FEDWARD_STORE_PASSWORD")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    assert refused(url).code == "store-unreachable"
    (tmp_path / "fedward-store-password").write_text(postgres.PASSWORD + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    Store.open(url).close()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    passes = tmp_path / "passes"
    passes.touch(0o600)
    passes.write_text(f"*:*:*:*:{postgres.PASSWORD}\n")
    monkeypatch.setenv("PGPASSFILE", str(passes))
    Store.open(url).close()


# --- what a server must be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["off", "local", "remote_write"])
def test_a_server_that_does_not_wait_for_the_disk_is_refused(place: Place, server: postgres.Server, value: str) -> None:
    name = str(place.place).rsplit("/", 1)[1]
    server.execute(f"ALTER DATABASE {name} SET synchronous_commit = {value}")
    error = refused(str(place.place))
    assert isinstance(error, RefusalError)
    assert (error.code, error.got) == ("store-not-durable", f"synchronous_commit = {value}")
    server.execute(f"ALTER DATABASE {name} RESET synchronous_commit")
    place.open().close()


def test_a_newer_store_is_refused_by_name_and_not_touched(place: Place) -> None:
    place.open().close()
    place.sql("UPDATE alembic_version SET version_num = '9999'")
    assert refused(str(place.place)).code == "newer-store"


def test_a_writer_that_is_held_off_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "WAIT_S", 1)
    store, other = place.open(), place.open()
    with other._write(), pytest.raises(UnreachableError) as error:
        store.note(1, "x", {}, 1)
    assert error.value.code == "store-locked"
    store.note(1, "x", {}, 1)
    assert len(other.journal(1)) == 1
    store.close()
    other.close()


def test_a_server_that_is_away_is_named_and_waited_for(place: Place, server: postgres.Server) -> None:
    store = place.open()
    key = store.create_study("heart", "{}", (), 1)
    print_ = enrol(store, "va", "k", "n")
    live = store.live_credentials()
    assert live.find(print_) is not None
    server.stop()
    for use in (lambda: store.study(key), lambda: store.happened(key, Stop(), 2), lambda: live.find(print_)):
        with pytest.raises(UnreachableError) as error:
            use()
        assert error.value.code == "store-unreachable"
        assert postgres.PASSWORD not in error.value.text()
    assert refused(str(place.place)).code == "store-unreachable"
    server.start()
    store.happened(key, Stop(), 3)
    assert live.find(print_) is not None
    server.stop(signal.SIGQUIT)  # a crash: nothing tells the open connections but their end
    server.start()
    assert (store.study(key).state, live.find(print_) is not None) == ("stopped", True)
    live.close()
    store.close()


# --- a coordinator ----------------------------------------------------------------------------------------------------------------


def test_init_keeps_the_url_without_a_secret_and_takes_nobody_else_s_record(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, runner = str(place.place), CliRunner()
    said = runner.invoke(app, ["coordinator", "init", "T", "--home", str(tmp_path / "c"), "--store", url, "--json"])
    assert said.exit_code == 0, said.output
    home = CoordinatorHome.open(tmp_path / "c")
    assert (home.settings.store, home.store_place, home.store_file.exists()) == (url, url, False)
    store = home.open_store()
    enrol(store, "va", "k", "n")
    store.close()
    files = [path.read_bytes() for path in home.path.rglob("*") if path.is_file()]
    assert not any(postgres.PASSWORD.encode() in data for data in files)
    new = {"name": "U", "host": "localhost", "bind": "127.0.0.1", "port": 9443, "control_port": 9444}
    with pytest.raises(UsageError) as error:
        CoordinatorHome.create(tmp_path / "d", now=datetime.now(UTC), store=url, **new)  # type: ignore[arg-type]
    assert error.value.code == "store-taken"
    with pytest.raises(InputError):
        CoordinatorHome.create(tmp_path / "d", now=datetime.now(UTC), store=f"postgresql://u:{SECRET}@h/d", **new)  # type: ignore[arg-type]
    assert not (tmp_path / "d").exists()


def test_a_study_outlives_restarts_and_crashes_of_the_server_and_loses_nothing(
    place: Place, server: postgres.Server, tmp_path: Path
) -> None:
    """The server goes at several points of the rounds: for a while, so that the run ends and is begun again; or for a moment."""
    federation = Federation(tmp_path, store=str(place.place))
    federation.ready(heart_manifest(training={"rounds": 3}, privacy={"spare_attempts": 4}))
    released, send, poll = Released(), federation.transport.send, federation.transport.poll
    node = dict(federation.transport.nodes)
    for site, answer in node.items():

        def noted(request: bytes, site: str = site, answer: object = answer) -> bytes:
            reply: bytes = answer(request)  # type: ignore[operator]
            released.note(federation, site, request, reply)
            return reply

        federation.transport.nodes[site] = noted
    count, away = 0, False

    def watched(requests: Mapping[str, bytes]) -> None:
        nonlocal count, away
        count += 1
        send(requests)
        if count in {2, 5}:
            server.stop(signal.SIGQUIT)
            away = True
        elif count == 3:
            server.stop()
            server.start()

    federation.transport.send = watched  # type: ignore[method-assign]
    ended = []
    for _ in range(10):
        before = [] if away else federation.store.journal(federation.key)
        try:
            run(federation)
        except UnreachableError as error:
            ended.append(error.code)
        if away:
            server.start()
            away = False
        else:
            break
        assert federation.store.journal(federation.key)[: len(before)] == before
    assert ended == ["store-unreachable"] * 2
    assert state(federation) == "completed"
    check_study(federation, released, 3)
    federation.store.close()
    assert poll
