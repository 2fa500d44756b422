"""Whether this hospital meets what a study demands of its patients: held against the registered data, here, for its own people.

The data is read, without who opted out by now. It happens when a person reviews or approves a study, and at a request for work on
a study that was approved: never for a draft, nor for a proposal that nobody here decided about. So however many demands a
coordinator proposes, each answer that it gets was given by a person.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fedward.client import datasets
from fedward.client.datasets import Dataset
from fedward.client.home import SiteHome
from fedward.client.policy import Objection
from fedward.study.eligibility import Tally, tally, unmet
from fedward.study.kinds import AnySealed
from fedward.study.manifest import SealedManifest

CODE: Final = "not-eligible"
"""The one word that leaves, whichever demand is not met."""

Count = Callable[[SealedManifest], Tally]
"""Counts the registered patients of a study."""


def counting(home: SiteHome, dataset: Dataset) -> Count:
    """Counts by reading the registered data; errors as `datasets.read`."""
    return lambda sealed: tally(datasets.load(home, dataset, sealed.manifest), sealed.manifest)


def objections(sealed: AnySealed, count: Count) -> list[Objection]:
    """An objection for each demand that is not met, all with one code; nothing is counted where nothing is demanded."""
    if not isinstance(sealed, SealedManifest) or sealed.manifest.eligibility is None:
        return []
    found = unmet(sealed.manifest.eligibility, count(sealed))
    return [Objection("not-eligible", one.words) for one in found]
