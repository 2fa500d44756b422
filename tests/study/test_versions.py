"""The stated ranges are those of pyproject.toml, the tested versions those of constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fedward.privacy.errors import RefusalError
from fedward.study.versions import PROTOCOL, TESTED, WORKS_WITH, check_protocol, in_range

ROOT = Path(__file__).parents[2]


def test_the_table_is_that_of_the_package() -> None:
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ranges = {re.match(r"[A-Za-z0-9_.-]+", line)[0]: line for line in asked}  # type: ignore[index]
    for name, row in TESTED.items():
        assert row.tested == tested[name], name
        text = f"{name}>={'.'.join(map(str, row.least))}"
        text += "" if row.below is None else f",<{'.'.join(map(str, row.below))}"
        assert ranges[name] == text, name
        assert in_range(row.tested, row), name


def test_its_own_protocol_is_among_those_it_understands() -> None:
    check_protocol(PROTOCOL, "a site")
    assert WORKS_WITH.stop - 1 == PROTOCOL


@pytest.mark.parametrize(
    ("spoken", "remedy"),
    [(PROTOCOL + 1, "update this side"), (WORKS_WITH.start - 1, "the other side must update"),
     (None, "the other side must update"), (float(PROTOCOL), "the other side"), (True, "the other side"), ("1", "the other")],
)  # fmt: skip
def test_another_protocol_is_refused_by_name(spoken: object, remedy: str) -> None:
    with pytest.raises(RefusalError) as refused:
        check_protocol(spoken, "the coordinator")
    assert refused.value.code == "version-mismatch"
    assert remedy in str(refused.value)
