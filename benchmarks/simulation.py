"""How fast a study is simulated: `python benchmarks/simulation.py`, or `make bench ONLY=simulation`.

20 000 patients of 30 numbers, an MLP 30-64-32-1, batches of 32, one epoch a round, one thread; everything in one run. Ours is
`SiteStack`, with Poisson samples, and for DP each patient's gradient clipped and noise from a cryptographic keystream. The loop is
plain PyTorch as its tutorials show it, a DataLoader and a model for each site; with DP it is Opacus's own, `make_private` with
hooks. Flower's own simulation, at 100 sites, is `stock_simulation`. The share of peak is the model's multiplications, no padding
counted, beside a large float32 product of NumPy's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}  # before anything loads them
# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from opacus import PrivacyEngine
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.figures import Figure, at_least, at_most, report
from benchmarks.timing import Work, fastest, timed
from fedward.server.aggregation import weighted_mean
from fedward.simulations.baselines import rehearse
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.engines import engine
from fedward.simulations.rounds import engine_rounds
from fedward.simulations.site_stack import SiteStack
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, parse
from fedward.study.models import build, load_vector, to_vector

_Prepared: TypeAlias = tuple[nn.Module, torch.optim.Optimizer, Any]

PATIENTS, WIDTH, HIDDEN, BATCH, RATE = 20_000, 30, (64, 32), 32, 0.05
TURNS, ROW = 5, 4
MANY_SITES, MANY_PATIENTS, MANY_ROUNDS = 1000, 200, 50


def figures() -> list[Figure]:
    """Every figure."""
    peak = _peak()
    found = [report("context.peak", peak / 1e9, "GFLOP/s")]
    for sites in (10, 100):
        found += _against(sites, private=False, peak=peak)
        found += _against(sites, private=True, peak=peak)
    return found + _beside_flower() + _many()


def _against(sites: int, *, private: bool, peak: float) -> list[Figure]:
    number = PATIENTS // sites
    manifest = _manifest(steps=round(number / BATCH), rate=BATCH / number, private=private)
    data = {f"site-{place:04d}": _patients(number, place) for place in range(sites)}
    sealed = rehearse(manifest, _registered(manifest, data), noise_multiplier=1.0 if private else None)
    stack = SiteStack(sealed, data, {site: UnsafeKeyedDraws(place) for place, site in enumerate(data)})
    base = to_vector(build(manifest))
    weights = [float(number)] * sites

    def ours() -> None:
        weighted_mean(list(stack.updates(base)), weights)

    loop = _opacus_loop(manifest, data) if private else _plain_loop(manifest, data)
    mine, theirs = fastest(TURNS, _rounds(ours), _rounds(loop))
    name = f"simulation.{'dp' if private else 'plain'}_{sites}_sites"
    flops = 2 * PATIENTS * (3 * (WIDTH * HIDDEN[0] + HIDDEN[0] * HIDDEN[1] + HIDDEN[1]) - WIDTH * HIDDEN[0])
    reach = 20 if private or sites == 100 else 15
    return [
        report(f"context.{name}", 1e3 * mine, "ms_a_round"),
        at_least(f"{name}_faster_than_{'opacus' if private else 'torch'}_loop", theirs / mine, "times", reach),
        report(f"context.{name}_share_of_peak", flops / mine / peak, ""),
    ]


def _rounds(function: Callable[[], None]) -> Work:
    """The fastest of a few rounds in a row: of a study's rounds none but the first follows other work."""
    work = timed(function)
    return lambda: min(work() for _ in range(ROW))


def _plain_loop(manifest: Manifest, data: dict[str, Encoded]) -> Callable[[], None]:
    def prepared(model: nn.Module, patients: TensorDataset) -> _Prepared:
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        return model, optimizer, DataLoader(patients, batch_size=BATCH, shuffle=True)

    return _loop(manifest, data, prepared)


def _opacus_loop(manifest: Manifest, data: dict[str, Encoded]) -> Callable[[], None]:
    def prepared(model: nn.Module, patients: TensorDataset) -> _Prepared:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its noise is not cryptographic
            made: _Prepared = PrivacyEngine().make_private(
                module=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=RATE),
                data_loader=DataLoader(patients, batch_size=BATCH),
                noise_multiplier=1.0,
                max_grad_norm=1.0,
            )
        return made

    return _loop(manifest, data, prepared)


def _loop(
    manifest: Manifest, data: dict[str, Encoded], prepared: Callable[[nn.Module, TensorDataset], _Prepared]
) -> Callable[[], None]:
    """One round, site after site, with what `prepared` makes of each site's model and patients."""
    sets = [TensorDataset(torch.from_numpy(one.inputs), torch.from_numpy(one.outcomes)) for one in data.values()]
    initial = build(manifest)
    base = to_vector(initial)

    def run() -> None:
        updates = []
        for patients in sets:
            model = deepcopy(initial)
            load_vector(model, base)
            trained, optimizer, loader = prepared(model, patients)
            for inputs, outcomes in loader:
                optimizer.zero_grad()
                torch.autograd.backward(binary_cross_entropy_with_logits(trained(inputs), outcomes))
                optimizer.step()
            updates.append(to_vector(model) - base)
        weighted_mean(updates, [float(len(patients)) for patients in sets])

    return run


def _beside_flower() -> list[Figure]:
    """100 sites without DP, each in a process of its own: one thread of ours, one worker of Flower's; then one on every core."""
    from benchmarks import stock_simulation  # Flower's import is no part of our start

    began = time.time()
    done = subprocess.run([sys.executable, __file__, "first"], check=True, capture_output=True, text=True)
    end, mine = map(float, done.stdout.split())
    theirs, start = stock_simulation.measure(workers=1)
    cores = os.cpu_count() or 1
    wide, _ = stock_simulation.measure(workers=cores)
    return [
        report("context.simulation.flower_100_sites", theirs, "seconds_a_round"),
        at_least("simulation.plain_100_sites_faster_than_flower", theirs / mine, "times", 50),
        report(f"context.simulation.plain_100_sites_faster_than_flower_on_{cores}_cores", wide / mine, "times"),
        report("context.simulation.flower_start", start, "seconds"),
        at_most("simulation.start", end - began - mine, "seconds", 5),
    ]


def first() -> None:
    """A first round of 100 sites and some more: prints the wall-clock time at its end, and the fastest of the others in seconds."""
    number = PATIENTS // 100
    manifest = _manifest(steps=round(number / BATCH), rate=BATCH / number, private=False)
    data = {f"site-{place:04d}": _patients(number, place) for place in range(100)}
    draws = {site: UnsafeKeyedDraws(place) for place, site in enumerate(data)}
    stack = SiteStack(rehearse(manifest, _registered(manifest, data)), data, draws)
    base, weights, ends = to_vector(build(manifest)), [float(number)] * 100, []
    for _ in range(1 + 2 * TURNS):
        weighted_mean(list(stack.updates(base)), weights)
        ends.append(time.time())
    sys.stdout.write(f"{ends[0]} {np.diff(ends).min()}\n")


def _many() -> list[Figure]:
    """A thousand sites in a process of their own, whose largest memory is its own."""
    done = subprocess.run([sys.executable, __file__, "many"], check=True, capture_output=True, text=True)
    seconds, megabytes = map(float, done.stdout.split())
    return [
        at_most("simulation.1000_sites_50_rounds", seconds, "seconds", 60),
        at_most("simulation.1000_sites_memory", megabytes, "MB", 3000),
    ]


def many() -> None:
    """1000 sites of 200 patients, 50 rounds with DP: prints seconds and the process's largest memory in MB."""
    import resource

    manifest = _manifest(steps=6, rate=BATCH / MANY_PATIENTS, private=True, rounds=MANY_ROUNDS)
    data = {f"site-{place:04d}": _patients(MANY_PATIENTS, place) for place in range(MANY_SITES)}
    began = time.perf_counter()
    sealed = rehearse(manifest, _registered(manifest, data), noise_multiplier=1.0)
    draws = {site: UnsafeKeyedDraws(place) for place, site in enumerate(data)}
    for _ in engine_rounds(sealed, data, engine("stacked", sealed, data, draws)):
        pass
    took = time.perf_counter() - began
    sys.stdout.write(f"{took} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}\n")


def _peak() -> float:
    """Operations a second of a large float32 product."""
    square = np.random.default_rng(0).normal(size=(2000, 2000)).astype(np.float32)
    (took,) = fastest(5, timed(lambda: square @ square))
    return 2 * 2000**3 / took


def _registered(manifest: Manifest, data: dict[str, Encoded]) -> dict[str, int]:
    return {site: round(len(one) / (1 - manifest.training.holdout)) for site, one in data.items()}


def _patients(number: int, seed: int) -> Encoded:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(number, WIDTH)).astype(np.float32)
    outcomes = (generator.random(number) < 0.3).astype(np.float32)
    names = tuple(f"p{place}" for place in range(number))
    return Encoded(names, inputs, outcomes, np.zeros((number, 0), np.bool_))


def _manifest(*, steps: int, rate: float, private: bool, rounds: int = 1) -> Manifest:
    return parse(
        {
            "study": {"id": "speed", "title": "A study to be timed"},
            "outcome": {"column": "y"},
            "features": [{"column": f"x{place}", "type": "numeric", "bounds": [-3.0, 3.0]} for place in range(WIDTH)],
            "model": {"name": "mlp", "hidden": list(HIDDEN)},
            "training": {
                "algorithm": "fedavg", "rounds": rounds, "local_steps": steps, "sampling_rate": rate,
                "local_learning_rate": RATE, "missing": "refuse",
            },
            "federation": {"quorum": 3},
            # More than 200 sites cannot be summed securely, and a manifest says so.
            "privacy": {"secure_aggregation": False}
            | ({"mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5} if private else {"mechanism": "none"}),
        }
    )  # fmt: skip


def main() -> int:
    """Run it; the exit status is 1 if a figure falls short, else 0."""
    torch.set_num_threads(1)
    if sys.argv[1:] in (["many"], ["first"]):
        many() if sys.argv[1] == "many" else first()
        return 0
    return 0 if all(figure.ok for figure in figures()) else 1


if __name__ == "__main__":
    sys.exit(main())
