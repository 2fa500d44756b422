"""The Privacy page: what has it cost?

A coordinator knows whom it asked for what, and so what a site's ledger has been charged at most: an attempt that a site refused
before it read any data is counted here all the same. What else is in a hospital's ledger, and what it allows, is the hospital's
own: it is not shared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.charges import Charge
from fedward.dashboard.federation.reading import Look, Tally
from fedward.dashboard.federation.seen import others
from fedward.privacy.accounting import epsilon
from fedward.privacy.events import History, merge
from fedward.study.manifest import Manifest
from fedward.study.terms import PRIVACY_WORDS, all_others_words, coordinator_words, covered

LEVELS: Final = 8
"""Sites of one noise are told apart by so many numbers of attempts at most: an ε is a tenth of a second's work."""
NOT_SHARED: Final = "not shared"


@dataclass(frozen=True)
class Cost:
    """One hospital's ε of this study, at its δ, against the adversary that the study names.

    Attributes:
        asked: attempts that asked it to train, and for counts.
        spent: what its ledger was charged at most.
        forecast: the same once the rounds that are left are each done in one attempt.
        promised: every planned attempt charged, spare ones included; what the hospital approved.
    """

    site: str
    asked: tuple[int, int]
    spent: float
    forecast: float
    promised: float


def costs(look: Look, tallies: Mapping[str, Tally]) -> list[Cost]:
    """Every hospital's that is told by name; empty before the seal, and without differential privacy."""
    delta = look.manifest.privacy.delta
    if delta is None:
        return []
    ended = look.study.state in {"completed", "stopped", "failed", "budget-exhausted"}
    left = (0, 0) if ended else _left(look)
    own = {site: tallies.get(site, Tally()) for site in look.charges}
    levels = _levels({site: (tally.trained, tally.evaluated) for site, tally in own.items()})
    found = []
    for site, charge in look.charges.items():
        tally, done = own[site], levels[site]
        found.append(
            Cost(
                site=site,
                asked=(tally.trained, tally.evaluated),
                spent=_epsilon(_events(charge, *done), delta),
                forecast=_epsilon(_events(charge, done[0] + left[0], done[1] + left[1]), delta),
                promised=_epsilon(charge.planned, delta),
            )
        )
    return found


def _left(look: Look) -> tuple[int, int]:
    """Attempts that are to come if none fails: of training, and of counting."""
    if not isinstance(look.manifest, Manifest):
        return (0, 0) if look.version else (1, 0)
    every, rounds = look.manifest.counting.every, look.rounds
    counted = sum((number - 1) % every == 0 for number in range(max(look.version + 1, 2), rounds + 1)) + 1
    return max(rounds - look.version, 0), counted


def _levels(counts: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The same, rounded up to a few different numbers where there are many."""
    if len(set(counts.values())) <= LEVELS:
        return dict(counts)
    least, most = min(one for one, _ in counts.values()), max(one for one, _ in counts.values())
    step, evaluated = max(math.ceil((most - least) / (LEVELS - 1)), 1), max(one for _, one in counts.values())
    return {
        site: (min(least + math.ceil((one - least) / step) * step, most), evaluated)
        for site, (one, _) in counts.items()
    }


def _events(charge: Charge, trained: int, evaluated: int) -> History:
    """What so many attempts charge; nothing for what carries no noise, which no ε covers."""
    made = []
    for purpose, event in charge.once.items():
        times = evaluated if purpose.startswith("evaluate") else trained
        if event is not None and times > 0:
            made.append(replace(event, steps=event.steps * times))
    return merge(made)


@lru_cache(maxsize=1024)
def _epsilon(events: History, delta: float) -> float:
    return epsilon(events, delta) if events else 0.0


def sentence(look: Look, found: Sequence[Cost]) -> str:
    """What has it cost? The most that a patient of any hospital has been charged, and of how much."""
    privacy = look.manifest.privacy
    if privacy.epsilon is None:
        return "The study trains without differential privacy: no ε bounds what its updates reveal."
    if not found:
        return f"The study may cost each patient ε at most {privacy.epsilon:g} (δ {privacy.delta:g}); nothing has been charged yet."
    spent, promised = max(one.spent for one in found), max(one.promised for one in found)
    whose = words.listed([f"of {one.site}" for one in found]) + " " if others(look) else ""
    who = "it" if others(look) else "its hospitals"
    return (
        f"This study has cost each patient {whose}ε at most {spent:.2f} so far (δ {privacy.delta:g}), of {promised:.2f} that "
        f"{who} approved; unit: patient; adds or removes one patient."
    )


def table(found: Sequence[Cost]) -> pd.DataFrame:
    """hospital, ε spent, ε forecast, ε promised, ε left, attempts, counts, lifetime budget."""
    rows = [
        (one.site, one.spent, one.forecast, one.promised, max(one.promised - one.spent, 0.0), *one.asked, NOT_SHARED)
        for one in found
    ]
    columns = [
        "hospital",
        "ε spent",
        "ε forecast",
        "ε promised",
        "ε left of it",
        "training attempts",
        "evaluations",
        "lifetime budget",
    ]
    return pd.DataFrame(rows, columns=columns)


def promise(look: Look) -> list[tuple[str, str]]:
    """The promise in plain words: what, and what it means."""
    privacy, manifest = look.manifest.privacy, look.manifest
    if privacy.epsilon is None or privacy.delta is None:
        return [("Promise", "none: the study trains without differential privacy")]
    return [
        (
            "ε",
            f"at most {privacy.epsilon:g}: what leaves tells of a patient's taking part by a factor of e^ε at most",
        ),
        ("δ", f"{privacy.delta:g}: the probability with which that may not hold"),
        ("Unit", "patient: all records of one patient together"),
        ("Neighbouring", "adds or removes one patient at one hospital"),
        ("Adversary", _adversary(look)),
        (
            "Composition",
            "every study in a hospital's ledger counts; each hospital's ledger refuses what its budget does not hold",
        ),
        ("Covers", covered(manifest) if isinstance(manifest, Manifest) else "all registered patients"),
        (
            "Secure sums",
            "the coordinator sees sums alone"
            if privacy.secure_aggregation
            else "off: the coordinator sees each hospital's noised update",
        ),
    ]


def _adversary(look: Look) -> str:
    manifest = look.manifest
    if look.study.digest is not None and isinstance(manifest, Manifest) and manifest.privacy.noise == "shared":
        return f"{coordinator_words(manifest)}; against {all_others_words()} less is promised"
    return PRIVACY_WORDS.partition("adversary: ")[2].partition(";")[0]


def elsewhere(look: Look) -> str:
    """What is said of hospitals whose ε is not told to whoever looks; empty where there are none."""
    if not others(look) or look.manifest.privacy.epsilon is None:
        return ""
    return (
        f"What it has cost patients of the other {words.counted(others(look), 'hospital', 'hospitals')} is not shown to your "
        f"role; it is at most the ε that the study promises, {look.manifest.privacy.epsilon:g}."
    )


def shared(tallies: Mapping[str, Tally]) -> str:
    """Where these figures come from."""
    asked = sum(times for tally in tallies.values() for status, times in tally.statuses.items() if status != "absent")
    rounded = len({(one.trained, one.evaluated) for one in tallies.values()}) > LEVELS
    text = (
        f"From the coordinator's own record of {words.counted(asked, 'request', 'requests')}: an attempt that a hospital refused, "
        "or did not answer, counts as charged. A hospital's lifetime budget, and what other studies took of it, is its own and not "
        "shared."
    )
    return text + (
        " Numbers of attempts are rounded up to a few, so a figure may lie a little above." if rounded else ""
    )
