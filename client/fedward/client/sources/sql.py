"""Rows from a hospital's database: one SELECT in a read-only transaction that is rolled back. The only door to SQLAlchemy here.

What a database says of an error may quote patients' values or the connection's secrets, so it never gets further
than this module: messages name the kind of the error and its SQLSTATE.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, CursorResult, create_engine, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool

from fedward.client.mapping import Source
from fedward.client.mapping_sources import SqlSource
from fedward.client.sources.sheet import Progress, Sheet, check_cells, check_header, hold, texts
from fedward.privacy.errors import FedwardError, InputError, UnreachableError
from fedward.study.files import read_secret

CHUNK = 50_000
TIMEOUT_S = 600
"""A query that takes longer is given up, where the database can be told so."""
NUMBERING = "row 1 is the query's first record, by patient identifier"

_LITERAL = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_FOREIGN = re.compile(r"[$`\[\\#]")
"""What quotes, escapes or comments in some database: `_LITERAL` does not know where a text ends then."""


def read_sql(folder: Path, source: Source, wanted: dict[str, str], expected: str | None, progress: Progress) -> Sheet:
    """The wanted columns of a query's rows.

    Where rows are patients their order means nothing, so they are sorted: a database that gives the same rows in
    another order has not changed. Where they are encounters the query's own order is kept, and is part of the
    digest.

    Args:
        folder: what relative names of the mapping are seen from.

    Raises:
        InputError: the statement is no SELECT, the driver is missing, the query fails, gives no rows, or lacks or
            repeats a column.
        UnreachableError: the database cannot be reached.
        IntegrityError: code `data-changed`: the rows are not those of that digest; or the password's file can be read by others.
    """
    sql = _given(source)
    url = _url(sql, folder)
    name = shown(sql)
    statement = _statement(sql, list(wanted), url)
    columns = _fetch(url, statement, name, wanted, progress)
    rows = len(next(iter(columns.values())))
    if rows == 0:
        raise InputError(f"{name} gave no rows", expected="one row per patient")
    if source.rows == "patients":
        columns = _sorted(columns, source.patient_id)
    digest = _digest(columns)
    hold(name, digest, expected)
    return Sheet(name, columns, list(range(1, rows + 1)), digest, numbering=NUMBERING)


def shown(sql: SqlSource) -> str:
    """The database as people see it. It cannot hold a password, for a mapping cannot."""
    url = _parsed(sql)
    return f"{url.get_backend_name()} database {url.database or url.host or ''}".strip()


def _given(source: Source) -> SqlSource:
    if source.sql is None:
        raise InputError("the mapping names no database", expected="[source.sql]")
    return source.sql


def _parsed(sql: SqlSource) -> URL:
    try:
        return make_url(sql.url)
    except ArgumentError:
        pass  # its text quotes the url
    raise InputError("[source.sql] url is no database URL", expected="such as postgresql+psycopg://user@host/database")


def _url(sql: SqlSource, folder: Path) -> URL:
    url = _parsed(sql)
    if url.get_backend_name() == "postgresql" and url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, folder)
    password = _password(sql, folder)
    return url if password is None else url.set(password=password)


def _sqlite(url: URL, folder: Path) -> URL:
    """The file, opened for reading alone: SQLite makes a missing one otherwise."""
    path = folder / (url.database or "")
    if not path.is_file():
        raise InputError(f"no database file at {path}", remedy="check [source.sql] url of the mapping")
    return URL.create("sqlite", database=f"file:{path.resolve()}", query={"mode": "ro", "uri": "true"})


def _password(sql: SqlSource, folder: Path) -> str | None:
    if sql.password_file is not None:
        return read_secret(folder / sql.password_file, "the database's password").decode(errors="replace").strip()
    if sql.password_env is None:
        return None
    password = os.environ.get(sql.password_env)
    if password is None:
        raise InputError(
            "the database's password is not given",
            expected=f"it in the environment variable {sql.password_env}",
            remedy="set it for this command and for the node's service, or use password_file",
        )
    return password


def _statement(sql: SqlSource, wanted: Sequence[str], url: URL) -> str:
    """The one statement to run, which can only be a SELECT.

    The transaction is read-only as well; this refusal is the clear message.
    """
    if sql.table is not None:
        quote = _quoting(url)
        names = ", ".join(quote(name) for name in wanted)
        return f"SELECT {names} FROM {'.'.join(quote(part) for part in sql.table.split('.'))}"  # noqa: S608 - quoted names
    query = (sql.query or "").strip().removesuffix(";").rstrip()
    bare = _LITERAL.sub(" ", query).strip()
    if (
        not re.match(r"(select|with)\b", bare, re.IGNORECASE)
        or ";" in bare
        or (";" in query and _FOREIGN.search(query))
    ):
        raise InputError("[source.sql] query is no single SELECT", expected="one SELECT, or WITH … SELECT")
    return query


def _quoting(url: URL) -> Any:
    try:
        return url.get_dialect()().identifier_preparer.quote_identifier
    except (SQLAlchemyError, ImportError):
        pass
    raise _no_driver(url)


def _no_driver(url: URL) -> InputError:
    return InputError(
        f"this installation has no driver for {url.get_backend_name()} databases",
        remedy="pip install 'fedward[postgresql]', or the database's own SQLAlchemy driver",
    )


def _fetch(url: URL, statement: str, name: str, wanted: dict[str, str], progress: Progress) -> dict[str, list[str]]:
    found: FedwardError | None = None
    try:
        with _reading(url) as connection:
            return _rows(connection, statement, name, wanted, progress)
    except FedwardError as error:
        found = error
    except (NoSuchModuleError, ImportError):
        found = _no_driver(url)
    except (SQLAlchemyError, UnicodeError, ValueError, TypeError, OverflowError) as error:
        found = _failure(name, error)
    # Raised here, where what the database said is no longer being handled: it must never be chained.
    found.__context__ = found.__cause__ = None
    raise found


def _failure(name: str, error: Exception) -> FedwardError:
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    kind = type(getattr(error, "orig", None) or error).__name__
    got = f"{kind}, SQLSTATE {state}" if re.fullmatch(r"[0-9A-Z]{5}", state) else kind
    connecting = isinstance(error, OperationalError | InterfaceError) and (not state or state[:2] in ("08", "28", "57"))
    if isinstance(error, DBAPIError) and connecting and not name.startswith("sqlite"):
        return UnreachableError(
            f"{name} cannot be used",
            got=got,
            remedy="check [source.sql] url, the password, and that the database answers this machine",
        )
    return InputError(
        f"{name} refused the query",
        got=got,
        remedy="run the query by the database's own client with the same account: it shows why; this message must not",
    )


@contextmanager
def _reading(url: URL) -> Iterator[Connection]:
    """A connection in a transaction that can only read, and that is rolled back whatever happens."""
    postgresql = url.get_backend_name() == "postgresql"
    options = {"connect_timeout": 15, "options": f"-c statement_timeout={TIMEOUT_S * 1000}"} if postgresql else {}
    # Parameters are hidden: nothing of a statement but its text is ever shown, and not even that here.
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=options)
    try:
        with engine.connect() as connection:
            if postgresql:
                connection = connection.execution_options(postgresql_readonly=True)  # noqa: PLW2901 - the same one
            if url.get_backend_name() == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            try:
                yield connection
            finally:
                connection.rollback()
    finally:
        engine.dispose()


def _rows(
    connection: Connection, statement: str, name: str, wanted: dict[str, str], progress: Progress
) -> dict[str, list[str]]:
    # Streamed by a cursor of the server's, which PostgreSQL takes one statement for, whatever the text hides.
    result: CursorResult[Any] = connection.execution_options(stream_results=True).execute(
        text(statement.replace(":", "\\:"))  # a query's own colons, as in ::text, are no parameters
    )
    header = list(result.keys())
    check_header(name, header, wanted)
    places = {column: header.index(column) for column in wanted}
    columns: dict[str, list[str]] = {column: [] for column in wanted}
    read = 0
    while chunk := result.fetchmany(CHUNK):
        read += len(chunk)
        check_cells(name, read, len(wanted))
        for column, place in places.items():
            columns[column] += texts(row[place] for row in chunk)
        progress(read)
    return columns


def _sorted(columns: dict[str, list[str]], patient: str) -> dict[str, list[str]]:
    """Rows by patient, then by all cells: the same rows in any order become the same."""
    keys = list(zip(columns[patient], *columns.values(), strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return {name: [cells[place] for place in order] for name, cells in columns.items()}


def _digest(columns: dict[str, list[str]]) -> str:
    """SHA-256 of the columns, each with its name, a line of JSON each: no two sheets write the same."""
    whole = hashlib.sha256()
    for name in sorted(columns):
        whole.update(json.dumps([name, columns[name]], separators=(",", ":")).encode() + b"\n")
    return whole.hexdigest()
