"""Where a store may lie: in a SQLite file, or in a PostgreSQL database by its URL."""

from __future__ import annotations

from pathlib import Path

from fedward.server.database import Database
from fedward.server.postgresql import PostgresqlDatabase
from fedward.server.sqlite import SqliteDatabase


def at_place(place: Path | str, *, read_only: bool = False) -> Database:
    """The database in a file, or by its URL. Nothing is opened yet.

    Raises:
        InputError: the text is no URL of a PostgreSQL database, or holds a password; there is no such file, and read_only.
    """
    if isinstance(place, Path):
        return SqliteDatabase(place, read_only=read_only)
    return PostgresqlDatabase(place, read_only=read_only)
