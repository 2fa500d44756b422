"""The places that a store can be in, for the contract that each must keep: a SQLite file, and a database of a real PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import postgres
import pytest
import sqlalchemy as sa

from fedward.server.postgresql import PASSWORD_VARIABLE
from fedward.server.store import Store
from fedward.server.storeplace import at_place

KINDS = ("sqlite", "postgresql")
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Place:
    """Where one test's store lies."""

    kind: str
    place: Path | str

    def open(self, *, read_only: bool = False) -> Store:
        return Store.open(self.place, read_only=read_only)

    def sql(self, *statements: str) -> None:
        """By another program, each statement for itself."""
        with self.connection() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def rows(self, query: str) -> list[Any]:
        with self.connection() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """That commits each statement."""
        with closing(at_place(self.place)) as database, database.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")


def place_of(kind: str, request: pytest.FixtureRequest) -> Place:
    """A fresh, empty place. PostgreSQL's server is the module's."""
    if kind == "sqlite":
        return Place(kind, request.getfixturevalue("tmp_path") / "store.sqlite")
    server: postgres.Server = request.getfixturevalue("server")
    request.getfixturevalue("monkeypatch").setenv(PASSWORD_VARIABLE, postgres.PASSWORD)
    return Place(kind, server.make(f"store_{next(_NUMBERS)}"))


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """For the tests that import it."""
    with postgres.serving(durable=True) as found:
        yield found
