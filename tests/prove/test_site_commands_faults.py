"""Every command of a hospital is killed, or finds its disk full, at every single place at which it writes; then given again."""

from __future__ import annotations

from pathlib import Path

import pytest
from mortal import full, kill
from sitesteps import GROUPS, LEFT_OUT, READS, STEPS, Homes, Run, Step, befall, run_full

from fedward.cli import site

pytestmark = [pytest.mark.prove, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return Homes(tmp_path_factory.mktemp("homes") / "all").make()


def _everywhere(names: list[str]) -> range:
    return range(len(names))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.name}, {step.start}")
def test_killed_everywhere(homes: Homes, step: Step, tmp_path: Path) -> None:
    assert befall(homes, step, tmp_path / "killed", kill, _everywhere) >= 4


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.name}, {step.start}")
def test_no_space_everywhere(homes: Homes, step: Step, tmp_path: Path) -> None:
    assert befall(homes, step, tmp_path / "full", full, _everywhere, only_before=True) >= 2


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.name}, {step.start}")
def test_a_full_file_system_everywhere(homes: Homes, step: Step, tmp_path: Path) -> None:
    assert run_full(homes, step, tmp_path / "small") >= 2


def test_every_command_is_among_them() -> None:
    app = site.app
    found = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found |= {
            f"{group.name} {command.name or command.callback.__name__}"
            for command in group.typer_instance.registered_commands
            if command.callback
        }
    known = {*READS, *LEFT_OUT, *(" ".join(step.words[: 1 + (step.words[0] in GROUPS)]) for step in STEPS)}
    assert found == known, f"kill these too, or say why not: {sorted(found ^ known)}"


@pytest.mark.parametrize("name", [name for name in READS if name not in {"start", "service"}])
def test_what_only_reads_writes_nothing(homes: Homes, name: str, tmp_path: Path) -> None:
    run = Run(homes, Step((*name.split(), "--home", "{home}"), "approved"), tmp_path)
    code, places, said = run.watched(None, kill, only_before=False)
    assert code in {0, 1}, said
    assert [place for place in places if not place.endswith((".lock", "/lock"))] == []
