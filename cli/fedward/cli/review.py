"""What a person at a hospital reads before they approve a study, in plain words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fedward.cli.exploring import say_questions
from fedward.cli.output import say
from fedward.client import approvals, datasets
from fedward.client.budgets import cost, warnings
from fedward.client.home import SiteHome
from fedward.privacy.errors import InputError
from fedward.study.exploration import SealedExploration
from fedward.study.kinds import AnySealed
from fedward.study.manifest import CategoricalFeature, NumericFeature, SealedManifest
from fedward.study.schedule import schedule_of
from fedward.study.secure import secure_words
from fedward.study.terms import EXPLORE_WORDS, PRIVACY_WORDS


def as_data(home: SiteHome, sealed: AnySealed) -> dict[str, Any]:
    """The review as JSON data."""
    spent, after = cost(home, sealed)
    decision = approvals.decision_on(home, sealed.digest)
    dataset = _dataset(home, sealed)
    found = approvals.objections_here(home, sealed, dataset) if dataset else []
    return {
        "digest": sealed.digest,
        "kind": sealed.kind,
        "state": "pending" if decision is None else decision.state,
        "manifest": sealed.manifest.model_dump(mode="json"),
        "roster": [entry.model_dump() for entry in sealed.roster],
        "noise_multiplier": sealed.entry(home.site).noise_multiplier,
        "data": dataset.model_dump() if dataset else None,
        "warnings": warnings(home.ledger(), sealed, dataset.patients) if dataset else [],
        "objections": [{"code": o.code, "text": o.text} for o in found],
        "privacy": {
            "spent": spent,
            "after": after,
            "budget": home.ledger().budget.epsilon,
            "meaning": _meaning(sealed),
        },
    }


def print_review(home: SiteHome, sealed: AnySealed) -> None:
    """The review as sentences."""
    decision = approvals.decision_on(home, sealed.digest)
    manifest = sealed.manifest
    say(f"{manifest.study.title} ({manifest.study.id})")
    say(f"  digest       {sealed.digest}")
    say(f"  expires      {datetime.fromtimestamp(sealed.expires_at, UTC):%Y-%m-%d}")
    say(f"  sites        {', '.join(f'{e.site} (about {e.declared_patients} patients)' for e in sealed.roster)}")
    if isinstance(sealed, SealedExploration):
        say_questions(sealed, home.site)
        say(
            f"  leaves here  those numbers with their noise. {_who_sees(sealed)} No record, no column, no file ever leaves."
        )
    else:
        _print_training(home, sealed)
    _print_data(home, sealed)
    _print_cost(home, sealed)
    if decision is None:
        say("  decision     nobody here has decided yet")
    else:
        say(f"  decision     {decision.state} by {decision.by} on {datetime.fromtimestamp(decision.at, UTC):%Y-%m-%d}")


def _meaning(sealed: AnySealed) -> str:
    return EXPLORE_WORDS if isinstance(sealed, SealedExploration) else PRIVACY_WORDS


def _print_training(home: SiteHome, sealed: SealedManifest) -> None:
    manifest, training = sealed.manifest, sealed.manifest.training
    say(f"  predicts     {manifest.outcome.column} {manifest.outcome.description}")
    say(f"  from         {', '.join(_feature(feature) for feature in manifest.features)}")
    say(f"  compares     {', '.join(group.column for group in manifest.fairness.groups) or 'no groups'}")
    say(f"  trains       {manifest.model.name} by {training.algorithm}, {training.rounds} rounds, "
        f"on {1 - training.holdout:.0%} of the patients; the rest only test it")  # fmt: skip
    say("  leaves here  in each round one update of the model"
        + (", noised" if sealed.entry(home.site).noise_multiplier > 0 else ", NOT noised")
        + ", and in some rounds counts of test patients by score, outcome and group. "
        + _who_sees(sealed)
        + " No record, no column, no file ever leaves.")  # fmt: skip


def _who_sees(sealed: AnySealed) -> str:
    if sealed.manifest.privacy.secure_aggregation:
        return secure_words(sealed) + " This site's own numbers leave masked."
    return "The coordinator sees this site's own update and counts: secure aggregation is OFF."


def _feature(feature: object) -> str:
    if isinstance(feature, NumericFeature):
        return f"{feature.column} [{feature.bounds[0]:g}, {feature.bounds[1]:g}] {feature.unit}".rstrip()
    if isinstance(feature, CategoricalFeature):
        return f"{feature.column} ({' | '.join(feature.levels)})"
    return str(getattr(feature, "column", feature))


def _print_data(home: SiteHome, sealed: AnySealed) -> None:
    dataset = _dataset(home, sealed)
    if dataset is None:
        say("  data here    none is registered: run `fedward site register` first")
        return
    say(f"  data here    {dataset.patients} patients in {dataset.csv}; cohort {dataset.cohort[:12]}")
    if sealed.manifest.privacy.delta is not None:
        for warning in warnings(home.ledger(), sealed, dataset.patients):
            say(f"  WARNING      {warning}")
    found = approvals.objections_here(home, sealed, dataset)
    for objection in found:
        say(f"  POLICY       refuses: {objection.text}")
    if not found:
        say("  policy       has no objection")


def _print_cost(home: SiteHome, sealed: AnySealed) -> None:
    budget = home.ledger().budget
    spent, after = cost(home, sealed)
    sigma, schedule = sealed.entry(home.site).noise_multiplier, schedule_of(sealed.manifest)
    if sigma == 0:
        say("  privacy      NO differential privacy: the updates can reveal single patients")
        return
    privacy = sealed.manifest.privacy
    say(f"  privacy      costs each patient at most ε = {privacy.epsilon:g} at δ = {privacy.delta:g}, with "
        f"{schedule.attempts * schedule.steps} steps at noise σ = {sigma:g}, spare attempts included")  # fmt: skip
    say(
        f"  budget here  ε = {spent:.3f} spent, {after:.3f} with all of this study, of {budget.epsilon:g} (δ = {budget.delta:g})"
    )
    say(f"  meaning      {_meaning(sealed)}")


def _dataset(home: SiteHome, sealed: AnySealed) -> datasets.Dataset | None:
    try:
        return datasets.find(home, sealed.manifest.study.id)
    except InputError:
        return None
