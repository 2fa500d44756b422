"""What a hospital refuses, whoever asks. Pure: a policy and a sealed study in, reasons out.

The policy is a file that the hospital edits. It is read again for every request, so that a change binds at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from fedward.privacy.canonical import canonical_json, digest_of
from fedward.privacy.errors import InputError
from fedward.privacy.shares import Period
from fedward.study.evaluation import counts_keep_promise
from fedward.study.exploration import Exploration, SealedExploration
from fedward.study.fields import Part
from fedward.study.kinds import AnySealed
from fedward.study.manifest import SealedManifest, explain, read_toml
from fedward.study.schedule import study_costs
from fedward.study.terms import shares_noise

DEFAULT_POLICY = """\
# What this hospital refuses. Edit it; it binds from the next request on.
[policy]
require_dp = true          # refuse studies without differential privacy
require_evaluation_noise = true  # refuse studies whose counts of held-out patients no ε covers
require_secure_aggregation = true  # refuse studies in which the coordinator sees this hospital's own update
max_epsilon = 5.0          # the most that one study may cost a patient here
max_epsilon_all_others = 10.0  # shared noise: the most that all studies together may cost if all others collude
max_delta = 1e-3           # δ above this is refused
min_patients = 50          # refuse to train on fewer patients than this
min_quorum = 3             # refuse studies that release a sum of fewer sites
approvals_required = 1     # how many approvers must sign for one study, 1 to 3
expiry_days = 365          # the longest that an approval holds
resume_needs_approver = false  # let only an approver resume a paused node; anyone here may pause it
# max_rounds = 100         # refuse studies of more rounds
# allowed_models = ["logistic-regression"]  # refuse every other model
# allowed_algorithms = ["fedsgd", "fedavg"]  # refuse every other algorithm
denied_columns = []        # columns that no study may use, by their name in the study or in the export
approvers_may_start_over = false  # let the registry of approvers begin anew when keys are lost; every approval then ends
# period_days = 365        # with the next line: what all studies together may cost in so many days
# max_epsilon_per_period = 5.0
share_cohort_size = true   # tell the coordinator the registered patients, rounded to tens
allow_explore = false      # answer explorations: noised counts, histograms, means and quantiles, asked before a study
max_explore_epsilon = 0.5  # the most that one exploration may cost a patient here
explore_denied_columns = []  # columns that no exploration may touch, not even in a condition
share_metrics = false      # let this hospital's own metrics be given away; no noise, counts under 11 suppressed
share_influence = false    # let held-out patients vote for the feature that their prediction follows; zeros are given else
"""


class Policy(Part):
    require_dp: bool = True
    require_evaluation_noise: bool = True
    require_secure_aggregation: bool = True
    max_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    max_epsilon_all_others: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    max_delta: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 1e-3
    min_patients: Annotated[int, Field(ge=1)] = 50
    min_quorum: Annotated[int, Field(ge=1)] = 3
    approvals_required: Annotated[int, Field(ge=1, le=3)] = 1
    expiry_days: Annotated[int, Field(ge=1, le=36_525)] = 365
    resume_needs_approver: bool = False
    max_rounds: Annotated[int, Field(ge=1)] | None = None
    allowed_models: tuple[Annotated[str, Field(max_length=64)], ...] | None = None
    allowed_algorithms: tuple[Annotated[str, Field(max_length=64)], ...] | None = None
    denied_columns: tuple[Annotated[str, Field(max_length=64)], ...] = ()
    approvers_may_start_over: bool = False
    share_cohort_size: bool = True
    allow_explore: bool = False
    max_explore_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    explore_denied_columns: tuple[Annotated[str, Field(max_length=64)], ...] = ()
    share_metrics: bool = False
    share_influence: bool = False
    period_days: Annotated[int, Field(ge=1, le=36_525)] | None = None
    max_epsilon_per_period: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.period_days is None) != (self.max_epsilon_per_period is None):
            raise ValueError("period_days and max_epsilon_per_period belong together: give both or none")
        return self

    @property
    def digest(self) -> str:
        """What an approver's signature says that the policy was."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def period(self) -> Period | None:
        """The hospital's sub-limit of its lifetime budget; None if it set none."""
        if self.period_days is None or self.max_epsilon_per_period is None:
            return None
        return Period(self.period_days, self.max_epsilon_per_period)


@dataclass(frozen=True)
class Objection:
    """Why the hospital refuses. The code may leave; the text stays here."""

    code: str
    text: str


def load_policy(path: Path) -> Policy:
    """
    Raises:
        InputError: missing, not TOML, or an unknown or wrong setting: a policy that cannot be read refuses everything.
    """
    try:
        data = read_toml(path, "policy")
        if set(data) != {"policy"}:
            raise InputError(f"{path.name} is no policy", expected="one table [policy]", got=", ".join(sorted(data)))
        # TOML arrays are lists, which strict tuples refuse; pydantic's own JSON mode knows the difference.
        return Policy.model_validate_json(canonical_json(data["policy"]))
    except ValidationError as error:
        raise InputError(f"{path.name} is no policy", got=explain(error), remedy="correct the named settings") from None


def _against_all_others(policy: Policy, cost: float) -> list[Objection]:
    most = policy.max_epsilon_all_others
    if cost <= most:
        return []
    text = f"the study costs ε = {cost:g} if everyone else colludes; at most {most:g} is allowed"
    return [Objection("policy-epsilon-all-others", text)]


def objections(policy: Policy, sealed: AnySealed, patients: int, origin: Callable[[str], str] = str) -> list[Objection]:
    """Every reason for which the policy refuses a study on `patients` registered patients; empty when none.

    Args:
        origin: the hospital's own name of a study's column: a denied one stays denied under any name.
    """
    privacy = sealed.manifest.privacy
    found = exploring_objections(policy, sealed.manifest, origin) if isinstance(sealed, SealedExploration) else []
    if isinstance(sealed, SealedManifest) and policy.require_dp and sealed.manifest.privacy.mechanism == "none":
        found.append(Objection("policy-requires-dp", "the study trains without differential privacy"))
    if isinstance(sealed, SealedManifest) and (only := sealed.manifest.training.simulated_only):
        found.append(Objection("simulated-only", f"this node does not run {only}: it would train something else"))
    evaluation = sealed.manifest.counting.epsilon if isinstance(sealed, SealedManifest) else None
    costs = [epsilon for epsilon in (privacy.epsilon, evaluation) if epsilon is not None]
    if costs and not max(costs) <= policy.max_epsilon:
        found.append(
            Objection(
                "policy-epsilon", f"the study costs ε = {max(costs):g}; at most {policy.max_epsilon:g} is allowed"
            )
        )
    if shares_noise(sealed):
        # Every site has the same cost: noise is as large for all.
        found += _against_all_others(policy, study_costs(sealed, sealed.roster[0].site)["everyone"])
    if privacy.delta is not None and not privacy.delta <= policy.max_delta:
        found.append(Objection("policy-delta", f"δ = {privacy.delta:g}; at most {policy.max_delta:g} is allowed"))
    if privacy.delta is not None and not privacy.delta * patients < 1:
        found.append(Objection("policy-delta", f"δ = {privacy.delta:g} is not below 1/N for {patients} patients"))
    if patients < max(policy.min_patients, sealed.manifest.federation.min_patients):
        least = max(policy.min_patients, sealed.manifest.federation.min_patients)
        found.append(Objection("policy-patients", f"{patients} patients are registered; at least {least} are required"))
    if sealed.manifest.federation.quorum < policy.min_quorum:
        quorum = sealed.manifest.federation.quorum
        found.append(
            Objection("policy-quorum", f"a quorum of {quorum} sites; at least {policy.min_quorum} is required")
        )
    if policy.require_secure_aggregation and not privacy.secure_aggregation:
        found.append(
            Objection("policy-requires-secure-aggregation", "the coordinator would see this hospital's own update")
        )
    found += ceiling_objections(policy, sealed, origin)
    return found + (evaluating_objections(policy, sealed) if isinstance(sealed, SealedManifest) else [])


def ceiling_objections(policy: Policy, sealed: AnySealed, origin: Callable[[str], str]) -> list[Objection]:
    """Every reason for which the policy refuses what a study computes, and on which columns; arguments as `objections`."""
    found: list[Objection] = []
    if isinstance(sealed, SealedManifest):
        manifest, training = sealed.manifest, sealed.manifest.training
        if policy.max_rounds is not None and training.rounds > policy.max_rounds:
            found.append(
                Objection("policy-rounds", f"{training.rounds} rounds; at most {policy.max_rounds} are allowed")
            )
        if policy.allowed_models is not None and manifest.model.name not in policy.allowed_models:
            found.append(Objection("policy-model", f"the model {manifest.model.name} is not among allowed_models"))
        if policy.allowed_algorithms is not None and training.algorithm not in policy.allowed_algorithms:
            found.append(
                Objection("policy-algorithm", f"the algorithm {training.algorithm} is not among allowed_algorithms")
            )
        used = (manifest.outcome.column, *(feature.column for feature in manifest.features))
    else:
        used = sealed.manifest.columns
    names = set(policy.denied_columns)
    denied = [column for column in used if column in names or origin(column) in names]
    if denied:
        found.append(Objection("policy-column", f"it uses {', '.join(denied)}, which no study may use here"))
    return found


def evaluating_objections(policy: Policy, sealed: SealedManifest) -> list[Objection]:
    """Every reason for which the policy refuses how a study evaluates."""
    found: list[Objection] = []
    private = sealed.manifest.privacy.mechanism != "none"
    if policy.require_evaluation_noise and private and not sealed.manifest.counting.noised:
        found.append(Objection("policy-evaluation-noise", "counts of held-out patients would leave without noise"))
    if not counts_keep_promise(sealed):
        found.append(Objection("policy-count-noise", "the counts' noise is less than the study's own ε asks for"))
    return found


def exploring_objections(policy: Policy, exploration: Exploration, origin: Callable[[str], str]) -> list[Objection]:
    """Every reason for which the policy refuses such questions, whoever takes part; arguments as `objections`."""
    if not policy.allow_explore:
        return [Objection("policy-explore", "this hospital answers no explorations (allow_explore)")]
    found: list[Objection] = []
    if not exploration.privacy.epsilon <= policy.max_explore_epsilon:
        found.append(
            Objection(
                "policy-explore-epsilon",
                f"the exploration costs ε = {exploration.privacy.epsilon:g}; "
                f"at most {policy.max_explore_epsilon:g} is allowed for one",
            )
        )
    names = set(policy.explore_denied_columns)
    denied = [column for column in exploration.columns if column in names or origin(column) in names]
    if denied:
        found.append(Objection("policy-explore-column", f"it asks about {', '.join(denied)}, which is denied here"))
    return found
