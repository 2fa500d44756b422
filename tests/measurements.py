"""Held-out patients that a test makes up, as counts; and a record whose newest evaluation is of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from federation import Federation
from numpy.typing import NDArray

from fedward.server.evaluation import evaluate
from fedward.server.round import Outcome, SiteState, Status
from fedward.study.encoding import group_names
from fedward.study.manifest import Manifest
from fedward.study.metrics import histogram

Patients = Mapping[tuple[str, ...], tuple[int, int]]
"""How many with and without the outcome are in exactly these groups."""


def counted(manifest: Manifest, patients: Patients, seed: int = 0) -> NDArray[np.int64]:
    """Their histogram, (groups + 1, bins, 2). Scores tell the outcome, lower ones in each group than in the one before."""
    rng, names = np.random.default_rng(seed), group_names(manifest)
    scores, outcomes, membership = [], [], []
    for place, (groups, numbers) in enumerate(patients.items()):
        for outcome, number in zip((1, 0), numbers, strict=True):
            scores.append(1 / (1 + np.exp(-(rng.normal(size=number) + 2.0 * (outcome - 0.5) - 0.35 * place))))
            outcomes.append(np.full(number, outcome, dtype=np.float32))
            membership.append(np.tile(np.array([name in groups for name in names], dtype=np.bool_), (number, 1)))
    plan = manifest.counting
    return histogram(
        np.concatenate(scores), np.concatenate(outcomes), np.concatenate(membership), plan.bins, plan.temper
    )


def measure(federation: Federation, total: NDArray[np.int64], deviation: float = 0.0) -> None:
    """Evaluate the newest model of the federation's study once more, with these counts of all sites."""
    store, key, sites = federation.store, federation.key, tuple(federation.sites)
    version, model = store.newest_model(key) or (0, "")
    attempt, round_ = store.next_attempt(key), federation.sealed().manifest.planned_rounds + 1
    now = federation.clock.unix()
    store.open_attempt(key, round_, attempt, model, sites, now)
    states = {site: SiteState(Status.CONTRIBUTED, at=1.0) for site in sites}
    made = evaluate(federation.sealed().manifest, version, sites, total, deviation)
    store.close_attempt(key, attempt, Outcome.COMMITTED, "all", states, 1.0, now, evaluation=made)
