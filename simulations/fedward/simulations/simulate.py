"""The same study on one machine, over many seeds: federated, each hospital alone, and the pool that privacy forbids.

A seed draws the held-out patients anew, the Poisson samples and the noise; everything else is the manifest's. Every model is scored
exactly, on raw scores of held-out patients who trained none of them: of all hospitals together, of each hospital, of each fairness
group. The seed, the engine and the machine's arithmetic fix a study to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedward.client.alone import local_only
from fedward.privacy.errors import FedwardError, InputError, UnreachableError
from fedward.simulations.adversaries import falsified
from fedward.simulations.attack_success import AttackFigure, successes
from fedward.simulations.baselines import Split, pooled, predict, rehearse, split
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.simulations.engines import Engine, EngineFactory, EngineName, SharedSum, engine
from fedward.simulations.expected import split_key
from fedward.simulations.options import PLAIN, Options
from fedward.simulations.rounds import Models, models
from fedward.simulations.scores import (
    ALONE,
    EVERYBODY,
    FEDERATED,
    POOLED,
    UNATTACKED,
    UNTUNED,
    Score,
    Summary,
    Unseen,
    group_gaps,
    site_gains,
    summarise_scores,
    summary_of,
)
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, SealedManifest, parse
from fedward.study.vectors import Vector

__all__ = [
    "EVERYBODY", "FEDERATED", "POOLED", "Outcome", "Score", "Summary",
    "attacked", "baselines", "gains", "gaps", "study", "summarise", "trial",
]  # fmt: skip

Report = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """One simulated study.

    Attributes:
        seed: what it was drawn from.
        scores: of every model on every slice.
        curve: AUROC of the federated model on everybody before the first round and after each, length rounds + 1.
        vector: the federated model's parameters, shape (d,).
        failure: why there is no federated model, else "".
        own: each hospital's own parameters where it keeps or fine-tunes some, shape (s, d), in alphabetical order; else None.
        attacks: what each adversary reached.
    """

    seed: int
    scores: tuple[Score, ...]
    curve: tuple[float, ...]
    vector: Vector | None
    failure: str = ""
    own: Vector | None = None
    attacks: tuple[AttackFigure, ...] = ()


def study(
    manifest: Manifest,
    hospitals: Mapping[str, Encoded],
    seed: int,
    engine_name: EngineName | EngineFactory = "stacked",
    tell: Report = lambda _line: None,
    options: Options = PLAIN,
) -> Outcome:
    """Simulate one study with all its baselines.

    Args:
        manifest: the study.
        hospitals: every hospital's patients, held-out ones included.
        seed: at least 0.
        engine_name: who computes the sites' updates; or what makes the engine.
        tell: hears of each round.
        options: of the simulation alone, adversaries among them; with these the study is run without them too.

    Raises:
        InputError: no hospital, the study or the options do not fit them, or the seed is below 0.
        RefusalError: no noise multiplier in reach keeps the manifest's promise.
        UnreachableError: the engine's workers are lost.
    """
    if not hospitals or seed < 0:
        raise InputError("a simulation needs hospitals and a seed of at least 0", got=f"{len(hospitals)}, seed {seed}")
    _without_votes(manifest)
    splits = {
        site: split(data, manifest.training.holdout, split_key(seed, site)) for site, data in sorted(hospitals.items())
    }
    run = _Run(
        manifest, rehearse(manifest, {site: len(data) for site, data in hospitals.items()}),
        {site: part.training for site, part in splits.items()}, Unseen.of(manifest, splits), seed, engine_name, tell, options,
    )  # fmt: skip
    found = run.federated()
    chances = run.federated_chances(found)
    local = baselines(manifest, run.training)
    chances |= {name: predict(manifest, vector, run.unseen.everybody) for name, vector in local.items()}
    attacks: tuple[AttackFigure, ...] = ()
    if options.adversaries:
        clean = replace(run, options=Options(threshold=options.threshold), tell=lambda _line: None).federated()
        if clean.last is not None:
            chances[UNATTACKED] = run.chances(clean.last)
        if clean.last is not None and found.last is not None:
            attacks = successes(
                manifest,
                options,
                run.unseen,
                lambda inputs, last: run.chances(last, inputs),
                found.last,
                clean.last,
                chances,
            )
    scores = tuple(score for name, one in chances.items() for score in run.unseen.scores(name, one, options.threshold))
    last = found.last
    return Outcome(
        seed, scores, found.curve, None if last is None else last.shared, found.failure, None if last is None else last.own,
        attacks,
    )  # fmt: skip


def trial(
    manifest: Manifest, splits: Mapping[str, Split], seed: int, engine_name: EngineName, options: Options = PLAIN
) -> float:
    """AUROC of the federated model alone on the held-out patients of given splits; NaN where training did not stay finite.

    Raises:
        InputError: the study does not fit the hospitals.
        RefusalError: no noise multiplier in reach keeps the manifest's promise.
    """
    _without_votes(manifest)
    training = {site: part.training for site, part in splits.items()}
    sealed = rehearse(manifest, {site: len(part.training) + len(part.held_out) for site, part in splits.items()})
    unseen = Unseen.of(manifest, splits)
    run = _Run(manifest, sealed, training, unseen, seed, engine_name, lambda _line: None, options)
    last = run.federated().last
    return math.nan if last is None else unseen.auroc(run.chances(last))


def _without_votes(manifest: Manifest) -> None:
    if manifest.evaluation.influence:
        raise InputError(
            "a simulation counts no votes of held-out patients",
            expected="a study without evaluation.influence",
            remedy="leave it out here; `fedward plan` counts what votes cost, and hospitals' nodes cast them",
        )


def baselines(manifest: Manifest, training: Mapping[str, Encoded]) -> dict[str, Vector]:
    """The pooled model, and each hospital's own; one whose patients have a single outcome has none."""
    found = {POOLED: pooled(manifest, training.values())}
    for site, data in training.items():
        if len(np.unique(data.outcomes)) == 2:
            found[f"{ALONE}{site}"] = local_only(manifest, data)
    return found


@dataclass(frozen=True)
class _Federated:
    """What became of the rounds; `last` is None where they failed. `untuned` is the model before its fine-tuning."""

    curve: tuple[float, ...]
    last: Models | None
    failure: str = ""
    untuned: Models | None = None


@dataclass(frozen=True)
class _Run:
    """One study, ready to be run."""

    manifest: Manifest
    sealed: SealedManifest
    training: Mapping[str, Encoded]
    unseen: Unseen
    seed: int
    engine_name: EngineName | EngineFactory
    tell: Report
    options: Options

    def federated(self) -> _Federated:
        """The rounds, and the fine-tuning after them."""
        curve: list[float] = []
        last: Models | None = None
        training = falsified(self.manifest, self.training, self.options.adversaries, self.seed)
        draws = {site: UnsafeKeyedDraws(self.seed, place) for place, site in enumerate(training)}
        try:
            sites = self._sites(self.sealed, training, draws)
            for number, last in enumerate(models(self.sealed, training, sites, self.options.adversaries)):
                refused = f" ({', '.join(last.refused)} not admitted)" if last.refused else ""
                self.tell(f"seed {self.seed}: round {number} of {self.manifest.training.rounds}{refused}")
                curve.append(self.unseen.auroc(self.chances(last)))
            untuned = last
            if last is not None and self.manifest.training.fine_tuning_steps:
                last = self._tuned(last, training, draws)
        except (InputError, UnreachableError):
            raise
        except FedwardError as error:  # a study that diverged is a result, and the other seeds go on
            return _Federated(tuple(curve), None, error.what)
        return _Federated(tuple(curve), last, "", untuned if untuned is not last else None)

    def _sites(
        self,
        sealed: SealedManifest,
        training: Mapping[str, Encoded],
        draws: Mapping[str, UnsafeKeyedDraws],
        *stage: int,
    ) -> Engine | SharedSum:
        if isinstance(self.engine_name, str):
            return engine(self.engine_name, sealed, training, draws)
        return self.engine_name(sealed, training, (self.seed, *stage))

    def federated_chances(self, found: _Federated) -> dict[str, NDArray[np.float64]]:
        """Everybody's probabilities by the federated model, and by what it was before its fine-tuning."""
        named = {FEDERATED: found.last, UNTUNED: found.untuned}
        return {name: self.chances(last) for name, last in named.items() if last is not None}

    def chances(self, last: Models, inputs: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        """Everybody's probabilities, shape (n,): each patient's by their own hospital's model, where it has one."""
        data = self.unseen.everybody if inputs is None else replace(self.unseen.everybody, inputs=inputs)
        if last.own is None:
            return predict(self.manifest, last.shared, data)
        found = np.zeros(len(data.outcomes))
        for site, vector in zip(self.training, last.own, strict=True):
            mask = self.unseen.slices[f"site={site}"]
            found[mask] = predict(self.manifest, vector, data.select(mask))
        return found

    def _tuned(self, last: Models, training: Mapping[str, Encoded], draws: Mapping[str, UnsafeKeyedDraws]) -> Models:
        """Every site's own model after some more local steps, without noise: it stays where its patients are."""
        chosen = self.manifest.training
        data = self.manifest.model_dump(mode="json")
        data["training"] = {
            "algorithm": "fedavg", "rounds": 1, "local_steps": chosen.fine_tuning_steps, "missing": chosen.missing,
            "local_learning_rate": chosen.local_learning_rate, "sampling_rate": chosen.sampling_rate, "holdout": chosen.holdout,
        }  # fmt: skip
        data["privacy"] = {"mechanism": "none", "secure_aggregation": False}
        data["evaluation"] = {}
        patients = {entry.site: entry.declared_patients for entry in self.sealed.roster}
        sites = self._sites(rehearse(parse(data, "fine-tuning"), patients), training, draws, 1)
        if isinstance(sites, SharedSum):
            raise InputError("fine-tuning has no noise that could be shared")
        base = np.tile(last.shared, (len(training), 1)) if last.own is None else last.own
        return Models(last.shared, base + sites.updates(base), last.refused)


def summarise(outcomes: Sequence[Outcome]) -> list[Summary]:
    """The AUROC of every model on every slice."""
    return summarise_scores([one.scores for one in outcomes])


def gains(outcomes: Sequence[Outcome]) -> list[Summary]:
    """What each hospital gains on its own patients: the federated model's AUROC less that of its own model, paired by study."""
    return site_gains([one.scores for one in outcomes])


def gaps(manifest: Manifest, outcomes: Sequence[Outcome]) -> list[Summary]:
    """How far the groups of each fairness attribute lie apart, by model and kind of gap: see `scores.gaps_of`."""
    return group_gaps(manifest, [one.scores for one in outcomes])


def attacked(outcomes: Sequence[Outcome]) -> list[Summary]:
    """What each adversary reached; "model" is the figure, "slice" the site and its attack. See `AttackFigure`."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in outcomes:
        for figure in one.attacks:
            who = f"{figure.site}: {figure.attack}"
            for name in ("success", "unattacked", "auroc_drop"):
                found.setdefault((name, who), []).append(getattr(figure, name))
    patients = [score.patients for one in outcomes for score in one.scores if score.slice == EVERYBODY] or [0]
    return [summary_of(name, who, patients, values) for (name, who), values in found.items()]
