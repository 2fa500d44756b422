"""The federation that the commands' tests work on: its homes are real, only its network is a dictionary."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import Federation, heart_manifest


@pytest.fixture(scope="session")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Four joined sites with registered data; the heart study is proposed and nobody has decided."""
    federation = Federation(tmp_path_factory.mktemp("proposed"))
    manifest = heart_manifest()
    federation.register(manifest)
    federation.propose(manifest)
    return federation


@pytest.fixture
def fed(proposed: Federation, tmp_path: Path) -> Federation:
    """The test's own copy of it."""
    return proposed.copy(tmp_path / "federation")
