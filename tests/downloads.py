"""Public data that the tests use and the repository does not have: skipped by name where it is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def downloaded(name: str) -> Path:
    """A file or folder of FEDWARD_TEST_DATA, such as "diabetes130/dataset_diabetes.zip"; without it the test is skipped."""
    root = os.environ.get("FEDWARD_TEST_DATA")
    if root:
        return Path(root) / name
    if os.environ.get("FEDWARD_REQUIRE_ALL") == "1":
        pytest.fail(f"FEDWARD_REQUIRE_ALL=1, and FEDWARD_TEST_DATA does not name the folder with {name}")
    return pytest.skip(f"set FEDWARD_TEST_DATA to the folder with {name}")
