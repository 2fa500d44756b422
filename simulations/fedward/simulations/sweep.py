"""A sweep: every setting on validation patients, and the test of what was chosen by them alone.

A seed's held-out patients are its test: no setting is scored on them before it is chosen. Its training patients are split once
more, in the same proportion; each setting trains on one part and is scored on the other. For each value of one field, such as ε,
the setting with the best mean over seeds is chosen, and only these are run as studies: trained on all training patients, scored on
the test, with all baselines.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedward.privacy.errors import InputError, UsageError
from fedward.simulations.baselines import Split, split
from fedward.simulations.engines import EngineName
from fedward.simulations.expected import split_key
from fedward.simulations.grid import Setting
from fedward.simulations.options import PLAIN, Options
from fedward.simulations.scores import Summary, summary_of
from fedward.simulations.simulate import trial
from fedward.study.encoding import Encoded

Known = Callable[[Setting, int], float | None]
Keep = Callable[[Setting, int, float], None]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Validated:
    """A setting's AUROC on validation patients, one a seed; NaN where training did not stay finite."""

    setting: Setting
    areas: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over seeds; below all others where a seed has none, so that it is not chosen for the rest."""
        return -math.inf if any(map(math.isnan, self.areas)) else float(np.mean(self.areas))

    @property
    def summary(self) -> Summary:
        """For people."""
        return summary_of("federated", self.setting.name, [0], self.areas)


def validate(
    found: Sequence[Setting],
    hospitals: Mapping[str, Encoded],
    seeds: Sequence[int],
    engine_name: EngineName = "stacked",
    options: Options = PLAIN,
    known: Known = lambda _setting, _seed: None,
    keep: Keep = lambda _setting, _seed, _area: None,
    tell: Report = lambda _line: None,
) -> list[Validated]:
    """Every setting on each seed's validation patients.

    Args:
        found: the settings.
        hospitals: every hospital's patients, the test's included.
        seeds: one a study.
        engine_name: who computes the sites' updates.
        options: of the simulation, adversaries among them.
        known: what an earlier run found already.
        keep: told of each new figure.
        tell: hears of each.

    Raises:
        InputError: a setting does not fit the hospitals.
        RefusalError: no noise in reach keeps a setting's promise.
    """
    if not found or not seeds:
        raise InputError("a sweep needs settings and seeds", got=f"{len(found)} settings, {len(seeds)} seeds")
    areas: dict[int, list[float]] = {place: [] for place in range(len(found))}
    done = 0
    for seed in seeds:
        for place, setting in enumerate(found):
            area = known(setting, seed)
            if area is None:
                area = validation_area(setting, hospitals, seed, engine_name, options)
                keep(setting, seed, area)
            areas[place].append(area)
            done += 1
            tell(f"validation {done} of {len(found) * len(seeds)}: seed {seed}, {setting.name}: {area:.3f}")
    return [Validated(setting, tuple(areas[place])) for place, setting in enumerate(found)]


def validation_area(
    setting: Setting, hospitals: Mapping[str, Encoded], seed: int, engine_name: EngineName, options: Options
) -> float:
    """A setting's AUROC on one seed's validation patients."""
    share = setting.manifest.training.holdout
    inner: dict[str, Split] = {}
    for site, data in sorted(hospitals.items()):
        outer = split(data, share, split_key(seed, site))
        inner[site] = split(outer.training, share, _validation_key(seed, site))
    return trial(setting.manifest, inner, seed, engine_name, options)


def _validation_key(seed: int, site: str) -> bytes:
    return hashlib.sha256(f"fedward/validation/{seed}/{site}".encode()).digest()


def choose(validated: Sequence[Validated], along: str) -> dict[str, Validated]:
    """For each value of a field the setting that is best on validation patients, the first of equals.

    Raises:
        UsageError: the field is not varied.
        InputError: of a value no setting stayed finite with every seed.
    """
    chosen: dict[str, Validated] = {}
    for one in validated:
        if along not in one.setting.values:
            raise UsageError("this field is not varied", expected=", ".join(one.setting.values), got=along)
        value = one.setting.values[along]
        if value not in chosen or one.mean > chosen[value].mean:
            chosen[value] = one
    for value, one in chosen.items():
        if one.mean == -math.inf:
            raise InputError(
                f"with {along} = {value} no setting stays finite", remedy="lower the rates, or leave the value out"
            )
    return chosen
