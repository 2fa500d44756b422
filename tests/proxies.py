"""A hospital's way out: Debian's tinyproxy, and one that opens TLS, as some networks have it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from loopback import free_ports, wait_for

PROGRAM = shutil.which("tinyproxy") or "/usr/bin/tinyproxy"
needs_tinyproxy = pytest.mark.skipif(not os.access(PROGRAM, os.X_OK), reason="tinyproxy (a Debian package) is missing")


class Tinyproxy:
    """A real proxy on loopback that allows CONNECT to one port."""

    def __init__(self, folder: Path, allowed: int, *, login: str = "") -> None:
        (self.port,) = free_ports(1)
        self._log, config = folder / f"tinyproxy-{self.port}.log", folder / f"tinyproxy-{self.port}.conf"
        lines = [f"Port {self.port}", "Listen 127.0.0.1", "Timeout 600", f'LogFile "{self._log}"', "LogLevel Connect",
                 "Allow 127.0.0.1", f"ConnectPort {allowed}", "MaxClients 50"]  # fmt: skip
        config.write_text("\n".join([*lines, *([f"BasicAuth {login}"] if login else [])]) + "\n")
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [PROGRAM, "-d", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for("tinyproxy listens", self._listens)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def requests(self) -> list[str]:
        """The request lines that the proxy saw."""
        return re.findall(r"Request \(file descriptor \d+\): (.+)", self._log.read_text())


class Interceptor:
    """A proxy that answers CONNECT and then opens TLS with a certificate of its own; keeps what it could read."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.read: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain:
                plain.recv(4096)
                plain.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                with self._context.wrap_socket(plain, server_side=True) as opened:
                    self.read.append(opened.recv(4096))

    def close(self) -> None:
        self._socket.close()
