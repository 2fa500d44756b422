"""The manifest's gates as a checklist: each with what was found, or why nothing could be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.reading import Look
from fedward.dashboard.federation.views import marks
from fedward.dashboard.federation.views.marks import Mark
from fedward.server.verdicts import Verdict

WORDS: Final = {
    "min_auroc": "AUROC over all held-out patients",
    "min_group_auroc": "lowest AUROC of a group",
    "max_site_drop": "a hospital's loss against its own model",
    "max_equalized_odds_gap": "equalised-odds gap between groups",
    "max_calibration_error": "calibration error (ECE)",
    "max_group_calibration_gap": "largest calibration gap of a group",
    "max_epsilon": "ε that the study has cost a patient",
    "participation": "hospitals and groups behind the model",
}


def asked(look: Look) -> tuple[str, ...]:
    """The gates that the manifest names, as people call them with their limits."""
    found = getattr(look.manifest, "gates", None)
    named = {} if found is None else found.model_dump(exclude_none=True)
    return tuple(
        f"{WORDS.get(name, name)}: {_limit(name, limit)}" for name, limit in named.items() if name != "judged_by"
    )


def _limit(name: str, limit: float) -> str:
    return f"at {'least' if name.startswith('min') else 'most'} {limit:g}"


def mark(verdict: Verdict) -> Mark:
    if verdict.holds:
        return marks.HOLDS
    return marks.FAILS if verdict.known else marks.UNKNOWN


def told(verdict: Verdict) -> str:
    """A gate in a line: what it asks for, what was found, of whom."""
    limit = "" if verdict.limit is None else f", at {verdict.side} {verdict.limit:g}"
    return f"{WORDS.get(verdict.gate, verdict.gate)}{limit}: {found(verdict)}"


def found(verdict: Verdict) -> str:
    whose = f", {words.group(verdict.of)}" if verdict.of else ""
    if verdict.limit is None and verdict.value is not None:
        return f"{verdict.value:g} hospitals" + (f"; {verdict.why}" if verdict.why else "")
    if verdict.value is None:
        return verdict.why or ("enough" if verdict.holds else "not known")
    bounds = "" if verdict.low is None or verdict.high is None else f" ({verdict.low:.3f}–{verdict.high:.3f})"
    why = f"; {verdict.why}" if verdict.why else ""
    return f"{verdict.value:.3f}{bounds}{whose}{why}"


def sentence(made: Sequence[Verdict] | None) -> str:
    """How the gates stand, as a sentence's end."""
    if made is None:
        return "Gates: not evaluated yet."
    held = sum(one.holds for one in made)
    if held == len(made):
        return f"All {words.counted(held, 'gate holds', 'gates hold')}."
    failed = [WORDS.get(one.gate, one.gate) for one in made if not one.holds]
    return f"{held} of {len(made)} gates hold; not: {words.listed(failed)}."


def table(made: Sequence[Verdict]) -> pd.DataFrame:
    """gate, asks for, found, low, high, of, stands, why."""
    rows = [
        (
            WORDS.get(one.gate, one.gate),
            "" if one.limit is None else f"at {one.side} {one.limit:g}",
            one.value,
            one.low,
            one.high,
            words.group(one.of) if one.of else "",
            mark(one).word,
            one.why,
        )
        for one in made
    ]
    return pd.DataFrame(rows, columns=["gate", "asks for", "found", "low", "high", "of", "stands", "why"])
