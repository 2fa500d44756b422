"""The privacy statement: what ε means, what was promised, and what was spent by the record. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fedward.server.histories import History
from fedward.server.spending import spending
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.terms import covered, privacy_words, shares_noise


@dataclass(frozen=True)
class Privacy:
    """The promise to a patient of the hospital for which it is weakest.

    Attributes:
        mechanism: "dp-sgd" or "none"; with "none" nothing below is promised.
        elements: what ε means, as (name, words): unit, neighbouring, adversary, composition, and what comes with them.
        epsilon, delta: as the manifest has them.
        promised: ε if every planned attempt were used; `promised_others` against all others colluding, where noise is shared.
        spent: ε of all attempts that asked a hospital, failed ones included; `spent_others` likewise.
        trainings, evaluations: the most that any hospital was asked for, of so many that were planned.
        covers: whose privacy it speaks of.
        counts_deviation: of each hospital's noise on each of its counts; 0 without.
        secure: what secure aggregation promises; None where the coordinator sees each update.
    """

    mechanism: str
    elements: tuple[tuple[str, str], ...]
    epsilon: float | None
    delta: float | None
    promised: float | None
    promised_others: float | None
    spent: float | None
    spent_others: float | None
    trainings: int
    trainings_planned: int
    evaluations: int
    evaluations_planned: int
    covers: str
    counts_deviation: float
    secure: str | None


def privacy(history: History, sealed: SealedManifest) -> Privacy:
    """A sealed study's statement."""
    manifest, sites = sealed.manifest, spending(history)
    private = manifest.privacy.mechanism == "dp-sgd"

    def most(what: str, view: str) -> float | None:
        return max((getattr(one, what)[view] for one in sites), default=None) if private else None

    others = shares_noise(sealed)
    return Privacy(
        mechanism=manifest.privacy.mechanism,
        elements=_elements(manifest),
        epsilon=manifest.privacy.epsilon,
        delta=manifest.privacy.delta,
        promised=most("promised", "coordinator"),
        promised_others=most("promised", "everyone") if others else None,
        spent=most("spent", "coordinator"),
        spent_others=most("spent", "everyone") if others else None,
        trainings=max((one.trainings for one in sites), default=0),
        trainings_planned=manifest.planned_attempts,
        evaluations=max((one.evaluations for one in sites), default=0),
        evaluations_planned=manifest.planned_evaluations,
        covers=covered(manifest) if private else "nobody",
        counts_deviation=sealed.count_deviation,
        secure=history.view.secure,
    )


def _elements(manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """The words that stand wherever this ε is shown, element by element."""
    if manifest.privacy.mechanism == "none":
        return ()
    made = []
    for part in privacy_words(manifest).split("; "):
        name, colon, words = part.partition(": ")
        if colon and " " not in name:
            made.append((name, words))
        elif part.startswith("covers "):
            made.append(("covers", part.removeprefix("covers ")))
        else:
            made.append(("note", part))
    return tuple(made)
