"""The store in a SQLite file: WAL, synchronous=FULL, one writer by BEGIN IMMEDIATE."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedward.privacy.errors import FedwardError, InputError, IntegrityError, UnreachableError
from fedward.server.database import Database

_NUMBERED_FROM: Final = 2
_BUSY: Final = ("locked", "full", "unable to open", "readonly", "disk I/O")


class SqliteDatabase(Database):
    """One file, and its write-ahead log beside it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """
        Raises:
            InputError: there is no such file, and read_only.
        """
        if read_only and not path.is_file():
            raise InputError(f"no store at {path}", remedy="give the coordinator's --home")
        self.path = path
        # The path as a URI: a "#" or "?" in it would otherwise name another file.
        uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        engine = sa.create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False),
            poolclass=sa.pool.QueuePool,
            hide_parameters=True,
        )
        sa.event.listen(engine, "connect", _configure_read_only if read_only else self._configure)
        super().__init__(str(path), engine)

    def _configure(self, connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun here, by BEGIN IMMEDIATE, not by the driver
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        self.path.chmod(0o600)

    def format(self) -> int | None:
        """As `user_version` says it: format 1 had no number. What is no database is told when it is used."""
        if not self.path.is_file():
            return None
        try:
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
                version = int(connection.execute("PRAGMA user_version").fetchone()[0])
                query = "SELECT 1 FROM sqlite_master WHERE name = 'studies'"
                begun = connection.execute(query).fetchone() is not None
        except sqlite3.DatabaseError as error:
            raise self._named(str(error)) from None
        return version if version >= _NUMBERED_FROM else 1 if begun else None

    def take(self, connection: Connection) -> None:
        # IMMEDIATE: two writers queue here instead of failing at commit.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def changes(self, connection: Connection) -> int | None:
        return int(connection.exec_driver_sql("PRAGMA data_version").scalar_one())

    def now(self, connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT strftime('%s', 'now')").scalar_one())

    def translated(self, error: sa.exc.DBAPIError) -> FedwardError:
        return self._named(str(error.orig))

    def _named(self, text: str) -> FedwardError:
        if any(word in text for word in _BUSY):
            return UnreachableError(
                "the coordinator's store cannot be used now",
                got=text,
                remedy="free disk space, correct the permissions, or stop the process that holds it",
                code="store-locked" if "locked" in text else "store-unreachable",
            )
        return IntegrityError(
            f"the coordinator's store is damaged ({self.path})", got=text, remedy="restore it from a backup"
        )


def copy_file(path: Path, out: Path) -> None:
    """A consistent copy of a store's file, its write-ahead log included, while others write (SQLite's backup API).

    Raises:
        UnreachableError: `store-unreachable`: it cannot be read or written now.
    """
    try:
        out.unlink(missing_ok=True)
        out.touch(0o600)
        with (
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as connection,
            closing(sqlite3.connect(out)) as copy,
        ):
            connection.backup(copy)
    except (sqlite3.OperationalError, OSError) as error:
        raise UnreachableError(
            "the coordinator's store cannot be copied",
            got=str(error),
            remedy="free disk space, or correct the permissions; nothing was changed",
            code="store-unreachable",
        ) from None


def _configure_read_only(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")
