"""Votes of held-out patients: a linear model's shares by hand, and hospitals that let votes go."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedward.client.home import SiteHome
from fedward.study.encoding import input_names
from fedward.study.manifest import CategoricalFeature, Manifest


def shares_by_hand(manifest: Manifest, vector: NDArray[np.float32], inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of a logistic regression: an input adds w (x − b) to the log-odds, b being 0 for numbers and 1 / levels for a level."""
    names, found = input_names(manifest), np.zeros((len(inputs), len(manifest.features)))
    for place, feature in enumerate(manifest.features):
        for column, name in enumerate(names):
            if name.split("=")[0].removesuffix(":missing") == feature.column:
                level = isinstance(feature, CategoricalFeature) and "=" in name
                base = 1 / len(feature.levels) if level else 0.0  # type: ignore[union-attr]
                found[:, place] += float(vector[column]) * (inputs[:, column].astype(np.float64) - base)
    found = np.abs(found)
    return found / found.sum(1, keepdims=True)


def allow_votes(home: SiteHome) -> None:
    """Let a hospital's held-out patients vote."""
    text = home.policy_file.read_text()
    home.policy_file.write_text(text.replace("share_influence = false", "share_influence = true"))
