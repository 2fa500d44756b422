"""A real PostgreSQL on loopback, of Debian's package, started by the tests that need one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg

PASSWORD = "test-Passwort-9Zq"  # noqa: S105 - of a server that lives for a test
USER = "reader"


def programs() -> Path:
    """The folder of initdb and postgres; skips by name where the package is missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    if found:
        return found[-1].parent
    if shutil.which("initdb") and shutil.which("postgres"):
        return Path(str(shutil.which("initdb"))).parent
    pytest.skip("Debian's package postgresql is not installed")


def _unprivileged() -> dict[str, int]:
    """PostgreSQL refuses to run as root: then as its own account, or as nobody."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": account.pw_uid, "group": account.pw_gid}
    pytest.skip("there is no unprivileged account to run PostgreSQL as")


class Server:
    """A fresh server in a folder of its own, for its superuser `reader`. It can be stopped, or crash, and be started again."""

    def __init__(self, *, durable: bool = False) -> None:
        self._bin, self._account = programs(), _unprivileged()
        # Not in pytest's folder: every pytest that starts closes that to all accounts but its own.
        self.folder = Path(tempfile.mkdtemp(prefix="fedward-pg-"))
        self._data, secret = self.folder / "pg", self.folder / "password"
        secret.write_text(PASSWORD)
        self._data.mkdir()
        if self._account:
            for path in (self.folder, self._data, secret):
                os.chown(path, self._account["user"], self._account["group"])
        self._quiet = {
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.STDOUT,
            "cwd": self._data,
            **self._account,
        }
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", USER, "-A", "scram-sha-256", "--pwfile", secret, "-N", "-E", "UTF8",
             "--locale=C"],
            check=True, timeout=120, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, **self._quiet,
        )  # fmt: skip
        self._port = _free_port()
        self._fsync = "on" if durable else "off"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Without the password."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self._port}/{database}"

    def make(self, database: str) -> str:
        """A new, empty database, whose own order of texts is that of English words; its URL."""
        self.execute(
            f"CREATE DATABASE {database} TEMPLATE template0 STRATEGY FILE_COPY LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        )
        return self.url_of(database)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """As the superuser, each statement for itself; the rows, if it gives any."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self._port, user=USER, password=PASSWORD, dbname=database, connect_timeout=5, autocommit=True
        )  # fmt: skip

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-p", str(self._port), "-c", "listen_addresses=127.0.0.1",
             "-c", "unix_socket_directories=", "-c", f"fsync={self._fsync}"],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, **self._quiet,
        )  # fmt: skip
        self._wait(self._process)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends every session and shuts down; SIGQUIT ends as a crash does, and is recovered from at the start."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        import psycopg

        for _ in range(300):
            if process.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended with code {process.returncode}")
            try:
                self.connect().close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError("PostgreSQL did not start")


@contextmanager
def serving(*, durable: bool = False) -> Iterator[Server]:
    """A fresh server. `durable`: what it says is committed is on the disk."""
    server = Server(durable=durable)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGQUIT)
        shutil.rmtree(server.folder)


@contextmanager
def running() -> Iterator[str]:
    """The URL of a fresh server's one database, without the password."""
    with serving() as server:
        yield server.url


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
