"""Which of many places a test looks at: a sample for `make test`, every one for `make prove` (FEDWARD_EVERYWHERE=all)."""

from __future__ import annotations

import os
from collections.abc import Sequence

EVERYWHERE = os.environ.get("FEDWARD_EVERYWHERE") == "all"
STEP = 40


def sample(places: Sequence[str], step: int = STEP) -> list[int]:
    """The numbers of the places to look at: the first of each name, the last of all, and every `step`-th in between."""
    if EVERYWHERE:
        return list(range(len(places)))
    first = {name: number for number, name in reversed(list(enumerate(places)))}
    chosen = {*first.values(), len(places) - 1, *range(0, len(places), step)}
    return sorted(number for number in chosen if number >= 0)
