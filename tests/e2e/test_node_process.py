"""A node as its service manager sees it: metrics, readiness, SIGHUP, and an end that signs off at the coordinator in time."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from loopback import Loopback, wait_for
from prometheus_client.parser import text_string_to_metric_families

from fedward.client.home import SiteHome
from fedward.client.log import read_log
from fedward.client.node_state import node_state

pytestmark = [pytest.mark.federation, pytest.mark.timeout(300)]

SITE = "va"
HANGS = """
import sys, time
from pathlib import Path
from fedward.client import running
from fedward.client.flower import loop
from fedward.client.home import SiteHome
loop.FleetLoop._serve = lambda self, session: (print("works", file=sys.stderr, flush=True), time.sleep(600))
running._warm_up = lambda: None
running.run_node(SiteHome.open(Path(sys.argv[1])), lambda text: print(text, file=sys.stderr, flush=True), grace_s=0.5)
"""


@contextlib.contextmanager
def started(loopback: Loopback, *command: str) -> Iterator[subprocess.Popen[str]]:
    """The site's node as a process of its own, in place of the one in this process."""
    loopback.stop_node(SITE)
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        if SITE not in loopback.nodes:
            loopback.start_node(SITE)
        loopback.await_connected()


def told(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line that the process says like this."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"it ended without saying {pattern}: exit code {process.wait(10)}")


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - http on loopback
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def events(home: Path) -> list[str]:
    opened = SiteHome.open(home)
    return [str(line["event"]) for line in read_log(opened.log_file, opened.unsealer(opened.log_file))]


def connects_at_once(loopback: Loopback) -> float:
    """Seconds until the coordinator takes the site again: 20 and more, if its last session was not ended."""
    began = time.monotonic()
    loopback.start_node(SITE)
    loopback.await_connected()
    return time.monotonic() - began


def test_metrics_readiness_sighup_and_an_orderly_end(loopback: Loopback) -> None:
    home = loopback.sites[SITE]
    with started(loopback, "-m", "fedward.cli.main", "site", "start", "--metrics", "0", "--home", str(home)) as process:
        base = told(process, r"(http://127\.0\.0\.1:\d+)/metrics")[1]
        told(process, r"^connected: ")
        port = int(base.rsplit(":", 1)[1])
        assert processes.listening(process.pid) == {("127.0.0.1", port)}
        wait_for("it is ready", lambda: status(f"{base}/readyz") == 200)
        with urllib.request.urlopen(f"{base}/metrics", timeout=30) as response:  # noqa: S310
            found = {
                s.name: s.value for f in text_string_to_metric_families(response.read().decode()) for s in f.samples
            }
        assert (found["fedward_connected"], found["fedward_epsilon_budget"]) == (1, 1000)
        assert found["fedward_last_contact_age_seconds"] < 30
        assert found["fedward_audit_entries"] > 0
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None, "SIGHUP opens the log anew, and ends nothing"
        began = time.monotonic()
        process.terminate()
        assert process.wait(15) == 0
        assert time.monotonic() - began < 10
        assert node_state(SiteHome.open(home))["state"] == "stopped"
        assert events(home)[-1] == "stopped"
        assert connects_at_once(loopback) < 5


def test_a_request_that_takes_too_long_is_abandoned_and_the_node_signs_off(loopback: Loopback) -> None:
    home = loopback.sites[SITE]
    with started(loopback, "-c", HANGS, str(home)) as process:
        told(process, "^works")
        began = time.monotonic()
        process.terminate()
        assert process.wait(15) == 0
        assert 0.5 <= time.monotonic() - began < 8
        assert events(home)[-2:] == ["abandoned", "stopped"]
        assert SiteHome.open(home).audit.entry(SiteHome.open(home).audit.size - 1).kind == "node-stopped"
        assert connects_at_once(loopback) < 5
