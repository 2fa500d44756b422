"""Places at which a process does something to its disk, found by watching it, and what may befall it at one of them.

A child process counts the places: before and after every fsync, rename, removal, truncation and creation of a file below a
folder, and every commit and close of SQLite that writes. Then, for a place, a child is killed there (`kill`), finds the disk
full (`full`), or finds the file system really full because somebody filled it that instant (a function).
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlcipher

_TEMPORARY = re.compile(r"(^|/)\.([^/]+)\.[a-z0-9_]{8}$")
"""A draft of `durable.replace_file`, whose name ends at random."""

Blow = Callable[[str, bool], None]
"""What befalls the process at its place: told the place's name, and whether it is inside of SQLite."""


def kill(_place: str, _database: bool) -> None:
    """kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def full(place: str, database: bool) -> None:
    """No space left, as the kernel or SQLite says it."""
    if database:
        raise sqlcipher.OperationalError("database or disk is full")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)


class Places:
    """Counts the places that this process passes and lets the blow fall at number `at`. For a child: it is not taken out."""

    def __init__(self, folder: Path, at: int | None = None, blow: Blow = kill, *, only_before: bool = False) -> None:
        """`only_before` leaves out where a full disk fails nothing: after a step, and as SQLite closes, whose log then stays."""
        self.folder, self.at, self.blow, self.only_before = str(folder.resolve()), at, blow, only_before
        self.passed = 0
        self.report: Callable[[str], None] = lambda _: None
        """Told of each place as it is reached."""

    def pass_by(self, name: str, *, database: bool = False) -> None:
        if self.only_before and name.startswith(("after", "before close")):
            return
        number = self.passed
        self.passed += 1
        self.report(name)
        if number == self.at:
            self.blow(name, database)

    def install(self) -> None:
        """From now on, in this process."""
        for owner, name in ((os, "fsync"), (os, "fdatasync"), (os, "ftruncate"), (os, "pwrite")):
            self._around(owner, name, lambda handle, *_, **__: Path(f"/proc/self/fd/{handle}").readlink())
        for name in ("replace", "rename"):
            self._around(os, name, lambda _, to, **__: to)
        for name in ("unlink", "remove", "rmdir", "truncate", "mkdir"):
            self._around(os, name, lambda path, *_, **__: path)
        self._around(os, "open", lambda path, flags=0, *_, **__: path if flags & os.O_CREAT else None)
        for module in (sqlite3, sqlcipher):  # the coordinator's store is in one's file, a ledger in the other's
            self._watch_sqlite(module)

    def _inside(self, path: Any) -> str | None:
        """The path below the folder; None for what lies elsewhere or was not asked about."""
        if path is None or isinstance(path, int):
            return None
        named = Path(os.fspath(path))
        whole = str(named.parent.resolve() / named.name)
        if not f"{whole}/".startswith(f"{self.folder}/"):
            return None
        return _TEMPORARY.sub(r"\1\2.new", whole[len(self.folder) + 1 :]) or "."

    def _around(self, owner: Any, name: str, path_of: Callable[..., Any]) -> None:
        original = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            path = self._inside(path_of(*arguments, **named))
            if path is None:
                return original(*arguments, **named)
            self.pass_by(f"before {name} {path}")
            result = original(*arguments, **named)
            self.pass_by(f"after {name} {path}")
            return result

        setattr(owner, name, step)

    def _watch_sqlite(self, module: Any) -> None:
        places = self

        class Connection(module.Connection):  # type: ignore[misc, name-defined]  # a class of either module
            """Its places are the commits of what was written, and its end, at which SQLite folds its log into the file."""

            name: str | None = None
            seen = 0

            def execute(self, statement: str, *rest: Any) -> Any:
                if statement.strip().upper() != "COMMIT":
                    return super().execute(statement, *rest)
                return self._writing("commit", lambda: super(Connection, self).execute(statement, *rest))

            def commit(self) -> None:
                self._writing("commit", super().commit)

            def close(self) -> None:
                wrote, self.seen = self.seen > 0, self.total_changes
                if not wrote or self.name is None:
                    super().close()
                    return
                places.pass_by(f"before close {self.name}")
                super().close()
                places.pass_by(f"after close {self.name}")

            def _writing(self, what: str, step: Callable[[], Any]) -> Any:
                if self.total_changes == self.seen or self.name is None:
                    return step()
                places.pass_by(f"before {what} {self.name}", database=True)
                result = step()
                self.seen = self.total_changes
                places.pass_by(f"after {what} {self.name}", database=True)
                return result

        original = module.connect

        def connect(database: str, *arguments: Any, **named: Any) -> Any:
            made = original(database, *arguments, factory=Connection, **named)
            path = str(database).removeprefix("file://").split("?")[0]
            made.name = places._inside(path)
            return made

        module.connect = connect


def _tell(descriptor: int, name: str) -> None:
    os.write(descriptor, f"{name}\n".encode())


def in_child(operation: Callable[[], int], places: Places) -> tuple[int, list[str], str]:
    """Run an operation in a child that is watched: its exit code (negative: a signal), the places it passed, what it said.

    What the child prints to standard output and error is the third; a traceback of an error that it let through too.
    """
    read, write = os.pipe()
    out_read, out_write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            for descriptor in (1, 2):
                os.dup2(out_write, descriptor)
            sys.stdout = sys.stderr = os.fdopen(out_write, "w", buffering=1, closefd=False)
            places.install()
            places.report = lambda name: _tell(write, name)
            code = operation()
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - shown to the test
            os.write(out_write, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(write)
    os.close(out_write)
    said: dict[int, bytes] = {read: b"", out_read: b""}
    with selectors.DefaultSelector() as both:
        for descriptor in said:
            both.register(descriptor, selectors.EVENT_READ)
        while both.get_map():
            for key, _ in both.select():
                data = os.read(key.fd, 65536)
                said[key.fd] += data
                if not data:
                    both.unregister(key.fd)
                    os.close(key.fd)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said[read].decode().splitlines(), said[out_read].decode()
