"""The privacy ledger's figures: `python benchmarks/ledger.py` prints one a line and exits with 1 if any falls short.

The ledger holds 20 earlier studies of 200 rounds, each with its own σ and q, all charged one by one; the question is whether
another of 200 rounds is admitted. Cold is a fresh Python that imports, opens and verifies the file, and decides.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.figures import Figure, Part, at_most, report
from benchmarks.timing import fastest, timed
from fedward.privacy.accounting import epsilon
from fedward.privacy.entries import What, row_of
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Budget, Charge, Ledger, Release, Reservation
from fedward.privacy.ledgerfile import read_chain, write_database, write_head

STUDIES, ROUNDS, CHARGES = 20, 200, 100
BUDGET = Budget(10.0, 1e-5)
NEW = DpEvent(15.0, 0.25, ROUNDS)
COLD = """
import sys
from pathlib import Path
from fedward.privacy.events import DpEvent
from fedward.privacy.ledger import Ledger
with Ledger.open(Path(sys.argv[1])) as ledger:
    print(ledger.fits([DpEvent(15.0, 0.25, 200)]))
"""


def figures() -> list[Figure]:
    """Gate decisions, cold and cached, and charges; Opacus' PRV accountant on the same history for context."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger"
        _fill(path)
        (cold,) = fastest(3, timed(lambda: _cold(path)))
        with Ledger.open(path) as ledger:
            ledger.fits([NEW])
            sigmas = iter(range(1, 100))
            (cached,) = fastest(5, timed(lambda: ledger.fits([DpEvent(15.0 + next(sigmas) / 1000, 0.25, ROUNDS)])))
            found = [
                report("ledger.entries", len(ledger.entries()), "entries"),
                at_most("ledger.gate_cold", cold, "s", 3.0),
                at_most("ledger.gate_cached", cached, "s", 0.2),
                *_charges(ledger),
                *_context([event for event in ledger.commitments() if isinstance(event, DpEvent)]),
            ]
    return found


def _fill(path: Path) -> None:
    """The chain that 20 studies leave, written at once: the figures are not about that."""
    Ledger.create(path, budget=BUDGET, lineage="benchmark").close()
    chain, rows = read_chain(path), []
    path.unlink()
    for number in range(STUDIES):
        study, event = f"{number:064x}", DpEvent(20 + 0.37 * number, 0.1 + 0.01 * number, 1)
        schedule = (DpEvent(event.noise_multiplier, event.sampling_rate, ROUNDS),)
        story: list[What] = [Reservation(study, f"study-{number}", schedule, 10**10, "c" * 64)]
        story += [Charge(study, f"study-{number}", round_ + 1, 1, event) for round_ in range(ROUNDS)]
        for what in [*story, Release(study, f"study-{number}", "completed")]:
            entry = chain.seal(what, 1_700_000_000)
            rows.append(SimpleNamespace(**row_of(entry)))
            chain.tail = type(chain.tail)(entry.sequence, entry.digest)
    chain = type(chain)(chain.budget, chain.lineage, chain.order)
    chain.take_in(rows)
    path.touch(0o600)
    write_database(path, chain)
    write_head(path, chain.tail)


def _cold(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", COLD, str(path)], check=True, capture_output=True, text=True)
    if done.stdout != "True\n":
        raise RuntimeError(f"the study was not admitted: {done.stdout}")


def _charges(ledger: Ledger) -> list[Figure]:
    """Median seconds of a charge, with all that makes it durable."""
    study, event = "f" * 64, DpEvent(15.0, 0.25, 1)
    ledger.reserve(Reservation(study, "new", (NEW,), 10**10, "c" * 64), at=1_700_000_000)
    took = []
    for round_ in range(CHARGES):
        began = time.perf_counter()
        ledger.charge(Charge(study, "new", round_ + 1, 1, event), at=1_700_000_000)
        took.append(time.perf_counter() - began)
    return [at_most("ledger.charge_median", 1000 * statistics.median(took), "ms", 20.0)]


def _context(history: list[DpEvent]) -> list[Figure]:
    """How long the PRV accountant of Opacus takes for the same history, and how far its ε is from the gate's."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(event.noise_multiplier, event.sampling_rate, event.steps) for event in history]
    began = time.perf_counter()
    prv = accountant.get_epsilon(BUDGET.delta)
    took = time.perf_counter() - began
    return [
        report("ledger.prv_of_opacus", took, "s"),
        report("ledger.prv_minus_gate", prv - epsilon(history, BUDGET.delta), "epsilon"),
    ]


PARTS: list[Part] = [figures]


def main() -> int:
    """Run it; the exit status is 1 if a figure falls short, else 0."""
    return 0 if all(figure.ok for part in PARTS for figure in part()) else 1


if __name__ == "__main__":
    sys.exit(main())
