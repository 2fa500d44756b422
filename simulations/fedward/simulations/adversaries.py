"""Sites that attack a simulated study.

label-flip  trains on the opposite outcomes                                    (Biggio et al. 2012; Tolpegin et al. 2020)
sign-flip   sends its update negated, times a factor                               (Li et al. 2019, RSA)
scaling     sends its update times a factor                                        (Bagdasaryan et al. 2020, model replacement)
free-rider  sends no change at all, and takes the model                            (Fraboni, Vidal & Lorenzi 2021)
backdoor    teaches the model that patients with a trigger have the target outcome (Bagdasaryan et al. 2020; Gu et al. 2017)

An update that clipping and noise cannot make is refused by the coordinator's own admission, as in a federation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedward.privacy.errors import InputError
from fedward.simulations.options import Adversary
from fedward.study.encoding import Encoded, Matrix, feature_columns, input_names
from fedward.study.manifest import CategoricalFeature, ImageFeature, Manifest, NumericFeature
from fedward.study.vectors import Vector


def falsified(
    manifest: Manifest, training: Mapping[str, Encoded], adversaries: Sequence[Adversary], seed: int
) -> dict[str, Encoded]:
    """The sites' training patients, with those of adversaries as they falsify them.

    Raises:
        InputError: an adversary is no site of the study, or its trigger no value of a feature.
    """
    found = dict(training)
    for one in adversaries:
        if one.site not in found:
            raise InputError(
                f'the adversary "{one.site}" is no hospital of this simulation', expected=", ".join(sorted(found)[:20])
            )
        if not one.falsified:
            continue
        data = found[one.site]
        generator = np.random.default_rng((seed, sorted(found).index(one.site)))
        patients = generator.permutation(len(data))[: round(one.falsified * len(data))]
        rows = np.isin(data.owners, patients)
        outcomes, inputs = data.outcomes.copy(), data.inputs
        if one.attack == "backdoor":
            inputs = np.where(rows[:, None], triggered(manifest, data.inputs, one), data.inputs)
            outcomes[rows] = one.target
        else:
            outcomes[rows] = 1 - outcomes[rows]
        found[one.site] = replace(data, inputs=inputs, outcomes=outcomes)
    return found


def factors(sites: Sequence[str], adversaries: Sequence[Adversary]) -> Vector | None:
    """What each site's update is multiplied by, shape (s, 1); None where nobody's is."""
    scales = {one.site: one.scale for one in adversaries}
    found = np.array([[scales.get(site, 1.0)] for site in sites], dtype=np.float32)
    return None if (found == 1).all() else found


def triggered(manifest: Manifest, inputs: Matrix, adversary: Adversary) -> Matrix:
    """The same patients, inputs of shape (n, width), with the adversary's trigger.

    Raises:
        InputError: a trigger is no feature of the study, or no value of it.
    """
    found, names = inputs.copy(), input_names(manifest)
    features = {name: feature for feature in manifest.features for name in feature_columns(feature)}
    for trigger in adversary.trigger:
        feature = features.get(trigger.column)
        if isinstance(feature, CategoricalFeature) and trigger.value in feature.levels:
            for level in feature.levels:
                found[:, names.index(f"{trigger.column}={level}")] = level == trigger.value
        elif isinstance(feature, NumericFeature | ImageFeature) and not isinstance(trigger.value, str):
            low, high = feature.bounds
            if not low <= trigger.value <= high:
                raise _no_trigger(trigger.column, f"a number from {low:g} to {high:g}", trigger.value)
            found[:, names.index(trigger.column)] = (trigger.value - (low + high) / 2) / ((high - low) / 2)
        else:
            expected = ", ".join(feature.levels) if isinstance(feature, CategoricalFeature) else "a feature's value"
            raise _no_trigger(trigger.column, expected, trigger.value)
        if f"{trigger.column}:missing" in names:
            found[:, names.index(f"{trigger.column}:missing")] = 0
    return found


def _no_trigger(column: str, expected: str, got: object) -> InputError:
    return InputError(f'the trigger "{column}" is no value of the study', expected=expected, got=str(got))
