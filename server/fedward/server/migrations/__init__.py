"""Bringing a store of an earlier version up to date, step by step (Alembic), in one transaction: a crash leaves the old or the new.

A step is a file in `versions`, numbered as the format that it leads to; it stays as it is for good, and so declares what it needs
itself. A SQLite file is copied to `store.sqlite.format-N` first (SQLite's backup, so that its write-ahead log is in it). A database
of PostgreSQL changes its tables within transactions too, and is left to its own backups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

from fedward.privacy.durable import disk_error
from fedward.privacy.errors import InputError
from fedward.server import leases
from fedward.server.database import Database
from fedward.server.home import CoordinatorHome
from fedward.server.sqlite import SqliteDatabase, copy_file
from fedward.server.storeformat import refuse_newer
from fedward.server.storeplace import at_place
from fedward.server.tables import FORMAT, LEASES

FOLDER: Final = Path(__file__).parent


def migrate(home: CoordinatorHome) -> int | None:
    """Bring a coordinator's store up to date while no service of it runs.

    Raises:
        UsageError: its service runs.
        UnreachableError: `lease-held`: that of another home does, on the same store.
        FedwardError: as `bring_up`.
    """
    with home.serving():
        database = at_place(home.store_place)
        try:
            _refuse_served(database, home.holder().home)
            return bring_up(database)
        finally:
            database.close()


def bring_up(database: Database, to: int = FORMAT) -> int | None:
    """Bring a store up to date; returns the format that it had, None where there is none yet.

    Raises:
        InputError: `newer-store`: a newer version wrote it.
        UnreachableError: it cannot be copied or written now; it is as it was.
        IntegrityError: it is damaged.
    """
    with database.translating():
        found = database.format()
        refuse_newer(found, database.shown)
        if found is None or found == to:
            return found
        if isinstance(database, SqliteDatabase):
            _keep(database.path, database.path.with_name(f"{database.path.name}.format-{found}"))
        with database.engine.connect() as connection:
            _begin(database, connection)
            upgrade(connection, to)
            _check(connection)
            connection.commit()
    return found


def upgrade(connection: Connection, to: int = FORMAT) -> None:
    """Take the steps within the caller's transaction."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, f"{to:04d}")
    if connection.dialect.name == "sqlite":  # where versions of Fedward before format 3 look for it
        connection.exec_driver_sql(f"PRAGMA user_version = {to}")


def _refuse_served(database: Database, home: str) -> None:
    """Raises: UnreachableError, `lease-held`."""
    with database.reading() as connection:
        if sa.inspect(connection).has_table(LEASES.name) and (lease := leases.held(connection)) is not None:
            leases.refuse_others(lease, home, database.now(connection))


def _begin(database: Database, connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        # A table that is made anew under the same name must not take the rows that refer to it along (SQLite, "ALTER TABLE", 7).
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
    database.take(connection)


def _check(connection: Connection) -> None:
    """
    Raises:
        InputError: a row refers to one that is not there.
    """
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise InputError(
            "the store cannot be brought up to date: a row of it refers to one that is not there",
            remedy="restore it from a backup; nothing was changed",
        )


def _keep(path: Path, out: Path) -> None:
    """
    Raises:
        UnreachableError: it cannot be written.
    """
    if out.exists():
        return  # of a migration that was cut off before its end: the store is still the same
    draft = out.with_name(out.name + ".new")
    copy_file(path, draft)
    try:
        draft.rename(out)
    except OSError as error:
        raise disk_error(error, f"cannot write {out}") from None
