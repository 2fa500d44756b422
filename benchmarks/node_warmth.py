"""Imported by the nodes' fork server before it forks: what each hospital's own machine computes for itself, computed once here.

A site calibrates its noise when it declares, seconds of computing; five hospitals on two cores would do it at the same moment.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.node_host import MANIFEST
from fedward.client import budgets
from fedward.privacy.ledger import Budget, Ledger
from fedward.study.manifest import Manifest

BUDGET: Final = Budget(1000.0, 1e-3)
"""Every site's of a fleet."""


def calibrate(manifest: Manifest) -> None:
    """Fill the accountant's memory with what a site of a fleet asks it about a study."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger.create(Path(folder) / "ledger", budget=BUDGET, lineage="0" * 32) as ledger,
    ):
        budgets.calibrated(ledger, manifest, at=0)


if MANIFEST in os.environ:
    calibrate(Manifest.model_validate_json(os.environ[MANIFEST]))
