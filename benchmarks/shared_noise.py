"""Shared against local noise at four heart hospitals, ε = 0.5: `python benchmarks/shared_noise.py`.

Twenty studies, seeds 0–19, each with held-out patients of its own. AUROC is exact, on raw scores of all held-out patients of the
four hospitals together, and the mean over ten draws of the study's noise. Both kinds of noise keep ε ≤ 0.5 at δ = 1e-3 over
all planned attempts, two spare ones included: local noise against everyone outside a hospital, shared noise against the
coordinator, outsiders and one colluding hospital. What shared noise costs against everyone else colluding is reported beside it:
two different adversaries, never one number.

No reported held-out patient has a say in the hyper-parameters. Rounds and rate are chosen anew in each study and for each kind of
noise, by simulated studies within that study's training patients alone, a third of which stand for the held-out ones. C, momentum
and spare attempts are the example study's. The reported studies with shared noise run on the product's own integers: one
rounding, discrete Gaussian noise, the ring.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy import stats

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, at_least, at_most, report
from fedward.privacy.accounting import epsilon
from fedward.privacy.events import Event, SharedEvent, View
from fedward.simulations.baselines import UnsafeSeededDraws, auroc, rehearse
from fedward.simulations.expected import Trials
from fedward.simulations.folders import read_hospitals
from fedward.simulations.rounds import federate
from fedward.study.encoding import Encoded
from fedward.study.heart import heart_folder
from fedward.study.manifest import Manifest, SealedManifest, load, parse
from fedward.study.terms import site_terms

SEEDS = range(20)
NOISES = 10
"""A study's AUROC is the mean over so many draws of its noise: the interval is then about hospitals and splits, not about luck."""
INNER = range(1000, 1020)
"""Seeds of the simulated studies within one study's training patients; each study shifts them by its own."""
EPSILON, DELTA, REACH = 0.5, 1e-3, 0.875
ROUNDS, RATES = (5, 10, 15, 25), (0.3, 1.0, 2.0)
PROCESSES = 2

Noise = Literal["local", "shared"]


@dataclass(frozen=True)
class Kind:
    """How a study's noise comes about: `quorum` hospitals at least, of which one may collude."""

    noise: Noise
    quorum: int

    def __str__(self) -> str:
        return f"{self.noise}_quorum_{self.quorum}"


LOCAL, SHARED, SHARED_BY_ALL = Kind("local", 3), Kind("shared", 3), Kind("shared", 4)
"""Local noise is the same at every quorum."""
KINDS = (LOCAL, SHARED, SHARED_BY_ALL)


@dataclass(frozen=True)
class Setting:
    kind: Kind
    rounds: int
    rate: float


def figures() -> list[Figure]:
    """Shared noise's AUROC and what it gains on local noise, study by study; then ε against both adversaries."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as executor:
        runs = list(executor.map(_one_study, SEEDS))
    areas = {kind: np.array([run[kind][0] for run in runs]) for kind in KINDS}
    found: list[Figure] = []
    for kind in KINDS:
        name = f"shared_noise.auroc_{kind}"
        reach = kind == SHARED
        found.append(
            at_least(name, areas[kind].mean(), "auroc", REACH) if reach else report(name, areas[kind].mean(), "auroc")
        )
        found.append(report(f"{name}.sd", float(areas[kind].std(ddof=1)), "auroc"))
        (often, times), *_ = Counter(run[kind][1] for run in runs).most_common()
        found.append(report(f"{name}.rounds_most_often", often.rounds, "rounds"))
        found.append(report(f"{name}.chosen_most_often", times, f"of_{len(runs)}"))
    for kind in (SHARED, SHARED_BY_ALL):
        mean, low, high = paired_interval(areas[kind] - areas[LOCAL])
        name = f"shared_noise.gain_{kind}"
        found.append(report(name, mean, "auroc"))
        found.append(report(f"{name}.interval_low", low, "auroc", ">0", low > 0))
        found.append(report(f"{name}.interval_high", high, "auroc"))
    for kind in KINDS:
        chosen = {run[kind][1] for run in runs}
        found.append(
            at_most(f"shared_noise.epsilon_coordinator_{kind}", _most(chosen, "coordinator"), "epsilon", EPSILON)
        )
        found.append(report(f"shared_noise.epsilon_everyone_{kind}", _most(chosen, "everyone"), "epsilon"))
    return found


def paired_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """The mean of paired differences and Student's 95% interval of it."""
    values = np.asarray(differences, dtype=np.float64)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - reach, mean + reach


def _one_study(seed: int) -> dict[Kind, tuple[float, Setting]]:
    """AUROC of each kind of noise on one study's held-out patients, and the setting that its training patients chose."""
    study = _trials([seed])
    (training,), (splits,) = study.training, study.splits
    unseen = [one.held_out for one in splits.values()]
    found = {}
    for kind in KINDS:
        chosen = _choose(kind, training, seed)
        sealed = _sealed(chosen)
        models = [federate(sealed, training, UnsafeSeededDraws(seed, number)) for number in range(NOISES)]
        found[kind] = float(np.mean([auroc(sealed.manifest, model, unseen) for model in models])), chosen
    return found


def _choose(kind: Kind, training: Mapping[str, Encoded], seed: int) -> Setting:
    """The setting that does best in simulated studies within these training patients."""
    settings = [Setting(kind, rounds, rate) for rounds, rate in product(ROUNDS, RATES)]
    inner = Trials(training, _sizes(), _manifest(settings[0]).training.holdout, [100 * seed + one for one in INNER])
    # Stacked floats: shared noise's grid is too fine to be seen in them.
    means = np.nanmean(inner.run([_sealed(setting) for setting in settings]), axis=1)
    return settings[int(np.nanargmax(means))]


def _most(settings: Iterable[Setting], view: View) -> float:
    return max(epsilon(_spent(setting), DELTA, view) for setting in settings)


def _spent(setting: Setting) -> list[Event]:
    """All planned attempts of a hospital that spent nothing before."""
    sealed = _sealed(setting)
    event = site_terms(sealed, sealed.roster[0].site).event
    if event is None or (setting.kind.noise == "shared") != isinstance(event, SharedEvent):
        raise ValueError("the study's noise is another one than its manifest says")
    return [event] * sealed.manifest.planned_attempts


@cache
def _sealed(setting: Setting) -> SealedManifest:
    return rehearse(_manifest(setting), _sizes())


@cache
def _manifest(setting: Setting) -> Manifest:
    data = load(heart_folder() / "study.toml").model_dump(mode="json")
    data["training"] |= {"rounds": setting.rounds, "server_learning_rate": setting.rate}
    data["federation"] |= {"quorum": setting.kind.quorum}
    data["privacy"] |= {"epsilon": EPSILON, "delta": DELTA, "noise": setting.kind.noise, "colluders": 1}
    return parse(data, "the benchmark's study")


@cache
def _hospitals() -> dict[str, Encoded]:
    return dict(read_hospitals(heart_folder(), load(heart_folder() / "study.toml")))


def _sizes() -> dict[str, int]:
    return {site: len(data) for site, data in _hospitals().items()}


def _trials(seeds: Sequence[int]) -> Trials:
    manifest = load(heart_folder() / "study.toml")
    return Trials(_hospitals(), _sizes(), manifest.training.holdout, seeds)


def main() -> int:
    """Print every figure; 1 if one falls short."""
    return 0 if all(figure.ok for figure in figures()) else 1


if __name__ == "__main__":
    sys.exit(main())
