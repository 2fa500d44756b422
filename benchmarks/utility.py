"""What an ε buys at four heart hospitals: `python benchmarks/utility.py`, or `make bench ONLY=utility`.

Twenty studies, seeds 0–19, each with held-out patients and noise of its own. AUROC is exact, on raw scores of all held-out
patients of the four hospitals together; ε is what training spends at δ = 1e-3, spare attempts included. FedSGD takes one
full-batch step a round; each hospital adds its own noise.

No reported held-out patient has a say in the hyper-parameters. The planner chooses rounds and rate anew in each study, by
simulated studies within that study's training patients alone: a third of them stand for the held-out ones. C and momentum
are the example study's; that search saw other splits of these patients, so the page shows that no other would have decided.
Context: the schedules of the planner's rule, which sees no patient; what a noised evaluation costs and reports; the no-DP
study, each hospital's own model, the pooled one. Figures, docs/privacy-utility.md and its plot are made by this one command, and
are the same but for round-off.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import torch

# Run as a file, Python looks for modules beside it; ours are found from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import evaluation
from benchmarks.figures import Figure, at_least, at_most, report
from benchmarks.heart_studies import DELTA, Heart, heart
from benchmarks.utility_page import Row, page, plot
from fedward.client.alone import PENALTY, local_only
from fedward.privacy.accounting import epsilon
from fedward.privacy.events import DpEvent
from fedward.simulations.baselines import pooled, rehearse
from fedward.simulations.expected import Trials
from fedward.simulations.planner import (
    Schedule,
    at_best_rate,
    by_rule,
    by_trials,
    calibrated,
    candidates,
    seal,
    with_schedule,
)
from fedward.study.manifest import SealedManifest, parse
from fedward.study.vectors import Vector

INNER = range(10)
"""Seeds of the simulated studies within one study's training patients; the planner shifts them."""
NORMS, MOMENTA, NOISES = (0.25, 0.5, 1.0, 2.0), (0.0, 0.5, 0.9), (0.5, 1.0, 2.0)
"""What was fixed by other splits or none: C, momentum, and how far the rule lets noise move the model."""
TARGETS = {0.5: 0.865, 1.0: 0.875, 3.0: 0.88, 8.0: 0.885}
DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> int:
    """Every figure, the page and the plot; 1 if a figure falls short."""
    torch.set_num_threads(1)
    study = heart()
    figures: list[Figure] = []
    rows: list[Row] = []
    for target, bound in TARGETS.items():
        planned, spent = _planned(study, target)
        ruled = _ruled(study, target)
        rows += [planned, ruled]
        name = f"utility.auroc_epsilon_{target:g}"
        figures.append(at_least(name, planned.area.mean, "auroc", bound))
        figures.append(report(f"{name}.interval_low", planned.area.low, "auroc"))
        figures.append(report(f"{name}.interval_high", planned.area.high, "auroc"))
        figures.append(report(f"{name}.by_rule", ruled.area.mean, "auroc"))
        figures.append(at_most(f"utility.spent_epsilon_{target:g}", spent, "epsilon", target))
    for row in context(study):
        figures.append(report(f"utility.auroc_{row.kind.split(',')[0].replace(' ', '_')}", row.area.mean, "auroc"))
        rows.append(row)
    spans = {target: _span(study, target) for target in TARGETS}
    for target, (low, high) in spans.items():
        figures.append(report(f"utility.auroc_epsilon_{target:g}.least_of_fixed", low, "auroc"))
        figures.append(report(f"utility.auroc_epsilon_{target:g}.most_of_fixed", high, "auroc"))
    (DOCS / "privacy-utility.md").write_text(
        page(rows, TARGETS, spans, len(_FIXED), evaluation.table()), encoding="utf-8"
    )
    (DOCS / "privacy-utility.svg").write_text(plot(rows, TARGETS), encoding="utf-8")
    print(f"wrote {DOCS}/privacy-utility.md and .svg", file=sys.stderr)
    return 0 if all(figure.ok for figure in figures) else 1


def _planned(study: Heart, target: float) -> tuple[Row, float]:
    """Schedules chosen within each study's training patients; and the most ε that one of them spends."""
    found = candidates(study.manifest, study.sizes, target, DELTA)
    rule = by_rule(found)
    models: list[Vector] = []
    chosen: list[Schedule] = []
    for index, training in enumerate(study.trials.training):
        inner = Trials(training, study.sizes, study.manifest.training.holdout, INNER)
        schedule = _exact(by_trials(study.manifest, study.sizes, found, rule, inner), target)
        chosen.append(schedule)
        models += study.trained(_sealed(study, schedule, target), index)
    (often, times), *_ = Counter((one.rounds, one.learning_rate, one.noise_multiplier) for one in chosen).most_common()
    rounds = sorted({one.rounds for one in chosen})
    text = f"most often {often[0]} rounds at rate {often[1]:g} ({times} of {len(chosen)}); {rounds[0]} to {rounds[-1]} rounds"
    return study.row("planned", models, target, text, f"{often[2]:.2f}"), max(_spent(study, one) for one in chosen)


def _ruled(study: Heart, target: float) -> Row:
    """The schedule of the planner's rule, which sees no patient."""
    schedule = _exact(by_rule(candidates(study.manifest, study.sizes, target, DELTA)), target)
    text = f"{schedule.rounds} rounds at rate {schedule.learning_rate:g}"
    return study.row(
        "by the rule", study.trained(_sealed(study, schedule, target)), target, text, f"{schedule.noise_multiplier:.2f}"
    )


def _exact(schedule: Schedule, target: float) -> Schedule:
    return replace(schedule, noise_multiplier=_sigma(schedule.rounds, target))


@cache
def _sigma(rounds: int, target: float) -> float:
    """σ of the example study with as many rounds."""
    manifest = heart().manifest
    schedule = Schedule(rounds, manifest.training.local_steps, manifest.training.sampling_rate, 1.0, 1.0)
    return calibrated(manifest, heart().sizes, schedule, target, DELTA).noise_multiplier


def _sealed(study: Heart, schedule: Schedule, target: float) -> SealedManifest:
    return seal(with_schedule(study.manifest, target, DELTA, schedule), study.sizes, schedule)


def _spent(study: Heart, schedule: Schedule) -> float:
    attempts = schedule.rounds + study.manifest.privacy.spare_attempts
    return epsilon([DpEvent(schedule.noise_multiplier, schedule.sampling_rate, attempts)], DELTA)


_FIXED = list(product(NORMS, MOMENTA, NOISES))


def _span(study: Heart, target: float) -> tuple[float, float]:
    """The least and the largest mean AUROC of the rule's schedule when C, momentum and its bound on noise are others."""
    settings = []
    found = candidates(study.manifest, study.sizes, target, DELTA)
    for norm, momentum, noise in _FIXED:
        data = study.manifest.model_dump(mode="json")
        data["privacy"]["clipping_norm"], data["training"]["server_momentum"] = norm, momentum
        manifest = parse(data, "the varied study")
        rated = [at_best_rate(manifest, study.sizes, one, noise) for one in found]
        schedule = _exact(by_rule(rated), target)
        settings.append(seal(with_schedule(manifest, target, DELTA, schedule), study.sizes, schedule))
    means = study.trials.run(settings).mean(axis=1)
    return float(means.min()), float(means.max())


def context(study: Heart) -> list[Row]:
    """What the studies are held against."""
    data = study.manifest.model_dump(mode="json")
    data["privacy"] |= {"mechanism": "none", "epsilon": None, "delta": None}
    plain = rehearse(parse(data, "the study without privacy"), study.sizes)
    training = study.manifest.training
    schedule = f"{training.rounds} rounds at rate {training.server_learning_rate:g}"
    rows = [study.row("no DP", study.trained(plain), schedule=schedule, sigma="0")]
    pools = [pooled(study.manifest, tables.values()) for tables in study.trials.training]
    rows.append(study.row("pooled, which privacy forbids", pools, schedule=f"ridge, λ = {PENALTY:g}"))
    for site in study.sizes:
        own = [local_only(study.manifest, tables[site]) for tables in study.trials.training]
        rows.append(study.row(f"{site} alone", own, schedule=f"ridge, λ = {PENALTY:g}"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
