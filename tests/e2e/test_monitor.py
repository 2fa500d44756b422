"""`fedward monitor` as somebody uses it: a real process, a real browser, a run that goes on while it is looked at."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chromium
import httpx
import processes
import pytest
from loopback import free_ports, wait_for
from runs import broken_off, simulated, written

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Debian's chromium"),
]
READY = "document.querySelectorAll('[data-testid=stVegaLiteChart] svg').length >= "


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("run") / "run")


@contextmanager
def monitor(run: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a monitor, and its process."""
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedward.cli.main", "monitor", str(run), "--no-browser", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run.parent,
    )  # fmt: skip
    try:
        wait_for("the monitor serves", lambda: _healthy(port) or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait(10)


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_nothing_is_clipped_in_light_and_dark_at_both_widths(run: Path, tmp_path: Path) -> None:
    with monitor(run) as (address, _), chromium.page(tmp_path) as page:
        grounds = set()
        for path, number in (("", 3), ("fairness", 3), ("run", 0)):
            for width in (1440, 1024):
                for dark in (False, True):
                    page.open(f"{address}/{path}", width, 2200, dark)
                    page.wait(f"{READY}{number} && document.body.innerText.includes('unit: patient')")
                    assert "ε at most 3" in page.text()
                    assert page.value("document.querySelector('[data-testid=stMain]').scrollWidth") <= width
                    assert page.value(CLIPPED) == []
                    grounds.add(
                        page.value("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
                    )
        assert grounds == {"rgb(255, 255, 255)", "rgb(20, 23, 28)"}


CLIPPED = """
[...document.querySelectorAll('[data-testid=stVegaLiteChart] svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const at = text.getBoundingClientRect();
    return at.width > 0 && (at.left < box.left - 3 || at.right > box.right + 3 || at.bottom > box.bottom + 3);
  }).map(text => text.textContent);
}).concat([...document.querySelectorAll('h2, h3, [data-testid=stMetricValue] div')]
  .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent))
"""
"""Texts that stick out of their chart by more than the air around their glyphs, or that do not fit where they stand."""


def test_a_run_that_goes_on_is_followed_and_its_page_stays_where_it_is(run: Path, tmp_path: Path) -> None:
    folder = broken_off(run, tmp_path / "going", [0])
    with monitor(folder) as (address, _), chromium.page(tmp_path) as page:
        page.open(address, height=700)
        page.wait(f"{READY}3 && document.body.innerText.includes('over 1 seed')")
        assert "Not finished" in page.text()
        page.value("document.querySelector('[data-testid=stMain]').scrollTo(0, 300)")
        shutil.copy(run / "seeds" / "1.json", folder / "seeds" / "1.json")
        page.wait("document.body.innerText.includes('over 2 seeds')", 20)
        assert page.value("document.querySelector('[data-testid=stMain]').scrollTop") == 300
        for name in ("seeds/2.json", "scores.parquet", "rounds.parquet", "summary.json"):
            shutil.copy(run / name, folder / name)
        page.wait("document.body.innerText.includes('over 3 seeds')", 20)
        page.wait("!document.body.innerText.includes('Not finished')", 20)
        (folder / "study.json").write_text("{")
        (folder / "run.json").touch()
        page.wait("document.body.innerText.includes('study.json cannot be read')", 20)
        assert "Traceback" not in page.text()


def test_it_serves_this_machine_alone_and_text_of_files_makes_no_link(tmp_path: Path) -> None:
    title = (
        "[a](http://evil.example) http://evil.example www.evil.example :smile: :material/home: <img src=x> $x^2$ **b**"
    )
    hostile = written(tmp_path / "run", [], study={"title": title})
    with monitor(hostile) as (address, process), chromium.page(tmp_path) as page:
        page.open(address)
        page.wait("document.querySelector('h2')")
        page.wait("document.body.innerText.includes('Not finished')")
        assert page.value("document.querySelector('h2').innerText.replaceAll('\\u2060', '')") == title
        assert page.value("document.querySelectorAll('a[href*=evil], h2 img, h2 .katex, h2 strong').length") == 0
        elsewhere = "performance.getEntriesByType('resource').map(one => one.name).filter(one => !one.startsWith(location.origin))"
        assert page.value(elsewhere) == []
        sockets = processes.listening(process.pid)
        assert {host for host, _ in sockets} == {"127.0.0.1"}
        foreign = {"Host": "evil.example", "Connection": "Upgrade", "Upgrade": "websocket",
                   "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13"}  # fmt: skip
        assert httpx.get(f"{address}/_stcore/stream", headers=foreign, timeout=10).status_code == 403


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_ends_cleanly(run: Path, number: signal.Signals) -> None:
    with monitor(run) as (address, process):
        assert processes.descendants(process.pid) == set()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert re.search(rf"is at {address} \(Ctrl-C ends it\)", out)
        assert "Traceback" not in out + err
