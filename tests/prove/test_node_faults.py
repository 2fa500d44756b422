"""A hospital's node is killed, or finds its disk full, at every single place at which it writes during a study.

The places are found by watching the node's process (`mortal.Places`), not listed. `tests/faults/test_node_survives.py` takes a
sample of the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from federation import Federation
from mortal import full
from nodefaults import Case, Fault, befall, manifest, places
from secured import make_quick

pytestmark = [pytest.mark.prove, pytest.mark.timeout(7200)]

Phase = Callable[[Case], None]


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        yield


@pytest.fixture(scope="module")
def registered(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Every site has registered its data; nothing is proposed."""
    federation = Federation(tmp_path_factory.mktemp("registered"))
    federation.register(manifest(secure=True))
    return federation


@pytest.fixture(scope="module", params=["plain", "secure"])
def approved(request: pytest.FixtureRequest, quick: None, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Proposed and approved by everyone."""
    federation = Federation(tmp_path_factory.mktemp("approved"))
    federation.ready(manifest(secure=request.param == "secure"))
    return federation


def _everywhere(ready: Federation, folder: Path, phase: Phase, fault: Fault, at_least: int) -> None:
    names = places(ready, folder, phase, fault)
    assert len(names) >= at_least, f"only {len(names)} places: the test no longer sees what it should hit"

    def seen(case: Case) -> None:
        assert fault.only_before or case.node.deaths == 1, "nothing was killed"

    befall(ready, folder, phase, names, range(len(names)), fault, seen)


def test_killed_everywhere_while_a_study_is_proposed(registered: Federation, tmp_path: Path) -> None:
    _everywhere(registered, tmp_path, Case.propose, Fault(), 150)


def test_killed_everywhere_while_a_study_runs(approved: Federation, tmp_path: Path) -> None:
    _everywhere(approved, tmp_path, Case.run, Fault(), 90)


def test_no_space_everywhere_while_a_study_is_proposed(registered: Federation, tmp_path: Path) -> None:
    _everywhere(registered, tmp_path, Case.propose, Fault(full, only_before=True), 75)


def test_no_space_everywhere_while_a_study_runs(approved: Federation, tmp_path: Path) -> None:
    _everywhere(approved, tmp_path, Case.run, Fault(full, only_before=True), 45)


def test_a_full_file_system_everywhere_while_a_study_is_proposed(registered: Federation, tmp_path: Path) -> None:
    _everywhere(registered, tmp_path, Case.propose, Fault(only_before=True, small=True), 75)


def test_a_full_file_system_everywhere_while_a_study_runs(approved: Federation, tmp_path: Path) -> None:
    _everywhere(approved, tmp_path, Case.run, Fault(only_before=True, small=True), 45)
