"""The stubs are those of the proto that stands beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_stubs_are_made_from_the_proto() -> None:
    command = [sys.executable, ROOT / "scripts/control_stubs.py", "--check"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
