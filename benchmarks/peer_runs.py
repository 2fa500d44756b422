"""One run of one simulator's script, and what it says of it: `{"startup_s", "round_s", "loss", "note"}`, its last line."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer_processes import NotMeasuredError, finish

ROOT = Path(__file__).resolve().parents[1]
RUN_S = 240.0
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "WANDB_MODE": "disabled"}


@dataclass(frozen=True)
class Run:
    """What a script measured.

    Attributes:
        startup_s: seconds from its call to the end of the first round.
        round_s: seconds of each later round.
        loss: the last model's mean loss over all patients.
        note: what a reader should know of it; may be empty.
    """

    startup_s: float
    round_s: tuple[float, ...]
    loss: float
    note: str


def measure(program: Path, name: str, sites: int, rounds: int) -> Run:
    """Run `peer_scripts/with_NAME.py` by a Python.

    Raises:
        NotMeasuredError: it failed, did not end in time, or did not say what it should.
    """
    paths = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    # Hidden accelerators: everyone trains on one core.
    own = {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "PEERS_BEGAN": repr(time.time())} | _ONE_THREAD | _QUIET
    command = [str(program), "-m", f"benchmarks.peer_scripts.with_{name}", str(sites), str(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        printed = finish(command, RUN_S, os.environ | own, Path(folder))
    return parsed(printed, rounds)


def parsed(printed: str, rounds: int) -> Run:
    """A run from what its script printed.

    Raises:
        NotMeasuredError: the last line is not the JSON that it should be, a number is not positive, or rounds are missing.
    """
    last = (printed.strip().splitlines() or [""])[-1]
    try:
        found = json.loads(last)
    except ValueError:
        raise NotMeasuredError(f"printed no result; its last line is: {last[:200]}") from None
    if not isinstance(found, dict) or set(found) != {"startup_s", "round_s", "loss", "note"}:
        raise NotMeasuredError(f"printed another result than startup_s, round_s, loss and note: {last[:200]}")
    seconds = found["round_s"]
    if not isinstance(seconds, list) or len(seconds) != rounds - 1:
        raise NotMeasuredError(f"timed other rounds than the {rounds - 1} after the first: {last[:200]}")
    if not all(map(_positive, (found["startup_s"], found["loss"], *seconds))) or not isinstance(found["note"], str):
        raise NotMeasuredError(f"printed a number that is not positive and finite: {last[:200]}")
    return Run(float(found["startup_s"]), tuple(map(float, seconds)), float(found["loss"]), found["note"])


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
