"""A store as one SQLite file, and back into either database: what a backup holds, wherever the store lies.

Out of SQLite it is SQLite's own backup, page by page, while others write. Out of PostgreSQL every table is read within one
REPEATABLE READ transaction: all of it as it was at one instant. Into PostgreSQL all is written within one transaction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedward.privacy.errors import InputError, UsageError
from fedward.server import tables
from fedward.server.database import Database
from fedward.server.sqlite import SqliteDatabase, copy_file
from fedward.server.storeformat import check_format, refuse_newer

_ROWS: Final = 200


def snapshot(database: Database, out: Path) -> int:
    """Write a store into a new SQLite file; its format.

    Raises:
        InputError: there is no store; `newer-store`; `older-store`, in PostgreSQL.
        UnreachableError: one of the two cannot be used now.
    """
    with database.translating():
        found = database.format()
        if found is None:
            raise InputError(f"no store at {database.shown}", remedy="run the service once first; it makes it")
        refuse_newer(found, database.shown)
        if isinstance(database, SqliteDatabase):
            copy_file(database.path, out)
            return found
        check_format(found, database.shown)
    target = SqliteDatabase(out)
    try:
        target.make()
        connected = database.engine.connect().execution_options(isolation_level="REPEATABLE READ")
        with database.translating(), target.writing() as into, connected as source:
            _copy(source.execution_options(yield_per=_ROWS), into)
    finally:
        target.close()
    return found


def load(source: Path, database: Database, mark: str) -> None:
    """Put the content of a SQLite file of this version's format into a database of PostgreSQL, unless it is there already.

    Args:
        mark: what the newest entry of the file's journal carries: by it a load that was finished, and not used since, is known.

    Raises:
        UsageError: `store-taken`: something else is there.
    """
    database.make()
    file = SqliteDatabase(source, read_only=True)
    try:
        with database.writing() as into, file.reading() as rows:
            if _holds(into, mark):
                return
            if any(into.execute(sa.select(table).limit(1)).first() for table in tables.META.sorted_tables):
                raise UsageError(
                    "another record is in this database",
                    expected="an empty database, or a schema of its own by the user's search_path",
                    remedy="give another --store; nothing was changed",
                    code="store-taken",
                )
            _copy(rows, into)
            _renumber(into)
    finally:
        file.close()


def _holds(connection: Connection, mark: str) -> bool:
    newest = connection.execute(sa.select(tables.JOURNAL).order_by(tables.JOURNAL.c.sequence.desc()).limit(1)).first()
    return newest is not None and newest.kind == "restored" and mark in newest.data


def _copy(source: Connection, into: Connection) -> None:
    for table in tables.META.sorted_tables:
        for part in source.execute(sa.select(table)).mappings().partitions(_ROWS):
            into.execute(table.insert(), [dict(row) for row in part])


def _renumber(connection: Connection) -> None:
    """Let rows that are numbered by the database go on after the copied ones."""
    for table in tables.META.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        newest = connection.execute(sa.select(sa.func.max(column))).scalar_one()
        if newest is not None:
            query = sa.text("SELECT setval(pg_get_serial_sequence(:table, :column), :newest)")
            connection.execute(query, {"table": table.name, "column": column.name, "newest": newest})
