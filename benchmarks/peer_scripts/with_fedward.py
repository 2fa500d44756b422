"""Ours: the stacked engine behind `fedward simulate`, whole rounds with admission, sum and server step."""

from __future__ import annotations

import numpy as np

from benchmarks.peer_scripts.workload import BATCH, HIDDEN, PATIENTS, RATE, WIDTH, Clock, answer, asked, patients
from fedward.simulations.baselines import rehearse
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.engines import engine
from fedward.simulations.rounds import engine_rounds
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, parse
from fedward.study.models import build, load_vector


def main() -> None:
    """Train and answer."""
    sites, rounds = asked()
    data = {f"site-{place:04d}": _encoded(sites, place) for place in range(sites)}
    manifest = _manifest(sites, rounds)
    registered = {site: round(len(one) / (1 - manifest.training.holdout)) for site, one in data.items()}
    sealed = rehearse(manifest, registered, noise_multiplier=None)
    draws = {site: UnsafeKeyedDraws(place) for place, site in enumerate(data)}
    clock, models = Clock(), engine_rounds(sealed, data, engine("stacked", sealed, data, draws))
    last = next(models)
    for last in models:  # noqa: B007
        clock.tick()
    model = build(manifest)
    load_vector(model, last)
    answer(clock.ends, sites, model)


def _encoded(sites: int, place: int) -> Encoded:
    inputs, outcomes = patients(sites, place)
    return Encoded(
        tuple(f"p{row}" for row in range(len(inputs))), inputs, outcomes, np.zeros((len(inputs), 0), np.bool_)
    )


def _manifest(sites: int, rounds: int) -> Manifest:
    steps = -(-PATIENTS // sites // BATCH)  # as many as a DataLoader makes, so that nobody takes fewer
    return parse(
        {
            "study": {"id": "speed", "title": "A study to be timed"},
            "outcome": {"column": "y"},
            "features": [{"column": f"x{place}", "type": "numeric", "bounds": [-3.0, 3.0]} for place in range(WIDTH)],
            "model": {"name": "mlp", "hidden": list(HIDDEN)},
            "training": {
                "algorithm": "fedavg", "rounds": rounds, "local_steps": steps, "sampling_rate": 1 / steps,
                "local_learning_rate": RATE, "missing": "refuse",
            },
            "federation": {"quorum": 3},
            "privacy": {"secure_aggregation": False, "mechanism": "none"},
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
