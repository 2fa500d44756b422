"""What a secure round costs beside a plain one: the demo's federation, four hospitals on loopback with mutual TLS, twice.

The same study is trained with secure aggregation and without it, by the real commands. A round's overhead is the time between two
commits without the slowest site's training, as in `benchmarks.overhead`; the first round, which sets up the batch, is not
among them. The peer is our own plain round, which the demo's hospitals relax their policy for.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from pathlib import Path
from statistics import median

import tomli_w

from benchmarks.figures import Figure, at_most, report
from benchmarks.overhead import LEAST_ROUNDS, ROUNDS, round_seconds, training_seconds
from fedward.cli.demo_federation import DemoFederation, demo_study
from fedward.study.heart import heart_folder


def figures() -> list[Figure]:
    plain, secure = _overheads(secure=False), _overheads(secure=True)
    return [
        at_most("secagg.round", median(secure) - median(plain), "seconds_more", 2),
        report("context.round_overhead_secure", median(secure), "seconds"),
        report("context.round_overhead_secure_worst", max(secure), "seconds"),
        report("context.round_overhead_plain", median(plain), "seconds"),
    ]


def _overheads(secure: bool) -> list[float]:
    """Seconds of each measured round without the slowest site's training."""
    source = heart_folder()
    with tempfile.TemporaryDirectory(prefix="fedward-secure-round-") as name:
        folder = Path(name)
        study = demo_study(source, folder, rounds=ROUNDS, epsilon=None, no_dp=False)
        data = tomllib.loads(study.read_text(encoding="utf-8"))
        data["privacy"]["secure_aggregation"] = secure
        study.write_text(tomli_w.dumps(data), encoding="utf-8")
        with DemoFederation(folder, source, study, _say) as federation:
            federation.set_up()
            view = federation.train(progress=False)
            rounds = round_seconds(federation.coordinator_home, view)
            training = training_seconds([federation.home(site) for site in federation.names])
            overheads = [seconds - training[attempt] for attempt, seconds in rounds.items()]
    if len(overheads) < LEAST_ROUNDS:
        raise RuntimeError(f"{len(overheads)} rounds could be measured, {LEAST_ROUNDS} are needed")
    return overheads


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
