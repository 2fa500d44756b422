"""The package as a notebook uses it."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fedward.simulations as package
from fedward.privacy.errors import InputError
from fedward.simulations import Options, gains, load_study, read_sites, round_table, run_seeds, score_table, summarise


def test_a_notebook_s_first_cell(tmp_path: Path) -> None:
    manifest, options = load_study("heart")
    outcomes = run_seeds(manifest, read_sites("heart", manifest).hospitals, 2, options=options, out=tmp_path / "run")
    table = score_table(outcomes)
    (everybody,) = (one for one in summarise(outcomes) if (one.model, one.slice) == ("federated", "everybody"))
    known = table[(table.model == "federated") & (table.slice == "everybody")].auroc
    assert math.isclose(known.mean(), everybody.mean)
    assert len(round_table(outcomes)) == 2 * (manifest.training.rounds + 1)
    assert len(gains(outcomes)) == 4
    assert (tmp_path / "run" / "plots" / "gap.svg").exists()


def test_every_name_is_there_and_no_other() -> None:
    for name in package.__all__:
        assert getattr(package, name).__module__.startswith("fedward.")
    assert dir(package) == package.__all__
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = package.nothing_of_the_kind


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, fedward.simulations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_threshold_is_a_probability() -> None:
    assert Options().with_threshold(0.2).threshold == 0.2
    for wrong in (0.0, 1.0, np.nan):
        with pytest.raises(InputError, match="no probability"):
            Options().with_threshold(wrong)
