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
        "sensitivity": "sensitivity",
        "specificity": "specificity",
        "selection_rate": "called positive",
        "precision": "with the outcome, of those called positive",
        "demographic_parity_gap": "gap in those called positive",
        "equal_opportunity_gap": "gap in sensitivity",
        "equalized_odds_gap": "equalised-odds gap",
        "predictive_parity_gap": "gap in precision",
        "auroc_gap": "gap in AUROC",
        "calibration_spread": "gap in mean score less outcome rate",
        "worst_auroc": "AUROC of the worst group",
    }
)
