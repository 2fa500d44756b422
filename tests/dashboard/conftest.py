"""One simulated run and one federation's record for all of the monitor's tests; nobody writes in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import histories
import pytest
from federation import Federation
from monitored import monitored
from runs import simulated
from streamlit import config


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("monitor") / "run")


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return monitored(tmp_path_factory.mktemp("record"))


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """A study that is proposed and approved, and not launched."""
    return histories.template(tmp_path_factory.mktemp("begun"))


@pytest.fixture(autouse=True)
def loopback_server() -> Iterator[None]:
    """Pages are laid out as on a server of this machine alone: without an access file any other lets nobody in."""
    before = config.get_option("server.address")
    config.set_option("server.address", "127.0.0.1")
    yield
    config.set_option("server.address", before)
