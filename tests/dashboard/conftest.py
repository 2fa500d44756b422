"""One simulated run for all of the monitor's tests; nobody writes in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import simulated
from streamlit import config


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("monitor") / "run")


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit puts the page's script in the place of the main module, and a process that a later test spawns would run it."""
    before = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = before


@pytest.fixture(autouse=True)
def loopback_server() -> Iterator[None]:
    """Pages are laid out as on a server of this machine alone: without an access file any other lets nobody in."""
    before = config.get_option("server.address")
    config.set_option("server.address", "127.0.0.1")
    yield
    config.set_option("server.address", before)
