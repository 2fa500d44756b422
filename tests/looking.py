"""A monitor of a coordinator's record that is served as somebody serves it, and what a browser must find on each of its pages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromium
import httpx
import pytest
from loopback import free_ports, wait_for

axe = pytest.importorskip("axe_core_python")

PAGES = {"": 2, "accuracy": 4, "fairness": 2, "privacy": 1, "participation": 2, "models": 0, "audit": 0}
"""Every page's address, and how many charts it has at least: gaps of groups that are too small have none."""
READY = "document.querySelectorAll('[data-testid=stVegaLiteChart] svg').length >= "
SAID = "document.body.innerText.includes('This study costs a patient')"
IDLE = "document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')"


@contextmanager
def serving(place: Path) -> Iterator[str]:
    """The address of a monitor of a coordinator's home."""
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedward.cli.main", "monitor", "--store", str(place), "--no-browser", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for("the monitor serves", lambda: _healthy(port) or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert "Traceback" not in err, err


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def ready(page: chromium.Page, charts: int) -> None:
    page.wait(f"{READY}{charts} && {SAID} && {IDLE}", 60)


def serious(page: chromium.Page) -> list[Any]:
    """What axe-core finds of serious or critical impact."""
    page.value(Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    script = "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify(found.violations))"
    found = page.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"]["value"]
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"]][:5])
        for one in json.loads(found)
        if one["impact"] in {"serious", "critical"}
    ]


_SHUT = "[...document.querySelectorAll('[data-testid=stExpander] details')].filter(one => !one.open)"


def open_tables(page: chromium.Page) -> None:
    """Open every table of a page, as by a click on each: closed ones are not sent."""
    while shut := page.value(f"{_SHUT}.length"):
        page.value(f"{_SHUT}[0].querySelector('summary').click()")
        page.wait(f"{IDLE} && {_SHUT}.length < {shut}")
    files = "one => one.innerText.includes('Download CSV')"
    page.wait(f"[...document.querySelectorAll('[data-testid=stExpander] details')].every({files})")
