"""How people name the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "auroc": "AUROC",
        "auprc": "AUPRC",
        "brier": "Brier score",
        "calibration_gap": "mean score less outcome rate",
        "calibration_error": "calibration error",
        "sensitivity": "sensitivity at 0.5",
        "specificity": "specificity at 0.5",
        "selection_rate": "called positive at 0.5",
        "demographic_parity_gap": "gap in those called positive",
        "equal_opportunity_gap": "gap in sensitivity",
        "equalized_odds_gap": "equalised-odds gap",
    }
)
