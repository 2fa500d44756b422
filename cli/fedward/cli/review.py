"""What a person at a hospital reads before they approve a study, in plain words."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from fedward.cli.eligibility import Held, held
from fedward.cli.exploring import say_questions
from fedward.cli.output import say, shown
from fedward.cli.review_changes import last_approved
from fedward.client import approvals, datasets, eligibility
from fedward.client.budgets import against_all_others, cost, warnings
from fedward.client.home import SiteHome
from fedward.client.policy import Objection, load_policy
from fedward.client.standing import Standing
from fedward.privacy.errors import InputError
from fedward.study.attributes import attributes
from fedward.study.changes import changes
from fedward.study.exploration import SealedExploration
from fedward.study.kinds import AnySealed
from fedward.study.manifest import CategoricalFeature, NumericFeature, SealedManifest
from fedward.study.schedule import schedule_of, study_costs
from fedward.study.secure import secure_words
from fedward.study.terms import (
    all_others_words,
    coordinator_words,
    privacy_words,
    shares_noise,
    site_terms,
    study_noise,
)


def as_data(home: SiteHome, sealed: AnySealed) -> dict[str, Any]:
    """The review as JSON data."""
    spent, after = cost(home, sealed)
    standing = approvals.standing_of(home, sealed.digest, int(time.time()))
    dataset, before = _dataset(home, sealed), last_approved(home, sealed)
    demand = held(home, sealed, dataset)
    return {
        "digest": sealed.digest,
        "kind": sealed.kind,
        "state": standing.state,
        "signed_by": [link.by for link in standing.signed],
        "needed": standing.needed,
        "missing": standing.missing,
        "expires_at": sealed.expires_at,
        "approval_expires_at": standing.expires_at,
        "last_approved": None if before is None else before.digest,
        "changes": [] if before is None else changes(before, sealed),
        "manifest": sealed.manifest.model_dump(mode="json"),
        "roster": [entry.model_dump() for entry in sealed.roster],
        "noise_multiplier": sealed.entry(home.site).noise_multiplier,
        "data": dataset.model_dump() if dataset else None,
        "warnings": warnings(home.ledger(), sealed, dataset.patients) if dataset else [],
        "objections": [{"code": o.code, "text": o.text} for o in _objections(home, sealed, dataset, demand)],
        "eligibility": None if demand is None else demand.to_json(),
        "votes": _gives_votes(home, sealed),
        "count_deviation": sealed.count_deviation if isinstance(sealed, SealedManifest) else None,
        "privacy": {
            "spent": spent,
            "after": after,
            "budget": home.ledger().budget.epsilon,
            "against": study_costs(sealed, home.site),
            "meaning": privacy_words(sealed.manifest),
        },
    }


def _gives_votes(home: SiteHome, sealed: AnySealed) -> bool | None:
    """Whether votes would leave here; None where the study asks for none."""
    if not (isinstance(sealed, SealedManifest) and sealed.manifest.evaluation.influence):
        return None
    return load_policy(home.policy_file).share_influence


def print_review(home: SiteHome, sealed: AnySealed) -> None:
    """The review as sentences."""
    manifest, standing = sealed.manifest, approvals.standing_of(home, sealed.digest, int(time.time()))
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
    say("  stays here   every record, identifier, file name, mapping and exact count; your policy, decisions and logs")
    _print_changes(home, sealed)
    _print_data(home, sealed)
    _print_cost(home, sealed)
    _print_decision(standing)


def _print_changes(home: SiteHome, sealed: AnySealed) -> None:
    before = last_approved(home, sealed)
    if before is None:
        say("  changes      no version of this study was approved here before")
        return
    found = changes(before, sealed)
    say(f"  changes      since {before.digest[:12]}, which was approved here: {len(found) or 'none'}")
    for line in found:
        say(f"    {line}")


def _print_decision(standing: Standing) -> None:
    if standing.last is None:
        say("  decision     nobody here has decided yet")
    else:
        last = standing.last
        say(f"  decision     {standing.state}; {last.what.kind} by {last.by} on {_day(last.at)}")
    signed = ", ".join(f"{link.by} ({_day(link.at)})" for link in standing.signed) or "nobody"
    if standing.state == "approved":
        say(f"  signed       {signed}; {standing.needed} needed; holds until {_day(standing.expires_at or 0)}")
    elif standing.state in {"pending", "refused", "revoked", "expired"}:
        say(f"  signed       {signed}; {standing.missing} more of {standing.needed} needed to approve it")


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def _print_training(home: SiteHome, sealed: SealedManifest) -> None:
    manifest, training = sealed.manifest, sealed.manifest.training
    say(f"  predicts     {manifest.outcome.column} {manifest.outcome.description}")
    say(f"  from         {', '.join(_feature(feature) for feature in manifest.features)}")
    say(f"  compares     {', '.join(attribute.name for attribute in attributes(manifest)) or 'no groups'}")
    say(f"  trains       {manifest.model.name} by {training.algorithm}, {training.rounds} rounds, "
        f"on {1 - training.holdout:.0%} of the patients; the rest only test it")  # fmt: skip
    if manifest.model.start is not None:
        say(f"  starts from  the model {manifest.model.start[:12]} of an earlier version; what that cost patients stays spent, and "
            "what this one costs comes beside it")  # fmt: skip
    if training.aggregation != "mean":
        say(
            f"  combines     the sites' updates by {training.aggregation}{_against(training.byzantine)}; sizes do not weigh"
        )
    if manifest.evaluation.influence:
        say(f"  votes        {_votes(home, sealed)}")
    say("  leaves here  in each round one update of the model"
        + (", noised" if sealed.entry(home.site).noise_multiplier > 0 else ", NOT noised")
        + ", and in some rounds counts of test patients by score, outcome and group"
        + (", and their votes. " if manifest.evaluation.influence else ". ")
        + _who_sees(sealed)
        + " No record, no column, no file ever leaves.")  # fmt: skip


def _votes(home: SiteHome, sealed: SealedManifest) -> str:
    """What is asked of held-out patients besides counts, and whether it is given here."""
    asked = (
        f"each test patient votes for one of the {len(sealed.manifest.features)} features, drawn by how much each moves the "
        "model's prediction for that patient; how many voted for each is counted like the other counts, and no vote is told"
    )
    if not load_policy(home.policy_file).share_influence:
        zeros = "zeros leave in their place, charged all the same"
        return f"{asked}. This site's policy does NOT let them go (share_influence): {zeros}"
    return f"{asked}. This site's policy lets them go (share_influence)"


def _against(byzantine: int) -> str:
    if byzantine == 0:
        return ""
    return f", against {byzantine} {'site' if byzantine == 1 else 'sites'} that may send anything"


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
    demand = held(home, sealed, dataset)
    for line in () if demand is None else demand.review_lines():
        say(line)
    if dataset is None:
        say("  data here    none is registered: run `fedward site register` first")
        return
    say(f"  data here    {dataset.patients} patients in {dataset.source}; cohort {dataset.cohort[:12]}")
    remaining = datasets.remaining(home, dataset)
    if remaining < dataset.patients:
        say(f"               {dataset.patients - remaining} of them have opted out since, and are left out")
    if sealed.manifest.privacy.delta is not None:
        for warning in warnings(home.ledger(), sealed, dataset.patients):
            say(f"  WARNING      {warning}")
    found = approvals.policy_objections(home, sealed, dataset)
    for objection in found:
        say(f"  POLICY       refuses: {objection.text}")
    if not found:
        say("  policy       has no objection")


def _objections(
    home: SiteHome, sealed: AnySealed, dataset: datasets.Dataset | None, demand: Held | None
) -> list[Objection]:
    if dataset is None:
        return []
    short = () if demand is None else demand.unmet or ()
    by_demand = [Objection(eligibility.CODE, one.words) for one in short]
    return approvals.policy_objections(home, sealed, dataset) + by_demand


def _print_cost(home: SiteHome, sealed: AnySealed) -> None:
    budget = home.ledger().budget
    spent, after = cost(home, sealed)
    sigma, schedule = study_noise(sealed, home.site), schedule_of(sealed.manifest)
    if sigma == 0:
        say("  privacy      NO differential privacy: the updates can reveal single patients")
        return
    privacy = sealed.manifest.privacy
    whom = "patient" if isinstance(sealed, SealedExploration) else "training patient"
    say(f"  privacy      costs each {whom} at most ε = {privacy.epsilon:g} at δ = {privacy.delta:g}, with "
        f"{schedule.attempts * schedule.steps} steps at noise σ = {sigma:g}, spare attempts included")  # fmt: skip
    if isinstance(sealed, SealedManifest):
        say(f"  evaluation   {_evaluation(sealed)}")
    say(
        f"  budget here  ε = {shown(spent)} spent, {shown(after)} with all of this study, of {budget.epsilon:g} "
        f"(δ = {budget.delta:g})"
    )
    if shares_noise(sealed):
        _print_adversaries(home, sealed)
    say(f"  meaning      {privacy_words(sealed.manifest)}")


def _evaluation(sealed: SealedManifest) -> str:
    plan, times = sealed.manifest.counting, sealed.manifest.planned_evaluations
    if not plan.noised:
        return f"at most {times} times counts of held-out patients leave WITHOUT noise: no ε covers those patients"
    return (
        f"costs each held-out patient at most ε = {plan.epsilon:g}: at most {times} times counts leave, "
        f"with noise of {sealed.count_deviation:g} on each"
    )


def _print_adversaries(home: SiteHome, sealed: SealedManifest) -> None:
    """Shared noise has two adversaries, and an ε for each: never one number."""
    costs, terms = study_costs(sealed, home.site), site_terms(sealed, home.site)
    pool = terms.noise_multiplier * terms.honest_sites**0.5
    say(f"  ε against    {coordinator_words(sealed.manifest)}: {shown(costs['coordinator'])}, by the noise of "
        f"{terms.honest_sites} honest sites, σ = {pool:.4g}")  # fmt: skip
    say(f"  ε against    {all_others_words()}: {shown(costs['everyone'])}, by this site's own noise, "
        f"σ = {terms.noise_multiplier:.4g}")  # fmt: skip
    everything = against_all_others(home.ledger())
    if everything is not None:
        spent, held = everything
        most = load_policy(home.policy_file).max_epsilon_all_others
        say(
            f"  if all collude  ε = {shown(spent)} spent, {shown(held)} with all that is reserved, of {most:g} (policy)"
        )


def _dataset(home: SiteHome, sealed: AnySealed) -> datasets.Dataset | None:
    try:
        return datasets.find(home, sealed.manifest.study.id)
    except InputError:
        return None
