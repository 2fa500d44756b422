"""How well four hospitals learn together, on patients that no model trained on: AUROC, without and with privacy.

The study is the embedded one, run by the product's own code in a loop (`simulations.baselines`). For each of 20 seeds
every hospital's held-out third is drawn anew (its key follows the seed), and so is the noise. A figure is the mean over
seeds of the AUROC over all held-out patients together. With privacy, ε ≤ 3 at δ = 1e-3 holds for each hospital over all
planned attempts: the rounds and two spare ones, which are paid for although no run here needs them.

All patients together flatter (36% to 93% of a hospital's patients are diseased), so the AUROC among each hospital's own
held-out patients is reported too, beside the model of that hospital alone and the model of the pool. These are context.

One setting serves both, chosen on seeds 100–119, which no figure uses; `python -m benchmarks.accuracy` repeats the
search. Momentum is 0.9. Mean AUROC of those 20 seeds, without privacy and at ε = 3 by clipping norm C:

    rounds  rate  without    C=0.5    C=1      C=2
        10   0.3  0.9012    0.8916    0.8967    0.8996
        10   1.0  0.9041    0.8974    0.9006    0.9006
        10   2.0  0.9054    0.9003    0.9013    0.8998
        10   3.0  0.9034    0.9010    0.9015    0.8977
        15   0.3  0.9030    0.8943    0.8998    0.9007
        15   1.0  0.9051    0.9007    0.9014    0.9003
        15   2.0  0.8963    0.9015    0.9016    0.8930
        15   3.0  0.8826    0.9016    0.9007    0.8844
        25   0.3  0.9055    0.8999    0.9016    0.9020
        25   1.0  0.8942    0.9021    0.9020    0.8895
        25   2.0  0.8916    0.9025    0.8965    0.8722
        25   3.0  0.8947    0.9015    0.8889    0.8660

15 rounds at rate 1 and C = 1 were chosen: within 0.001 of the best of their columns, and far from the heavy ball's limit
of stability without clipping, η < 2(1 + β)/L, which is about 3.0 here (L = 1.26, a quarter of the largest eigenvalue of
the inputs' second moment); steps near it swing and lose 0.02. Clipping tames them. Differences within 0.003 are a fifth
of the deviation between seeds (0.016) and decide nothing.
The baselines' ridge (`client.alone.PENALTY`) was chosen likewise, where the hospitals alone do best:

    penalty  local only  pooled
        0.3      0.8149  0.9031
        1.0      0.8314  0.9040
        3.0      0.8410  0.9051
       10.0      0.8438  0.9057
       30.0      0.8410  0.9046
      100.0      0.8369  0.9023
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
import torch

from benchmarks.figures import Figure, at_least, report
from fedward.client.alone import local_only
from fedward.privacy.accounting import epsilon
from fedward.simulations.baselines import Split, UnsafeSeededDraws, auroc, pooled, rehearse, split
from fedward.simulations.expected import split_key
from fedward.simulations.folders import read_hospitals
from fedward.simulations.rounds import federate
from fedward.study.encoding import Encoded
from fedward.study.heart import SITES, heart_folder
from fedward.study.manifest import Manifest, SealedManifest, load, parse
from fedward.study.schedule import study_events
from fedward.study.vectors import Vector

SEEDS = range(20)
SEARCH_SEEDS = range(100, 120)
EPSILON, DELTA, SPARE = 3.0, 1e-3, 2
PROCESSES = 2

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """Hyper-parameters; `clipping_norm` None is a study without privacy."""

    clipping_norm: float | None
    rounds: int = 15
    learning_rate: float = 1.0


NO_DP, PRIVATE = Setting(None), Setting(1.0)


@dataclass(frozen=True)
class Outcome:
    """One model's AUROC over all held-out patients, and within each hospital (NaN where one outcome is absent)."""

    everybody: float
    within: dict[str, float]


def figures() -> list[Figure]:
    """Federated AUROC against its targets, then context: local-only and pooled models, and each hospital."""
    runs = _spread(_one_seed, SEEDS)
    by_method = {method: [run[method] for run in runs] for method in runs[0]}
    found = [
        *_against("foundation.auroc_no_dp", by_method["no_dp"], 0.88),
        *_against("foundation.auroc_epsilon_3", by_method["epsilon_3"], 0.87),
        _spent(),
    ]
    alone = [by_method[f"alone_{site}"] for site in SITES]
    found.append(report("context.auroc_local_only", float(np.mean([_mean(runs) for runs in alone])), "auroc"))
    found.append(report("context.auroc_pooled", _mean(by_method["pooled"]), "auroc"))
    for site in SITES:
        for method in (f"alone_{site}", "no_dp", "epsilon_3", "pooled"):
            name = f"context.auroc_within_{site}.{method.removesuffix(f'_{site}')}"
            found.append(report(name, float(np.nanmean([run.within[site] for run in by_method[method]])), "auroc"))
    return found


def _against(name: str, outcomes: Sequence[Outcome], bound: float) -> list[Figure]:
    deviation = float(np.std([outcome.everybody for outcome in outcomes], ddof=1))
    return [at_least(name, _mean(outcomes), "auroc", bound), report(f"{name}.sd", deviation, "auroc")]


def _mean(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([outcome.everybody for outcome in outcomes]))


def _spent() -> Figure:
    sealed = _sealed(PRIVATE)
    events = study_events(sealed, sealed.roster[0].site)  # in a simulation every site has the same σ
    value = epsilon(events, DELTA)
    return report("foundation.epsilon", value, "epsilon", f"<={EPSILON:g}", bool(events) and value <= EPSILON)


def _one_seed(seed: int) -> dict[str, Outcome]:
    """Every method on one seed's split."""
    manifest, hospitals = _manifest(NO_DP), _splits(seed)
    training = {site: hospital.training for site, hospital in hospitals.items()}
    models = {
        "no_dp": _federated(NO_DP, seed, training),
        "epsilon_3": _federated(PRIVATE, seed, training),
        "pooled": pooled(manifest, training.values()),
    }
    models |= {f"alone_{site}": local_only(manifest, data) for site, data in training.items()}
    return {method: _outcome(manifest, model, hospitals) for method, model in models.items()}


def _federated(setting: Setting, seed: int, training: dict[str, Encoded]) -> Vector:
    return federate(_sealed(setting), training, UnsafeSeededDraws(seed))


def _outcome(manifest: Manifest, model: Vector, hospitals: dict[str, Split]) -> Outcome:
    unseen = {site: hospital.held_out for site, hospital in hospitals.items()}
    within = {
        site: auroc(manifest, model, [data]) if len(np.unique(data.outcomes)) == 2 else float("nan")
        for site, data in unseen.items()
    }
    return Outcome(auroc(manifest, model, list(unseen.values())), within)


def _splits(seed: int) -> dict[str, Split]:
    share = _manifest(NO_DP).training.holdout
    return {site: split(data, share, split_key(seed, site)) for site, data in _patients().items()}


@cache
def _patients() -> dict[str, Encoded]:
    return read_hospitals(heart_folder(), _manifest(NO_DP))


@cache
def _manifest(setting: Setting) -> Manifest:
    data = load(heart_folder() / "study.toml").model_dump(mode="json")
    data["training"] |= {"algorithm": "fedsgd", "rounds": setting.rounds, "server_momentum": 0.9}
    data["training"]["server_learning_rate"] = setting.learning_rate
    if setting.clipping_norm is None:
        data["privacy"] |= {"mechanism": "none", "epsilon": None, "delta": None}
    else:
        data["privacy"] |= {"mechanism": "dp-sgd", "epsilon": EPSILON, "delta": DELTA, "spare_attempts": SPARE}
        data["privacy"]["clipping_norm"] = setting.clipping_norm
    return parse(data, "the benchmark's study")


@cache
def _sealed(setting: Setting) -> SealedManifest:
    return rehearse(_manifest(setting), {site: len(data) for site, data in _patients().items()})


def _spread(task: Callable[[int], T], seeds: Iterable[int]) -> list[T]:
    """The task's result for each seed, in order, computed by `PROCESSES` processes of one thread each."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as executor:
        return list(executor.map(task, seeds))


# ---- the search of hyper-parameters, on its own seeds ------------------------------------------------------------------


def search() -> None:
    """Print the tables of this module's docstring and of `client.alone.PENALTY`."""
    print("rounds  rate  without    C=0.5    C=1      C=2")
    for rounds, rate in product((10, 15, 25), (0.3, 1.0, 2.0, 3.0)):
        settings = [Setting(norm, rounds, rate) for norm in (None, 0.5, 1.0, 2.0)]
        means = [float(np.mean(_spread(partial(_search_seed, setting), SEARCH_SEEDS))) for setting in settings]
        print(f"{rounds:6d}  {rate:4.1f}  " + "    ".join(f"{mean:.4f}" for mean in means), flush=True)
    print("penalty  local only  pooled")
    for penalty in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0):
        alone, together = np.mean(_spread(partial(_search_penalty, penalty), SEARCH_SEEDS), axis=0)
        print(f"{penalty:7.1f}  {alone:10.4f}  {together:6.4f}", flush=True)


def _search_seed(setting: Setting, seed: int) -> float:
    hospitals = _splits(seed)
    training = {site: hospital.training for site, hospital in hospitals.items()}
    return _outcome(_manifest(setting), _federated(setting, seed, training), hospitals).everybody


def _search_penalty(penalty: float, seed: int) -> tuple[float, float]:
    manifest, hospitals = _manifest(NO_DP), _splits(seed)
    training = [hospital.training for hospital in hospitals.values()]
    alone = [_outcome(manifest, local_only(manifest, data, penalty), hospitals).everybody for data in training]
    return float(np.mean(alone)), _outcome(manifest, pooled(manifest, training, penalty), hospitals).everybody


if __name__ == "__main__":
    search()
