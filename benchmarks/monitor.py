"""The monitor's reach: a record of 1 000 rounds × 50 sites × 12 groups in a real browser, and what a refresh reads.

Beside it stands the least that Streamlit itself takes here, a page of a title and two small charts, in browsers that take turns
with ours; and the first page as a browser shows it that has seen the monitor before.

The real command serves the record, and Chromium opens it: seconds until the first page's sentence and charts are drawn, and from
the click on each other page until that page is. Repetitions take turns with a fresh browser; the fastest counts, as other work on
the machine only adds. A refresh is timed in the reader, after one more round was written, and counts the rows that it asked for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Run as a file, Python looks for modules beside it; ours are found from the folder above, the browser's driver beside the tests.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import chromium  # type: ignore[import-not-found]  # noqa: E402
import httpx  # noqa: E402

from benchmarks.figures import Figure, at_most, report  # noqa: E402
from benchmarks.fleet import free_ports  # noqa: E402
from benchmarks.long_record import AT, write_record  # noqa: E402
from fedward.dashboard.federation.reading import EVERYBODY, Reader  # noqa: E402
from fedward.privacy.canonical import digest  # noqa: E402
from fedward.server.home import CoordinatorHome  # noqa: E402
from fedward.server.records import Checkpoint  # noqa: E402
from fedward.server.round import Outcome, SiteState, Status  # noqa: E402

SITES, ROUNDS, BANDS = 50, 1000, 10
"""Ten bands of age and two of sex: twelve groups."""
TURNS = 3
PAGES = {"Accuracy": 4, "Fairness": 2, "Privacy": 1, "Participation": 2, "Models": 0, "Audit": 0}
"""Every page but the first, and how many charts it has at least."""
_SAID = "document.body.innerText.includes('This study costs a patient')"
_IDLE = "document.querySelector('[data-testid=stApp][data-test-script-state=notRunning]')"
_LIMIT_S = 120.0
_BARE = """
import altair as alt, pandas as pd, streamlit as st
st.title("This study costs a patient")
points = pd.DataFrame({"x": [1, 2, 3], "y": [1, 3, 2]})
for number in range(2):
    st.altair_chart(alt.Chart(points, title=str(number)).mark_line().encode(x="x", y="y"))
"""


def figures() -> list[Figure]:
    """All of it, on one record."""
    with tempfile.TemporaryDirectory(prefix="fedward-monitor-") as folder:
        home, _ = write_record(Path(folder) / "coordinator", SITES, ROUNDS, BANDS)
        turns, bare = [], []
        with _served(home) as address, _bare(Path(folder)) as least:
            for number in range(TURNS):
                turns.append(_turn(address, Path(folder) / f"browser-{number}"))
                bare.append(_first(least, Path(folder) / f"bare-{number}"))
        fastest = {name: min(turn[name] for turn in turns) for name in turns[0]}
        first, again = fastest.pop("first"), fastest.pop("again")
        found = [at_most("monitor.first_page", first, "s", 2.0)]
        found.append(report("context.streamlit_two_charts", min(bare), "s"))
        found.append(report("context.first_page_beside_it", first / min(bare), "x"))
        found.append(report("context.first_page_again", again, "s"))
        found += [report(f"context.page_{name.lower()}", seconds, "s") for name, seconds in fastest.items()]
        found.append(at_most("monitor.slowest_page_switch", max(fastest.values()), "s", 1.0))
        return [*found, *_refresh(home)]


def _first(address: str, folder: Path) -> float:
    """Seconds of the first page in one fresh browser."""
    folder.mkdir()
    with chromium.page(folder) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=1440, height=900, deviceScaleFactor=1, mobile=False)
        began = time.perf_counter()
        page.call("Page.navigate", url=address)
        _drawn(page, "/", 2)
        return time.perf_counter() - began


def _turn(address: str, folder: Path) -> dict[str, float]:
    """Seconds of each page in one fresh browser."""
    folder.mkdir()
    found = {}
    with chromium.page(folder) as page:
        page.call("Emulation.setDeviceMetricsOverride", width=1440, height=900, deviceScaleFactor=1, mobile=False)
        began = time.perf_counter()
        page.call("Page.navigate", url=address)
        _drawn(page, "/", 2)
        found["first"] = time.perf_counter() - began
        for name, charts in PAGES.items():
            time.sleep(1.0)
            began = time.perf_counter()
            page.value(f"[...document.querySelectorAll('a')].find(one => one.innerText.trim() === '{name}').click()")
            _drawn(page, f"/{name.lower()}", charts)
            found[name] = time.perf_counter() - began
        page.call("Page.navigate", url="about:blank")
        time.sleep(1.0)
        began = time.perf_counter()
        page.call("Page.navigate", url=address)
        _drawn(page, "/", 2)
        found["again"] = time.perf_counter() - began
    return found


def _drawn(page: chromium.Page, path: str, charts: int) -> None:
    svg = f"document.querySelectorAll('[data-testid=stVegaLiteChart] svg').length >= {charts}"
    page.wait(f"location.pathname === '{path}' && {svg} && {_SAID} && {_IDLE}", _LIMIT_S)


def _refresh(home: CoordinatorHome) -> list[Figure]:
    """A reader that has read everything reads one more round."""
    store = home.open_store()
    counted = _Counted(store)
    try:
        reader = Reader(counted)  # type: ignore[arg-type]
        key = reader.studies()[0].key
        first = _timed(lambda: _read(reader, key))
        rows = counted.rows
        names = reader.look(key).sites
        store.open_attempt(key, ROUNDS + 1, ROUNDS + 1, digest(b"b"), names, AT + ROUNDS + 1)
        sites = {site: SiteState(Status.CONTRIBUTED, at=1.0) for site in names}
        store.close_attempt(
            key, ROUNDS + 1, Outcome.COMMITTED, "all", sites, 0.5, AT + ROUNDS + 1,
            commit=Checkpoint(ROUNDS + 1, digest(b"c"), b""),
        )  # fmt: skip
        counted.rows = 0
        again = _timed(lambda: _read(reader, key))
        return [
            report("context.everything_read_once", first, "s"),
            report("context.rows_read_once", rows, "rows"),
            at_most("monitor.refresh", again, "s", 0.1),
            at_most("monitor.rows_of_a_refresh", counted.rows, "rows", 500),
        ]
    finally:
        store.close()


def _read(reader: Reader, key: int) -> None:
    """What all pages together need of the record."""
    look = reader.look(key)
    reader.tallies(look)
    reader.metrics(look, EVERYBODY)
    reader.measured(look)


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class _Counted:
    """A store that counts the rows that it gives."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.rows = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)

        def call(*given: Any, **named: Any) -> Any:
            made = found(*given, **named)
            self.rows += len(made) if isinstance(made, list) else 1
            return made

        return call


@contextmanager
def _served(home: CoordinatorHome) -> Iterator[str]:
    """The address of the real command's monitor."""
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "fedward.cli.main", "monitor", "--store", str(home.path), "--no-browser"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _LIMIT_S
        while not _healthy(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("the monitor does not serve")
            time.sleep(0.2)
        time.sleep(8.0)  # it imports what the first ε needs
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _bare(folder: Path) -> Iterator[str]:
    """The address of a page of Streamlit's own that says a sentence and draws two charts of three points."""
    script, port = folder / "bare.py", free_ports(1)[0]
    script.write_text(_BARE, encoding="utf-8")
    flags = {"port": str(port), "address": "127.0.0.1", "headless": "true", "fileWatcherType": "none"}
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--browser.gatherUsageStats=false"]
    command += [f"--server.{name}={value}" for name, value in flags.items()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _LIMIT_S
        while not _healthy(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("Streamlit does not serve")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> int:
    """The exit status is 1 if a figure falls short, else 0."""
    if chromium.PROGRAM is None:
        print("the monitor is measured in Debian's chromium: apt-get install chromium", file=sys.stderr)
        return 1
    return 0 if all(figure.ok for figure in figures()) else 1


if __name__ == "__main__":
    sys.exit(main())
