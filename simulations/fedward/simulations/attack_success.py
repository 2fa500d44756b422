"""How far adversaries get: what each reached, and what the model loses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.simulations.adversaries import triggered
from fedward.simulations.options import Options
from fedward.simulations.rounds import Models
from fedward.simulations.scores import ALONE, Unseen, auroc_of
from fedward.study.encoding import Matrix
from fedward.study.manifest import Manifest


@dataclass(frozen=True)
class AttackFigure:
    """What one adversary of one study reached.

    Attributes:
        site: which.
        attack: what it did.
        success: of a backdoor, the share of held-out patients without the target outcome who are called it once they have the
            trigger; of a free-rider, the AUROC that it gains on its own held-out patients over its own model; of the others, the
            share of held-out patients who are called otherwise than by the model that nobody attacked.
        unattacked: the same figure where nobody attacks.
        auroc_drop: how much AUROC on everybody the model loses to all adversaries together.
    """

    site: str
    attack: str
    success: float
    unattacked: float
    auroc_drop: float


def successes(
    manifest: Manifest,
    options: Options,
    unseen: Unseen,
    chances: Callable[[Matrix, Models], NDArray[np.float64]],
    attacked: Models,
    clean: Models,
    by_model: Mapping[str, NDArray[np.float64]],
) -> tuple[AttackFigure, ...]:
    """What each adversary reached.

    Args:
        manifest: the study.
        options: its adversaries, and the threshold of decisions.
        unseen: held-out patients, shape (n, width).
        chances: the probabilities of inputs, shape (n, width), by a study's models.
        attacked: the models of the study with its adversaries.
        clean: those without.
        by_model: probabilities of `unseen` by name of the model, those of hospitals alone among them.
    """
    everybody, limit = unseen.everybody, options.threshold
    worse, better = (chances(everybody.inputs, one) for one in (attacked, clean))
    drop = unseen.auroc(better) - unseen.auroc(worse)
    found = []
    for one in options.adversaries:
        if one.attack == "backdoor":
            inputs = triggered(manifest, everybody.inputs, one)
            others = everybody.outcomes != one.target
            reached, before = (
                float(np.mean((chances(inputs, which)[others] >= limit) == bool(one.target)))
                if others.any()
                else math.nan
                for which in (attacked, clean)
            )
        elif one.attack == "free-rider":
            mask = unseen.slices[f"site={one.site}"]
            alone = by_model.get(f"{ALONE}{one.site}")
            own = math.nan if alone is None else auroc_of(alone[mask], everybody.outcomes[mask])
            reached, before = (auroc_of(which[mask], everybody.outcomes[mask]) - own for which in (worse, better))
        else:
            reached, before = float(np.mean((worse >= limit) != (better >= limit))), 0.0
        found.append(AttackFigure(one.site, one.attack, reached, before, drop))
    return tuple(found)
