"""One simulated run for all of the monitor's tests; nobody writes in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import simulated


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("monitor") / "run")
