"""The store in a PostgreSQL database: one writer by an advisory lock, commits that wait for the disk, reconnection by itself.

Writers take one advisory lock for a transaction, first of all: what they then read is what the writer before them committed, so
nothing is lost, nothing fails at commit and nothing has to be tried again. (READ COMMITTED: every statement sees what was committed
when it began; PostgreSQL's manual, 13.2.1 and 13.3.5.) A connection that the server ended is found out when it is next used.

The password is in no URL, setting or message. It is asked for at each connection: FEDWARD_STORE_PASSWORD, then the systemd
credential `fedward-store-password`, then libpq's own PGPASSFILE.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fedward.privacy.errors import FedwardError, InputError, IntegrityError, RefusalError, UnreachableError
from fedward.server import tables
from fedward.server.database import Database

WAIT_S: Final = 30
"""How long a writer waits for the one before it, as SQLite's do."""
PASSWORD_VARIABLE: Final = "FEDWARD_STORE_PASSWORD"  # noqa: S105 - its name
CREDENTIAL: Final = "fedward-store-password"

_LOCK: Final = 0x46656477  # "Fedw": ours among the advisory locks of a database
_OPTIONS: Final = frozenset({
    "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile", "channel_binding", "target_session_attrs"
})  # fmt: skip
_DURABLE: Final = {"synchronous_commit": ("on", "remote_apply"), "fsync": ("on",), "full_page_writes": ("on",)}
_EXAMPLE: Final = "such as postgresql+psycopg://fedward@db.example.org/fedward"


class PostgresqlDatabase(Database):
    """A database of a PostgreSQL server, 14 or newer."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """
        Raises:
            InputError: no URL of a PostgreSQL database, or one with a password (`password-in-url`), or its driver is not installed.
        """
        parsed = parse(url)
        options = f"-c lock_timeout={WAIT_S}s -c default_transaction_read_only={'on' if read_only else 'off'}"
        try:
            engine = sa.create_engine(
                parsed,
                pool_pre_ping=True,
                hide_parameters=True,
                connect_args={"options": options, "connect_timeout": 10, "application_name": "fedward"}
                | {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3},
            )
        except ModuleNotFoundError:
            raise InputError(
                "the driver for PostgreSQL is not installed",
                expected="psycopg",
                remedy="pip install 'fedward[postgresql]'",
            ) from None
        sa.event.listen(engine, "do_connect", _give_password)
        sa.event.listen(engine, "connect", _require_durable)
        super().__init__(parsed.set(query={}).render_as_string(hide_password=True), engine)

    def format(self) -> int | None:
        with self.reading() as connection:
            if not sa.inspect(connection).has_table(tables.FORMATS.name):
                return None
            return int(connection.execute(sa.select(tables.FORMATS.c.version_num)).scalar_one())

    def take(self, connection: Connection) -> None:
        # One store a schema: the lock's second number tells those of a database apart.
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK}, hashtext(current_schema()))")

    def changes(self, connection: Connection) -> int | None:  # noqa: ARG002 - there is no such number
        return None

    def now(self, connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT floor(extract(epoch FROM clock_timestamp()))").scalar_one())

    def watching(self) -> Connection:
        # AUTOCOMMIT: else its first query would begin a transaction that stays open, and holds up the server's cleaning.
        return super().watching().execution_options(isolation_level="AUTOCOMMIT")

    def translated(self, error: sa.exc.DBAPIError) -> FedwardError:
        state = getattr(error.orig, "sqlstate", None) or ""
        kind = f"{type(error.orig).__name__}{f', SQLSTATE {state}' if state else ''}"
        if state in {"55P03", "40P01", "57014"}:
            return UnreachableError(
                f"the coordinator's store is locked ({self.shown})",
                got=f"{kind}, after {WAIT_S} s",
                remedy="stop the process that holds it: pg_stat_activity on the server lists them",
                code="store-locked",
            )
        if state.startswith(("22", "23")):
            return IntegrityError(
                f"the coordinator's store refuses what contradicts it ({self.shown})",
                got=kind,
                remedy="report it; nothing was changed",
            )
        if state.startswith("XX"):
            return IntegrityError(
                f"the coordinator's store is damaged ({self.shown})", got=kind, remedy="restore it from a backup"
            )
        return UnreachableError(
            f"the coordinator's store cannot be used now ({self.shown})",
            got=_login(error) or kind,
            remedy="see that PostgreSQL runs and has free disk space, that host, database and user are right, and that "
            f"{PASSWORD_VARIABLE} or PGPASSFILE gives this user's password; the service goes on by itself then",
            code="store-unreachable",
        )


def parse(url: str) -> sa.URL:
    """A store's URL, held to what one may say.

    Raises:
        InputError: it is none, names another database than PostgreSQL, or an option that is not known; `password-in-url`.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:  # whose text quotes the URL
        raise InputError("the store's URL is none", expected=_EXAMPLE) from None
    if parsed.password is not None or "password" in parsed.query:
        raise InputError(
            "a password stands in the store's URL",
            expected=_EXAMPLE,
            remedy=f"leave it out, and set {PASSWORD_VARIABLE}, a PGPASSFILE or the systemd credential {CREDENTIAL}",
            code="password-in-url",
        )
    if parsed.drivername not in {"postgresql", "postgresql+psycopg"}:
        raise InputError("the store's URL names no PostgreSQL database", expected=_EXAMPLE)
    unknown = sorted(set(parsed.query) - _OPTIONS)
    if unknown or not parsed.database or not parsed.username:
        raise InputError(
            "the store's URL names no user, or no database" if not unknown else "the store's URL has an unknown option",
            expected=f"{_EXAMPLE}; options: {', '.join(sorted(_OPTIONS))}",
        )
    parsed = parsed.set(drivername="postgresql+psycopg")
    if "sslmode" not in parsed.query and parsed.host not in {None, "localhost", "127.0.0.1", "::1"}:
        # libpq's own default would speak to whoever answers, and in the clear if they like.
        parsed = parsed.update_query_dict({"sslmode": "verify-full"})
    return parsed


def _give_password(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    """
    Raises:
        UnreachableError: the systemd credential cannot be read.
    """
    password = os.environ.get(PASSWORD_VARIABLE)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if password is None and folder is not None and (file := Path(folder) / CREDENTIAL).is_file():
        try:
            password = file.read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError):
            raise UnreachableError(f"the credential {file} cannot be read", code="store-unreachable") from None
    if password is not None:
        parameters["password"] = password


def _require_durable(connection: Any, _record: Any) -> None:
    """
    Raises:
        RefusalError: `store-not-durable`.
    """
    found = {}
    with connection.cursor() as cursor:
        for name in _DURABLE:
            cursor.execute(f"SHOW {name}")
            found[name] = str(cursor.fetchone()[0])
    connection.rollback()
    if wrong := {name: value for name, value in found.items() if value not in _DURABLE[name]}:
        raise RefusalError(
            "the store's PostgreSQL says that a commit is done before it is on the disk",
            expected=", ".join(f"{name} = {_DURABLE[name][0]}" for name in wrong),
            got=", ".join(f"{name} = {value}" for name, value in wrong.items()),
            remedy="set it so for this database: ALTER SYSTEM, ALTER DATABASE or ALTER ROLE … SET; nothing was written",
            code="store-not-durable",
        )


def _login(error: sa.exc.DBAPIError) -> str | None:
    """A login that failed has no SQLSTATE in libpq, only words, which are not passed on."""
    text = str(error.orig)
    refused = ("authentication failed", "no password supplied", "no pg_hba.conf entry")
    return "the server refuses the login" if any(words in text for words in refused) else None
