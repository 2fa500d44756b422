"""What a model must not be trusted for, as far as its record tells. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedward.server.cards.performance import Performance
from fedward.server.cards.promises import Privacy
from fedward.server.cards.words import counted, number
from fedward.study.manifest import Manifest

FEW: Final = 100
"""Fewer patients with or without the outcome than this is what guidance on validation calls too few (Collins et al. 2016)."""

NOT_FOR: Final = (
    "a diagnosis, or any decision about a patient, without a clinician who knows what the model is and is not",
    "patients unlike those of the hospitals named here, and other hospitals, before it was validated there",
    "another outcome than the one named, or findings that were measured or coded in another way",
    "saying why a patient has the outcome: what it has learned are associations",
    "use as a medical device: this card is a record of a study, and no regulator's clearance",
)
"""What no model of a study is for."""


def limits(manifest: Manifest, found: Performance | None, promise: Privacy, version: int) -> tuple[str, ...]:
    """The known limits, the weightiest first, each a sentence."""
    return (
        "It was not validated outside the hospitals that trained it: its held-out patients are from the same hospitals.",
        *_measured(manifest, found, promise, version),
        *_groups(manifest, found),
        "Of the hospitals' own results only sums are kept: how much they differ is not on this card.",
        *_private(promise),
        "How far the hospitals' patients stand for others, when and how their findings were recorded, and what treatment "
        "they had, is not in the record.",
    )


def _measured(manifest: Manifest, found: Performance | None, promise: Privacy, version: int) -> Iterator[str]:
    if found is None:
        yield "It was not evaluated: nothing on this card says whether it works."
        return
    if found.version != version:
        yield (
            f"What was measured is the model of {counted(found.version, 'round')}, and this one is of "
            f"{counted(version, 'round')}."
        )
    if not found.shown or found.positives is None or found.negatives is None:
        yield "There are too few held-out patients for any figure to be shown."
        return
    if min(found.positives, found.negatives) < FEW:
        yield (
            f"Few patients were held out ({found.positives} with the outcome, {found.negatives} without): intervals are wide, "
            f"and fewer than {FEW} of either are usually held to be too few to judge calibration."
        )
    if promise.counts_deviation:
        yield (
            "Its evaluation carries noise that protects held-out patients. The intervals hold that noise; the calibration error is "
            "too high where the model is well calibrated."
        )
    yield (
        f"Scores were counted in {manifest.counting.bins} bins, so every figure has a binning error beside its interval: see "
        "docs/evaluation.md."
    )
    yield (
        f"The threshold of {number(manifest.counting.threshold)}, at which sensitivity, specificity and gaps are given, was not "
        "chosen for any use of the model."
    )


def _groups(manifest: Manifest, found: Performance | None) -> Iterator[str]:
    if not manifest.fairness.groups:
        yield "No fairness groups were named: for whom it works less well was not looked at."
        return
    named = ", ".join(group.column for group in manifest.fairness.groups)
    yield f"Groups were compared by these alone: {named}. Others, and patients in several groups at once, were not looked at."
    hidden = [one for one in found.groups if one.shown != "shown"] if found is not None else []
    if hidden:
        are = "is" if len(hidden) == 1 else "are"
        yield f"{counted(len(hidden), 'group')} of patients {are} not shown: how it works for them is not known."


def _private(promise: Privacy) -> Iterator[str]:
    if promise.mechanism == "none":
        yield (
            "It was trained without differential privacy: nothing bounds what the model tells about the patients it was trained on."
        )
        return
    yield "The noise of its training keeps it from the best model for these patients, and makes its parameters uncertain."
    if not promise.counts_deviation:
        yield "The privacy promise covers training patients only: the counts of held-out patients left without noise."
