"""Other simulators beside ours, in one run: `python benchmarks/peers.py`, or `make bench ONLY=peers`.

20 000 patients of 30 numbers at 10 and at 100 sites, an MLP 30-64-32-1, batches of 32, one epoch a round, plain FedAvg, one thread.
Each peer runs the script of `peer_scripts/` that trains this as its own examples do, in its fastest mode for one core, each time
with ours just before it. A round is the median of those after the first; of several turns the fastest counts. Starting ends with
the first round. A peer whose model is not as good as ours after the same rounds did other work, and is not compared.

Nothing here has a target: a peer that cannot be installed or run is said so, with the last line of its error, and one that is
faster is said so too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, report
from benchmarks.peer_environments import HERE, OURS, PYTHON_312, Environment
from benchmarks.peer_processes import NotMeasuredError
from benchmarks.peer_runs import Run, measure

TURNS = 2
SITES = (10, 100)
NEAR = 0.05
_Case: TypeAlias = tuple[str, int]  # a peer's name and a number of sites


@dataclass(frozen=True)
class Peer:
    """A simulator: the script that runs it, the packages that it is, and where they are installed."""

    name: str
    packages: tuple[str, ...]
    environment: Environment
    rounds: int = 8


PEERS = (
    Peer("flower", (), OURS),
    Peer("blazefl", ("blazefl[contrib,reproducibility]==2.0.3",), PYTHON_312),
    Peer("pfl", ("pfl[pytorch]==0.6.0",), Environment("pfl")),
    # Its torchvision wants the torch of the package index, which BlazeFL needs too: several gigabytes, so once for both.
    Peer("fluke", ("fluke-fl==0.8.1",), PYTHON_312),
    Peer("nvflare", ("nvflare==2.9.0",), Environment("nvflare"), rounds=4),
)


@dataclass(frozen=True)
class Pair:
    """One run of ours and the peer's just after it."""

    ours: Run
    theirs: Run


def figures(peers: tuple[Peer, ...] = PEERS) -> list[Figure]:
    """Every figure, after all have had their turns."""
    failures: dict[_Case, str] = {}
    pairs: dict[_Case, list[Pair]] = {}
    programs = _installed(peers, failures)
    cases = [(peer, sites) for sites in SITES for peer in peers]
    for peer, sites in cases * TURNS:
        if (peer.name, sites) not in failures:
            _take_turn(peer, sites, programs[peer.name], pairs, failures)
    found = [figure for (name, sites), runs in pairs.items() for figure in _compared(name, sites, runs)]
    for (name, sites), reason in failures.items():
        found.append(report(f"peers.{name}.failed_{sites}_sites", 1, "time"))
        print(f"peers.{name}: NOT MEASURED at {sites} sites: {reason}", flush=True)
    return found


def _installed(peers: tuple[Peer, ...], failures: dict[_Case, str]) -> dict[str, Path]:
    programs = {}
    for peer in peers:
        try:
            programs[peer.name] = peer.environment.ready(peer.name, peer.packages)
        except NotMeasuredError as failure:
            failures |= {(peer.name, sites): f"its installation failed: {failure}" for sites in SITES}
    return programs


def _take_turn(
    peer: Peer, sites: int, program: Path, pairs: dict[_Case, list[Pair]], failures: dict[_Case, str]
) -> None:
    ours = measure(OURS.ready("ours", ()), "fedward", sites, peer.rounds)
    try:
        theirs = measure(program, peer.name, sites, peer.rounds)
        if not abs(theirs.loss / ours.loss - 1) <= NEAR:
            raise NotMeasuredError(f"its model's loss is {theirs.loss:.3f} and ours {ours.loss:.3f}: it did other work")
    except NotMeasuredError as failure:
        failures[peer.name, sites] = str(failure)
    else:
        pairs.setdefault((peer.name, sites), []).append(Pair(ours, theirs))


def _compared(name: str, sites: int, pairs: list[Pair]) -> list[Figure]:
    mine, theirs = (_Fastest.of(runs) for runs in ([pair.ours for pair in pairs], [pair.theirs for pair in pairs]))
    at, last = f"{sites}_sites", pairs[-1]
    found = [
        report(f"peers.{name}.round_{at}", 1e3 * theirs.round_s, "ms"),
        report(f"peers.{name}.ours_round_{at}", 1e3 * mine.round_s, "ms"),
        report(f"peers.{name}.round_as_long_as_ours_{at}", theirs.round_s / mine.round_s, "times"),
        report(f"peers.{name}.start_{at}", theirs.startup_s, "s"),
        report(f"peers.{name}.ours_start_{at}", mine.startup_s, "s"),
        report(f"peers.{name}.loss_beside_ours_{at}", last.theirs.loss / last.ours.loss, "times"),
    ]
    for what, won in (("a round", theirs.round_s < mine.round_s), ("its start", theirs.startup_s < mine.startup_s)):
        if won:
            print(f"peers.{name}: WINS at {sites} sites: {what} is shorter than ours", flush=True)
    if last.theirs.note:
        print(f"peers.{name}: at {sites} sites: {last.theirs.note}", flush=True)
    return found


@dataclass(frozen=True)
class _Fastest:
    round_s: float
    startup_s: float

    @classmethod
    def of(cls, runs: list[Run]) -> _Fastest:
        return cls(min(median(run.round_s) for run in runs), min(run.startup_s for run in runs))


def main() -> int:
    """Run it; only ours can fail it."""
    print(f"peers: environments are kept in {HERE.name}/ (`make clean` removes them)", file=sys.stderr, flush=True)
    figures()
    return 0


if __name__ == "__main__":
    sys.exit(main())
