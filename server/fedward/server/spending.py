"""What a study has cost, as far as the coordinator's record tells. Pure; only a hospital's own ledger knows what it was charged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedward.privacy.accounting import epsilon
from fedward.privacy.events import Event, merge
from fedward.server.records import AttemptRow
from fedward.study.manifest import SealedManifest
from fedward.study.schedule import attempt_events
from fedward.study.terms import evaluates


def spent_at_most(sealed: SealedManifest, attempts: Sequence[AttemptRow]) -> float:
    """ε at the study's δ of the hospital with the least noise, had every attempt that was opened charged it; 0 without DP.

    A hospital is charged once an attempt, and only where it was asked: none has spent more.
    """
    delta = sealed.manifest.privacy.delta
    if delta is None:
        return 0.0
    rounds = [row.round for row in attempts]
    least = min(sealed.roster, key=lambda entry: entry.noise_multiplier)
    events = merge(_events(sealed, least.site, rounds))
    return epsilon(events, delta) if events else 0.0


def _events(sealed: SealedManifest, site: str, rounds: Iterable[int]) -> list[Event]:
    manifest = sealed.manifest
    made: list[Event] = []
    for round_ in rounds:
        train, evaluate = round_ <= manifest.training.rounds, evaluates(manifest, round_)
        made += [event for event in attempt_events(sealed, site, train=train, evaluate=evaluate).values() if event]
    return made
