"""docs/recovery.md: each fault's row names a test that exists, and each code is one that something says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from source_codes import source_codes

from fedward.privacy.auditentries import KINDS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "recovery.md").read_text(encoding="utf-8")
FAULTS = [
    line for line in PAGE.split("## Files")[0].splitlines() if line.startswith("| ") and "what happens" not in line
]


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row.split("|")[1].strip())
def test_a_fault_is_tested_by_the_test_that_its_row_names(row: str) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
    assert named
    for file, test in named:
        found = list((ROOT / "tests").rglob(file))
        assert found, file
        assert f"def {test}(" in found[0].read_text(encoding="utf-8"), test


def test_every_code_on_the_page_is_one_that_something_says() -> None:
    said = re.findall(r"`([a-z]+(?:-[a-z]+)+|disk|damaged|integrity|retrying|disconnected)`", PAGE)
    assert len(set(said)) > 15
    assert set(said) <= {*source_codes(), *KINDS}
