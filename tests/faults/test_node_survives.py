"""A hospital's node is killed, or finds its disk full, at some of the places at which it writes; `make prove` takes them all.

Which ones is drawn with a fixed seed among the places that a run shows, so a new durable write joins the draw by itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation import Federation
from mortal import full
from nodefaults import Case, Fault, befall, manifest, places
from secured import make_quick

pytestmark = pytest.mark.timeout(300)

SAMPLE = 3


@pytest.fixture(scope="module")
def approved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        federation = Federation(tmp_path_factory.mktemp("approved"))
        federation.ready(manifest(secure=True))
        yield federation


@pytest.mark.parametrize("what", ["killed", "no-space"])
def test_a_study_outlives_it_anywhere(approved: Federation, what: str, tmp_path: Path) -> None:
    fault = Fault() if what == "killed" else Fault(full, only_before=True)
    names = places(approved, tmp_path, Case.run, fault)
    charges = [number for number, name in enumerate(names) if name == "before commit ledger.sqlite"]
    assert len(charges) >= 3, names
    chosen = {charges[0], *random.Random(20261126).sample(range(len(names)), SAMPLE)}  # noqa: S311 - only the places
    befall(approved, tmp_path, Case.run, names, sorted(chosen), fault)
