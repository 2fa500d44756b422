"""Every figure of the README: `python benchmarks/run.py [--only foundation,…]`.

A name is a module of this folder that is run as a program of its own: it prints its figures, one a line, and exits with
1 when one falls short. This program exits with 0 only when every name ended well within its time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NAMES = {
    name: FOLDER / f"{name}.py"
    for name in (
        "foundation",
        "secagg",
        "training",
        "utility",
        "ledger",
        "audit",
        "metrics",
        "shared_noise",
        "simulation",
        "fed_heart",
        "scale",
        "reach",
        "monitor",
        "peers",
    )
}
LIMIT_S = 12 * 60.0
LONGER_S = {
    "scale": 90 * 60.0,  # 200 sites on one machine
    "reach": 40 * 60.0,
    "monitor": 30 * 60.0,  # most of it writes the record
    "peers": 60 * 60.0,  # the first time, it installs them, gigabytes of torch among them
}
END_S = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, even after a name fell short; 0 if all is well, else 1."""
    chosen = _chosen(arguments)
    failures = []
    for place, name in enumerate(chosen, 1):
        _say(f"== {name} ({place} of {len(chosen)}, at most {_limit_s(name) / 60:.0f} minutes) ==")
        began = time.monotonic()
        failure = _run(NAMES[name], _limit_s(name))
        took = time.monotonic() - began
        _say(f"== {name}: {failure or 'all figures reached'}, {took:.0f} s ==")
        if failure:
            failures.append(name)
    if failures:
        _say(f"not reached: {', '.join(failures)}")
    return 1 if failures else 0


def _chosen(arguments: list[str] | None) -> list[str]:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description="Measure the figures, with their peers.")
    parser.add_argument("--only", metavar="NAME,…", help=f"some of: {', '.join(NAMES)}; all by default")
    only = parser.parse_args(arguments).only
    if only is None:
        return list(NAMES)
    chosen = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in NAMES]
    if unknown or not chosen:
        parser.error(f"no benchmark {', '.join(unknown) or 'named'}; there is: {', '.join(NAMES)}")
    return chosen


def _limit_s(name: str) -> float:
    return LONGER_S.get(name, LIMIT_S)


def _run(program: Path, limit_s: float) -> str:
    """Run one program with its output passed on; what went wrong, or nothing."""
    environment = os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    # A session of its own, so that nothing that it started is left when its time is up.
    process = subprocess.Popen([sys.executable, str(program)], env=environment, start_new_session=True)
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"did not end within {limit_s / 60:.0f} minutes"
    finally:
        _end(process)
    if code == 0:
        return ""
    return "a figure is short, or it broke off" if code == 1 else f"ended with code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would, so that it ends its own federation; then not kindly."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
