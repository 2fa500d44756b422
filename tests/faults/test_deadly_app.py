"""The ServerApp that `make prove` kills watches parts of the product by their names: they must be there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deaths import FOLDER, HOME

TESTS = Path(__file__).resolve().parents[1]


def test_every_part_that_is_watched_is_there(tmp_path: Path) -> None:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {FOLDER: str(tmp_path), HOME: str(tmp_path), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", "import deadly_app"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
