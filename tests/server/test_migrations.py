"""A store of an earlier version, brought up to date on both databases; a newer one, refused by name and not touched."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from stores import KINDS, Place, place_of, server
from typer.testing import CliRunner

from fedward.cli.main import app
from fedward.privacy.errors import InputError, UnreachableError
from fedward.server import migrations, tables
from fedward.server.home import CoordinatorHome
from fedward.server.migrations import bring_up
from fedward.server.store import Store
from fedward.server.storeplace import at_place
from fedward.server.tables import FORMAT

__all__ = ["server"]
CONTENT = (
    "INSERT INTO studies (key, study_id, manifest, invited, state, reason, wish, created_at, changed_at) "
    "VALUES (1, 'heart', '{}', '[\"va\"]', 'draft', '', 'propose', 1, 1)",
    "INSERT INTO journal (sequence, study, at, kind, data) VALUES (1, 1, 1, 'drafted', '{}')",
    "INSERT INTO sites VALUES ('va', 'k', 'n', 3, '18446744073709551615')",
    "INSERT INTO credentials VALUES ('z', 'va', 'k', 'n', 't', 3, 9, 'issued', '', 0)",
    "INSERT INTO credentials VALUES ('a', 'va', 'k', 'n', 't', 4, 9, 'issued', '', 0)",
)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    return place_of(request.param, request)


def made(place: Place, to: int) -> None:
    """An empty store as the steps make it."""
    with closing(at_place(place.place)) as database, database.writing() as connection:
        migrations.upgrade(connection, to)


def format_of(place: Place) -> int | None:
    with closing(at_place(place.place)) as database:
        return database.format()


def migrated(place: Place) -> int | None:
    with closing(at_place(place.place)) as database:
        return bring_up(database)


def check_content(place: Place) -> None:
    store = place.open()
    assert [(study.study_id, study.invited) for study in store.studies()] == [("heart", ("va",))]
    assert [entry.kind for entry in store.journal(1)] == ["drafted"]
    assert [site.node_id for site in store.sites()] == [2**64 - 1]
    assert [row.fingerprint for row in store.credentials()] == ["z", "a"]
    assert place.rows("SELECT fingerprint, number FROM credentials ORDER BY number") == [("z", 1), ("a", 2)]
    store.close()


@pytest.fixture
def older(place: Place) -> Place:
    """A store of format 2 with something in it."""
    made(place, 2)
    place.sql(*CONTENT)
    return place


# --- the schema -----------------------------------------------------------------------------------------------------------------


def schema(place: Place) -> tuple[object, ...]:
    """What the database itself says of its tables and triggers; in a table that was made anew the order of columns may differ."""
    with place.connection() as connection:
        found = sa.inspect(connection)
        columns = {
            (table, column["name"]): (str(column["type"]), column["nullable"])
            for table in found.get_table_names()
            for column in found.get_columns(table)
        }
        keys = {
            table: (found.get_pk_constraint(table)["constrained_columns"], found.get_foreign_keys(table), found.get_indexes(table))
            for table in found.get_table_names()
        }  # fmt: skip
    triggers = {
        "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name",
        "postgresql": "SELECT tgname, pg_get_triggerdef(oid), pg_get_functiondef(tgfoid) FROM pg_trigger "
        "WHERE NOT tgisinternal ORDER BY tgname",
    }
    return columns, keys, place.rows(triggers[place.kind])


def test_the_steps_make_what_is_declared(place: Place, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made(place, FORMAT)
    with place.connection() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.META) == []
    other = place_of(place.kind, request) if place.kind == "postgresql" else Place("sqlite", tmp_path / "other.sqlite")
    other.open().close()
    assert schema(place) == schema(other)
    assert (format_of(place), format_of(other)) == (FORMAT, FORMAT)
    place.open().close()


def test_the_newest_step_is_the_format_of_this_version() -> None:
    script = ScriptDirectory(str(migrations.FOLDER))
    assert script.get_heads() == [f"{FORMAT:04d}"]
    assert all(Path(step.path).name.startswith(f"v{step.revision}_") for step in script.walk_revisions())


# --- older stores ---------------------------------------------------------------------------------------------------------------


def test_an_older_store_is_refused_by_name_until_it_is_brought_up_to_date(older: Place) -> None:
    for read_only in (True, False):
        with pytest.raises(InputError) as refused:
            older.open(read_only=read_only)
        assert refused.value.code == "older-store"
        assert "fedward coordinator migrate" in refused.value.text()
    assert format_of(older) == 2
    assert migrated(older) == 2
    assert migrated(older) == FORMAT
    check_content(older)
    if isinstance(older.place, Path):
        kept = older.place.with_name("store.sqlite.format-2")
        assert (format_of(Place("sqlite", kept)), kept.stat().st_mode & 0o777) == (2, 0o600)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        older.sql("DELETE FROM journal")


@pytest.fixture
def first(tmp_path: Path) -> Place:
    """As the first version left it: a study, a site with its node's number, no credentials or heads, no number of a format."""
    place = Place("sqlite", tmp_path / "store.sqlite")
    made(place, 2)
    place.sql(
        *CONTENT[:3],
        "DROP TABLE credentials",
        "DROP TABLE heads",
        "DROP TABLE alembic_version",
        "PRAGMA user_version = 0",
    )
    return place  # fmt: skip


def test_the_first_versions_store_is_brought_up_to_date_and_kept(first: Place) -> None:
    assert migrated(first) == 1
    store = first.open()
    assert [study.study_id for study in store.studies()] == ["heart"]
    assert [(site.site, site.node_id) for site in store.sites()] == [("va", None)]
    assert (store.credentials(), store.head("va")) == ([], None)
    store.close()
    assert isinstance(first.place, Path)
    assert format_of(Place("sqlite", first.place.with_name("store.sqlite.format-1"))) == 1


def test_a_newer_store_is_refused_by_name_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    before = path.read_bytes()
    place = Place("sqlite", path)
    for use in (place.open, lambda: place.open(read_only=True), lambda: migrated(place)):
        with pytest.raises(InputError) as refused:
            use()
        assert refused.value.code == "newer-store"
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.format-*"))


def test_nothing_is_made_where_there_is_no_store(place: Place) -> None:
    assert migrated(place) is None
    assert format_of(place) is None


# --- that are cut off -----------------------------------------------------------------------------------------------------------


def dying(at: int, place: Place) -> Callable[[], int]:
    """A process that migrates and is killed before its `at`-th step, or after it has committed; its exit status."""

    def life() -> int:
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1]
        left = at

        def step(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sa.event.listen(sa.Engine, "before_cursor_execute", step)
            sa.event.listen(sa.Engine, "commit", step)
            sys.addaudithook(lambda name, _: step() if name in {"os.rename", "sqlite3.connect"} else None)
            migrated(place)
            step()
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)

    return life


def test_a_migration_that_is_killed_anywhere_leaves_the_old_or_the_new(older: Place) -> None:
    seen, place, step = [], older, 0
    while True:
        step += 1
        status = dying(step, place)()
        seen.append(format_of(place))
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        if seen[-1] == FORMAT:
            check_content(place)
            continue
        assert len(place.rows("SELECT * FROM credentials")[0]) == 10  # the old columns
    check_content(place)
    assert seen == sorted(seen)  # type: ignore[type-var]
    assert seen.count(2) > 8
    assert seen.count(FORMAT) > 1


def test_a_step_that_fails_leaves_the_store_as_it_was(older: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "_check", fails)
        with pytest.raises(RuntimeError):
            migrated(older)
    assert format_of(older) == 2
    assert migrated(older) == 2
    check_content(older)


def test_a_store_that_cannot_be_copied_is_not_changed(first: Place) -> None:
    assert isinstance(first.place, Path)
    first.place.with_name("store.sqlite.format-1.new").mkdir()
    with pytest.raises(UnreachableError) as refused:
        migrated(first)
    assert refused.value.code == "store-unreachable"
    assert format_of(first) == 1


# --- the command ----------------------------------------------------------------------------------------------------------------


def test_the_command_migrates_a_home_that_no_service_uses(tmp_path: Path) -> None:
    home = CoordinatorHome.create(
        tmp_path / "c", name="T", host="localhost", bind="127.0.0.1", port=9443, control_port=9444, now=datetime.now(UTC)
    )  # fmt: skip
    place, runner = Place("sqlite", home.store_file), CliRunner()
    command = ["coordinator", "migrate", "--home", str(home.path)]
    made(place, 2)
    place.sql(*CONTENT)
    with home.serving():
        busy = runner.invoke(app, command)
    assert busy.exit_code != 0
    assert format_of(place) == 2
    said = runner.invoke(app, command)
    assert said.exit_code == 0
    assert f"The store was of format 2 and is of format {FORMAT} now" in " ".join(said.output.split())
    assert "up to date" in runner.invoke(app, command).output
    check_content(place)
    assert stat.S_IMODE(home.store_file.stat().st_mode) == 0o600
