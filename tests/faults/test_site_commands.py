"""Some commands of a hospital are killed, or find the disk full, at some of their writes, and are then given again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from mortal import full, kill
from sitesteps import STEPS, Homes, Step, befall

pytestmark = pytest.mark.timeout(300)

CHOSEN = random.Random(20261126).sample(STEPS, 2)  # noqa: S311 - only which


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return Homes(tmp_path_factory.mktemp("homes") / "all").make()


def _one(names: list[str]) -> list[int]:
    return random.Random(len(names)).sample(range(len(names)), 1)  # noqa: S311 - only where


@pytest.mark.parametrize("step", CHOSEN, ids=lambda step: f"{step.name}, {step.start}")
def test_a_command_is_given_again(homes: Homes, step: Step, tmp_path: Path) -> None:
    assert befall(homes, step, tmp_path / "killed", kill, _one) >= 4
    assert befall(homes, step, tmp_path / "full", full, _one, only_before=True) >= 2
