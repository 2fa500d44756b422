"""What a store needs of the database that it is in. `storeplace` says which there are.

All keep the same promises: one writer at a time, whichever process it is in, so that no update is lost; a commit that returns
is on the disk; a reader changes nothing; what the database says in an error goes no further than a name for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from fedward.privacy.errors import FedwardError
from fedward.server import tables


class Database(ABC):
    """Where a store lies. `shown` is what people see of it, without any secret."""

    def __init__(self, shown: str, engine: Engine) -> None:
        self.shown = shown
        self.engine = engine

    @abstractmethod
    def format(self) -> int | None:
        """The number of the store's format; None where there is no store yet. Changes nothing."""

    @abstractmethod
    def take(self, connection: Connection) -> None:
        """Begin a transaction that no other writer's overlaps."""

    @abstractmethod
    def changes(self, connection: Connection) -> int | None:
        """A number that another connection's commit changes; None where the database has no such number."""

    @abstractmethod
    def now(self, connection: Connection) -> int:
        """Unix seconds by the clock of the machine that the database is on."""

    @abstractmethod
    def translated(self, error: sa.exc.DBAPIError) -> FedwardError:
        """What people read of an error: named, and without the database's own words where they could hold a secret."""

    def watching(self) -> Connection:
        """A connection of its own for who asks again and again, each time for what is committed then."""
        with self.translating():
            return self.engine.connect()

    def make(self) -> None:
        """A new store, whole or not at all; whoever was faster made it already."""
        with self.writing() as connection:
            if not sa.inspect(connection).has_table(tables.STUDIES.name):
                tables.create(connection)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, all of it or nothing."""
        with self.translating(), self.engine.connect() as connection:
            self.take(connection)
            yield connection
            connection.commit()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.translating(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def translating(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise self.translated(error) from None

    def close(self) -> None:
        self.engine.dispose()
