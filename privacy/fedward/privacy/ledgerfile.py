"""A ledger's files: the SQLite database with its append-only rules, and the head file `<ledger>.head` beside it.

With a key the database's pages and its write-ahead log are encrypted by SQLCipher (AES-256-CBC, HMAC-SHA512 a page); without
one it is a plain SQLite file. The head file holds a number and a digest, and is plain.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

from sqlcipher3 import dbapi2 as sqlite3

from fedward.privacy.canonical import canonical_json
from fedward.privacy.chain import Chain, begun, genesis_of
from fedward.privacy.durable import replace_file
from fedward.privacy.entries import Head, broken, check_count, check_digest, row_of
from fedward.privacy.errors import InputError, UnreachableError

# How long a charge waits for another process's charge, in seconds.
_PATIENCE = 30.0

_SCHEMA = (
    """CREATE TABLE genesis (
        id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, lineage TEXT NOT NULL,
        epsilon REAL NOT NULL, delta REAL NOT NULL, "order" REAL NOT NULL, digest TEXT NOT NULL)""",
    """CREATE TABLE entries (
        sequence INTEGER PRIMARY KEY, previous TEXT NOT NULL UNIQUE, at INTEGER NOT NULL, kind TEXT NOT NULL,
        body TEXT NOT NULL, digest TEXT NOT NULL UNIQUE)""",
    *(
        f"""CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table}
        BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END"""
        for table in ("genesis", "entries")
        for action in ("UPDATE", "DELETE")
    ),
)


def connect(path: Path, key: str | None = None) -> sqlite3.Connection:
    """A connection to an existing file, durable at every commit. Transactions are the caller's to begin.

    `key` is 64 hexadecimal digits, or None for a plain file.
    """
    # mode=rw: a file that has vanished must not come back empty.
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    if key is not None:
        if re.fullmatch("[0-9a-f]{64}", key) is None:
            raise InputError("the ledger's key is none", expected="64 hexadecimal digits")
        # A raw key: 256 random bits need no key derivation, which would cost a third of a second a connection.
        connection.execute(f"PRAGMA key = \"x'{key}'\"")
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "fullfsync = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def write_database(draft: Path, chain: Chain, key: str | None = None) -> None:
    """Fills the draft with a chain and closes it, which folds its write-ahead log into it.

    Raises:
        UnreachableError: the disk is full or cannot be used.
    """
    try:
        _fill(connect(draft, key), chain)
    except sqlite3.OperationalError as error:
        raise unreachable(draft, str(error)) from error


def _fill(connection: sqlite3.Connection, chain: Chain) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(
            "INSERT INTO genesis VALUES (1, :format, :lineage, :epsilon, :delta, :order, :digest)", genesis_of(chain)
        )
        connection.executemany(
            "INSERT INTO entries VALUES (:sequence, :previous, :at, :kind, :body, :digest)", map(row_of, chain.entries)
        )
        connection.execute("COMMIT")
    finally:
        connection.close()


def read_chain(path: Path, key: str | None = None) -> Chain:
    """The chain in a file, verified in itself; whatever its head file says.

    Raises:
        InputError: there is no file, or it has a format of another version.
        IntegrityError: the chain does not hold.
        UnreachableError: the file cannot be read.
    """
    if not path.exists():
        raise InputError(f"there is no ledger at {path}", remedy="give the path of a copy, or use --write-off")
    try:
        with closing(connect(path, key)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("BEGIN")
            first = connection.execute("SELECT * FROM genesis").fetchall()
            if len(first) != 1:
                raise broken("the first link of the ledger is missing")
            rows = connection.execute("SELECT * FROM entries ORDER BY sequence").fetchall()
    except sqlite3.OperationalError as error:
        raise unreachable(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise broken(f"{path} is damaged: {error}") from error
    chain = begun(dict(first[0]), str(path))
    chain.take_in([SimpleNamespace(**dict(row)) for row in rows])
    return chain


def touch_new(draft: Path) -> None:
    """An empty file for a new ledger, for its owner only; one creation at a time has it."""
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        log_path(draft).unlink(missing_ok=True)
    except FileExistsError as error:
        raise InputError(
            f"{draft} exists: a ledger is being created here, or creating it was cut off",
            remedy="if no other creation is running, delete that file and try again; it holds no charge",
        ) from error


def log_path(path: Path) -> Path:
    """SQLite's write-ahead log."""
    return path.with_name(path.name + "-wal")


def head_path(path: Path) -> Path:
    """The head file."""
    return path.with_name(path.name + ".head")


def read_head(path: Path) -> Head:
    """What the head file says.

    Raises:
        IntegrityError: it is missing or holds no head.
        UnreachableError: it cannot be read.
    """
    try:
        found = json.loads(head_path(path).read_bytes())
        head = Head(found["sequence"], found["digest"])
        check_count(head.sequence, "sequence", 2**53)
        check_digest(head.digest, "digest")
    except FileNotFoundError as error:
        raise broken(f"the ledger's head file {head_path(path).name} is missing") from error
    except OSError as error:
        raise unreachable(path, error.strerror or type(error).__name__) from error
    except (ValueError, TypeError, KeyError, InputError) as error:
        raise broken(f"the ledger's head file {head_path(path).name} is no head") from error
    return head


def write_head(path: Path, head: Head) -> None:
    """Replaces the head file in one step, and returns when it is on disk."""
    data = canonical_json({"sequence": head.sequence, "digest": head.digest}) + b"\n"
    replace_file(head_path(path), data, 0o600)


def unreachable(path: Path, why: str) -> UnreachableError:
    """The error that the storage cannot be used now."""
    return UnreachableError(
        f"the ledger {path} cannot be used now: {why}",
        remedy="see that the disk has space, that its owner runs this, and that no other program holds the file",
        code="ledger-unreachable",
    )
