"""Secure aggregation's figures: `python benchmarks/secagg.py` prints one a line and exits with 1 if any falls short."""

from __future__ import annotations

import sys
from pathlib import Path

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import masking, recovery, refusals, secure_round, secure_sum
from benchmarks.figures import Part

PARTS: list[Part] = [refusals.figures, secure_sum.figures, masking.figures, recovery.figures, secure_round.figures]


def main() -> int:
    """Run every part, even after one fell short: the exit status is 1 then, else 0."""
    figures = [figure for part in PARTS for figure in part()]
    return 0 if all(figure.ok for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
