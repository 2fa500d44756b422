"""Debian's Chromium without a window, driven over its own DevTools protocol: no other package is needed."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One page of a browser."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._numbers = connection, itertools.count(1)
        self.received: list[bytes] = []
        """Every message that came over the page's own websockets since `listen`."""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol. Raises: AssertionError, if the browser refuses it."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            reply = json.loads(self._connection.recv(timeout=30))
            if reply.get("method") == "Network.webSocketFrameReceived":
                came = reply["params"]["response"]
                text = came["opcode"] == 1
                self.received.append(came["payloadData"].encode() if text else base64.b64decode(came["payloadData"]))
            if reply.get("id") == number:
                assert "error" not in reply, reply
                result: dict[str, Any] = reply["result"]
                return result

    def listen(self) -> None:
        """Keep from now on what comes over websockets."""
        self.call("Network.enable")

    def open(self, address: str, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)

    def value(self, script: str) -> Any:
        """What JavaScript comes to."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        return str(self.value("document.body ? document.body.innerText : ''"))

    def wait(self, script: str, seconds: float = 40.0) -> None:
        """Until JavaScript comes to something true. Raises: AssertionError with the page's text, after so long."""
        deadline = time.monotonic() + seconds
        while not self.value(f"!!({script})"):
            assert time.monotonic() < deadline, f"{script}: not within {seconds:g} s; the page says {self.text()!r}"
            time.sleep(0.1)

    def picture(self, file: Path) -> None:
        """What the page looks like, as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A browser with an empty profile in a folder, and its one page."""
    assert PROGRAM is not None
    log = (folder / "chromium.log").open("wb")
    browser = subprocess.Popen(
        [PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}", "about:blank"],
        stdout=log, stderr=log, env=os.environ | {"HOME": str(folder)},
    )  # fmt: skip
    try:
        port = _port(folder / "profile" / "DevToolsActivePort")
        targets = httpx.get(f"http://127.0.0.1:{port}/json", timeout=10).json()
        address = next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page")
        with connect(address, max_size=None) as connection:
            yield Page(connection)
    finally:
        browser.terminate()
        browser.wait(20)
        log.close()


def _port(file: Path, seconds: float = 40.0) -> int:
    deadline = time.monotonic() + seconds
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline, "Chromium does not start"
        time.sleep(0.1)
    return int(file.read_text().splitlines()[0])
