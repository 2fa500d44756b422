"""Shared by all tests: the one federation on loopback, and the rule that nothing is skipped where all is required."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from loopback import Loopback


# How long an example takes says something of the machine, not of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """The session's federation. Each test takes a study id of its own."""
    from loopback import Loopback  # imports torch and Flower: only for the tests that need it

    federation = Loopback(tmp_path_factory.mktemp("loopback"))
    try:
        federation.start()
        yield federation
    finally:
        federation.end()


_MAIN = sys.modules["__main__"]


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit puts a page's script in the place of the main module, and a process that a later test spawns would run it."""
    yield
    sys.modules["__main__"] = _MAIN


UNMEASURED = tuple(f"tests/{part}/" for part in ("attacks", "bundle", "dashboard", "e2e", "faults", "simulations"))
"""What these test is not in coverage's packages, or is covered elsewhere a hundred times: `make coverage` does not watch them."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may run side by side: a file's tests share what their modules set up, and there is one loopback federation.

    What waits for real processes comes first, so that the others fill the time beside it.
    """
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
        if item.nodeid.startswith(UNMEASURED):
            item.add_marker(pytest.mark.no_cover)
    items.sort(key=lambda item: not groups[item].startswith(("loopback", "tests/e2e/", "tests/faults/")))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Raises: UsageError where xdist did not take the groups: pytest 9.2 and xdist 3.8 together ignore them silently."""
    grouped = getattr(session.config.option, "loadgroup", False)
    if grouped and any("@" not in item.nodeid.rsplit("::", 1)[-1] for item in session.items):
        raise pytest.UsageError("tests are not grouped by file: use the pytest of constraints.txt (below 9.2)")


def _group(item: pytest.Item) -> str:
    return "loopback" if "loopback" in getattr(item, "fixturenames", ()) else item.nodeid.split("::")[0]


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Under FEDWARD_REQUIRE_ALL=1 a test that did not run is a test that failed."""
    if os.environ.get("FEDWARD_REQUIRE_ALL") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, but FEDWARD_REQUIRE_ALL=1: {reason}"


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    _forbid_skip(report)
    if report.failed and "loopback" in getattr(item, "funcargs", {}):
        report.sections.append(("the federation", item.funcargs["loopback"].witness()))
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    _forbid_skip(report)
    return report
