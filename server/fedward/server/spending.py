"""What a study has cost by the coordinator's record: every attempt that asked a hospital, failed ones too, as if charged. Pure.

The hospitals' ledgers have the exact sum, and it is never higher: a hospital that refused before it read a row charged nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from fedward.privacy.accounting import epsilon
from fedward.privacy.events import Event, View, merge
from fedward.privacy.events import History as Events
from fedward.server.histories import History
from fedward.server.records import AttemptRow
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.schedule import attempt_events, study_costs
from fedward.study.terms import evaluates

VIEWS: tuple[View, ...] = ("coordinator", "everyone")


@dataclass(frozen=True)
class Spending:
    """A site's part.

    Attributes:
        site: whose patients.
        trainings, evaluations: attempts that asked it to train, and to count.
        spent: ε at the study's δ after all of them, by adversary; empty without differential privacy.
        promised: ε if every planned attempt were used; empty likewise.
    """

    site: str
    trainings: int
    evaluations: int
    spent: Mapping[View, float]
    promised: Mapping[View, float]


def spending(history: History) -> tuple[Spending, ...]:
    """Every site of the roster, by name; nothing of a study that is not sealed, and of an exploration."""
    sealed = history.sealed
    if not isinstance(sealed, SealedManifest):
        return ()
    delta = sealed.manifest.privacy.delta

    @cache
    def cost(events: Events, view: View) -> float:
        return 0.0 if delta is None else epsilon(events, delta, view)

    evaluated = _evaluated(sealed.manifest, history.view.attempts)
    made = []
    promises: dict[float, Mapping[View, float]] = {}
    for entry in sealed.roster:
        trainings, evaluations = _asked(history, sealed.manifest, evaluated, entry.site)
        events = _events(sealed, entry.site, trainings, evaluations)
        private = delta is not None and sealed.manifest.privacy.mechanism == "dp-sgd"
        if entry.noise_multiplier not in promises:
            promises[entry.noise_multiplier] = study_costs(sealed, entry.site)
        spent = {view: cost(events, view) for view in VIEWS} if private else {}
        made.append(Spending(entry.site, trainings, evaluations, spent, promises[entry.noise_multiplier]))
    return tuple(made)


def _evaluated(manifest: Manifest, attempts: Sequence[AttemptRow]) -> frozenset[int]:
    """The rounds of these attempts that ask for counts: the same for every site."""
    return frozenset(number for number in {row.round for row in attempts} if evaluates(manifest, number))


def _asked(history: History, manifest: Manifest, evaluated: frozenset[int], site: str) -> tuple[int, int]:
    """How often a site was asked to train and to count."""
    return _counted(manifest, history.view.attempts, evaluated, lambda attempt: site in history.asked.get(attempt, ()))


def _counted(
    manifest: Manifest,
    attempts: Sequence[AttemptRow],
    evaluated: frozenset[int],
    asked: Callable[[int], bool] = lambda _: True,
) -> tuple[int, int]:
    """Trainings and evaluations of the attempts that count. A noised evaluation is not repeated with its round (`running`), and no
    ledger lets more be charged than was planned."""
    trainings, evaluations, noised = 0, 0, manifest.counting.noised
    seen: set[int] = set()
    for row in attempts:
        again, trains = row.round in seen, row.round <= manifest.training.rounds
        seen.add(row.round)
        if not asked(row.attempt):
            continue
        trainings += trains
        saved = again and trains and noised
        evaluations += row.round in evaluated and not saved
    return min(trainings, manifest.planned_attempts), min(evaluations, manifest.planned_evaluations)


def _events(sealed: SealedManifest, site: str, trainings: int, evaluations: int) -> Events:
    once = attempt_events(sealed, site, train=True, evaluate=True)
    times = {"train": trainings, "evaluate": evaluations}
    found: list[Event] = []
    for purpose, event in once.items():
        if event is not None and times.get(purpose, 0) > 0:
            found.append(replace(event, steps=event.steps * times[purpose]))
    return merge(found)


def spent_at_most(sealed: SealedManifest, attempts: Sequence[AttemptRow]) -> float:
    """ε at the study's δ of the hospital with the least noise, had every attempt asked it; 0 without differential privacy.

    What gates are held against: it needs no journal, and no hospital has spent more.
    """
    delta = sealed.manifest.privacy.delta
    least = min(sealed.roster, key=lambda entry: entry.noise_multiplier)
    counted = _counted(sealed.manifest, attempts, _evaluated(sealed.manifest, attempts))
    events = _events(sealed, least.site, *counted)
    return 0.0 if delta is None or not events else epsilon(events, delta)
