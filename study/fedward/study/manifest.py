"""The manifest: one TOML file that defines a study, as data. No code travels with it.

`Manifest` is what an author writes and a researcher simulates. `SealedManifest` is what a coordinator proposes and
hospitals approve: the manifest plus roster (sites, public keys, declared cohort sizes), kind, noise and expiry.
The SHA-256 of the sealed manifest's canonical JSON is *the study digest*. Everything is strict: an unknown field,
a non-finite number or a wrong type is refused with the field's name, what was expected and what came.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.secagg.contexts import MAX_MEMBERS, MIN_MEMBERS, least_threshold
from fedward.study.attributes import CROSS, attributes
from fedward.study.demand import Eligibility
from fedward.study.fields import COLUMN, NAME, Finite, Part, Positive
from fedward.study.training import Training

MAX_MANIFEST_BYTES = 1_000_000
"""A manifest is read by people; a larger file is refused before it is parsed."""

MAX_DECLARED_PATIENTS = 100_000_000

HEX_KEY = r"^[0-9a-f]{64}$"

Level = Annotated[str, Field(min_length=1, max_length=64)]


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(b <= a for a, b in itertools.pairwise(values)):
        raise ValueError(f"values must rise, got {list(values)}")
    return values


Ascending = Annotated[tuple[Finite, ...], AfterValidator(_ascending)]


class Study(Part):
    id: Annotated[str, Field(pattern=NAME)]
    title: Annotated[str, Field(min_length=3, max_length=200)]
    task: Literal["binary-classification"] = "binary-classification"
    description: Annotated[str, Field(max_length=5000)] = ""


class Outcome(Part):
    """The binary outcome: a column whose values after mapping are 0 and 1."""

    column: Annotated[str, Field(pattern=COLUMN)]
    description: Annotated[str, Field(max_length=500)] = ""


class NumericFeature(Part):
    """A number with public clinical bounds: normalisation by them costs no privacy."""

    type: Literal["numeric"]
    column: Annotated[str, Field(pattern=COLUMN)]
    unit: Annotated[str, Field(max_length=40)] = ""
    bounds: Annotated[Ascending, Field(min_length=2, max_length=2)]
    description: Annotated[str, Field(max_length=500)] = ""


class CategoricalFeature(Part):
    type: Literal["categorical"]
    column: Annotated[str, Field(pattern=COLUMN)]
    levels: Annotated[tuple[Level, ...], Field(min_length=2, max_length=64)]
    description: Annotated[str, Field(max_length=500)] = ""

    @field_validator("levels")
    @classmethod
    def _distinct(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(levels)) != len(levels):
            raise ValueError(f"levels must differ from each other, got {list(levels)}")
        return levels


class ImageFeature(Part):
    """Pixels in columns `<column>_0` … `<column>_{n-1}`, channel first, row by row."""

    type: Literal["image"]
    column: Annotated[str, Field(pattern=COLUMN)]
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=512)], ...], Field(min_length=3, max_length=3)]
    bounds: Annotated[Ascending, Field(min_length=2, max_length=2)] = (0.0, 255.0)
    description: Annotated[str, Field(max_length=500)] = ""

    @property
    def pixels(self) -> int:
        channels, height, width = self.shape
        return channels * height * width

    def owns(self, column: str) -> bool:
        """Whether a column of the table is one of this image's pixels."""
        found = re.fullmatch(re.escape(self.column) + r"_(0|[1-9][0-9]{0,8})", column)
        return found is not None and int(found[1]) < self.pixels


Feature = Annotated[NumericFeature | CategoricalFeature | ImageFeature, Field(discriminator="type")]


class Group(Part):
    """Patients compared for fairness: by the levels of a column, or by bands [cut_i, cut_{i+1}) of a number."""

    column: Annotated[str, Field(pattern=COLUMN)]
    cut: Annotated[Ascending, Field(min_length=2, max_length=20)] | None = None


MAX_CROSSED_SLICES = 400
"""Slices of the histogram, everybody's included, of a study that crosses attributes."""

Column = Annotated[str, Field(pattern=COLUMN)]


class Fairness(Part):
    groups: Annotated[tuple[Group, ...], Field(max_length=8)] = ()
    intersections: Annotated[tuple[tuple[Column, Column], ...], Field(max_length=4)] = ()
    """Pairs of columns of `groups` that are also compared crossed: by every level or band of one with every one of the other."""

    @model_validator(mode="after")
    def _pairs_of_groups(self) -> Fairness:
        columns, seen = {group.column: group.cut for group in self.groups}, set[frozenset[str]]()
        for pair in self.intersections:
            stray = [column for column in pair if column not in columns]
            if stray:
                raise ValueError(
                    f'intersections cross "{stray[0]}", which is none of the fairness groups: add it to groups'
                )
            for column in pair:
                cut = columns[column]
                if cut is not None and len(cut) == 2:
                    raise ValueError(
                        f'intersections cross "{column}", which has one band: give it two at least, or cross it not'
                    )
            if pair[0] == pair[1]:
                raise ValueError(f'intersections cross "{pair[0]}" with itself: name two columns')
            if frozenset(pair) in seen:
                raise ValueError(
                    f'intersections name the pair "{pair[0]}" and "{pair[1]}" twice: in either order it is one'
                )
            seen.add(frozenset(pair))
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without intersections where there are none: a study keeps the digest under which it was approved."""
        return {name: value for name, value in plain(self).items() if name != "intersections" or value}


class Model(Part):
    """A model of the catalogue (`fedward.study.models`), with its options."""

    name: Annotated[str, Field(pattern=NAME)]
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=4)] = ()
    channels: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(max_length=4)] = ()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    start: Annotated[str, Field(pattern=HEX_KEY)] | None = None
    """The digest of the committed model that round 1 starts from, an earlier version's; left out, it is made from the seed."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a start that is not given: a study keeps the digest under which it was approved."""
        return {name: value for name, value in plain(self).items() if name != "start" or value is not None}


MAX_DURATION_S = 366 * 86_400.0
_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def _duration(text: str) -> str:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h|d)", text)
    if found is None or not 0 < float(found[1]) * _UNITS[found[2]] <= MAX_DURATION_S:
        raise ValueError(f'expected a duration such as "30s", "10min" or "2h", at most 366d, got "{text}"')
    return text


def seconds(text: str) -> float:
    """Seconds of a validated duration such as `10min`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|min|h|d)", _duration(text))
    if found is None:
        raise InputError("not a duration", got=text)
    return float(found[1]) * _UNITS[found[2]]


Duration = Annotated[str, AfterValidator(_duration)]


class Federation(Part):
    """Who is asked in a round, and how long it waits. What is left out is as it was before it could be said."""

    quorum: Annotated[int, Field(ge=1, le=1000)]
    deadline: Duration = "10min"
    """The longest that a round waits for answers."""
    deadline_floor: Duration | None = None
    """The shortest that a round waits for all of its sites, however fast they were; a minute, or `deadline` if that is shorter."""
    grace: Duration = "20s"
    """How long a round waits for the others at least, once the quorum has answered."""
    stragglers: Literal["carry-on", "wait", "ask"] | None = None
    """What becomes of who has not answered when the quorum has. "carry-on", the default: each has its grace, and the time that it
    usually takes. "wait": all are waited for. "ask": a person decides."""
    cohort: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How many sites a round of training asks, of those that are there; left out, all."""
    approval_deadline: Duration = "7d"
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    min_patients: Annotated[int, Field(ge=1)] = 20

    @model_validator(mode="after")
    def _coherent(self) -> Federation:
        if self.deadline_floor is not None and seconds(self.deadline_floor) > seconds(self.deadline):
            raise ValueError(
                f"deadline_floor {self.deadline_floor} is longer than the deadline {self.deadline}: no round may last so long"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not said: a study keeps the digest under which it was approved."""
        later = {"deadline_floor", "stragglers", "cohort"}
        return {name: value for name, value in plain(self).items() if name not in later or value is not None}

    @property
    def floor_s(self) -> float:
        """Seconds of `deadline_floor`, or its default."""
        return min(60.0, seconds(self.deadline)) if self.deadline_floor is None else seconds(self.deadline_floor)


class Evaluation(Part):
    """Evaluations of the base model on held-out patients, by counts. What is left out follows from the mechanism: `Counting`."""

    noise: Literal["counts", "none"] | None = None
    """"counts": each site noises its counts and charges them, the default under differential privacy. "none": no ε covers
    held-out patients, and every ε says so."""
    epsilon: Positive | None = None
    """What all planned evaluations together may cost a held-out patient, at the δ of `privacy`; left out, `privacy.epsilon`."""
    spare_attempts: Annotated[int, Field(ge=0, le=1000)] | None = None
    every: Annotated[int, Field(ge=1)] | None = None
    """Rounds between evaluations; the last model is always evaluated."""
    bins: Annotated[int, Field(ge=10, le=1000)] | None = None
    temper: Annotated[float, Field(ge=1, le=10, allow_inf_nan=False)] | None = None
    """Bins are equal in sigmoid(logit(score) / temper): at 1, equal in the score itself."""
    threshold: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    """A score from here on is called positive where a metric needs a decision; left out, 0.5. It counts by whole bins."""
    influence: bool = False
    """Whether held-out patients also vote for the feature that their prediction follows (`fedward.study.votes`)."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not said: a study keeps the digest under which it was approved."""
        later = {"threshold": None, "influence": False}
        return {name: value for name, value in plain(self).items() if name not in later or value is not later[name]}


@dataclass(frozen=True)
class Counting:
    """What `Evaluation` comes to. Noise is paid for by each release and spread over all bins: then few of both.

    Attributes:
        epsilon: what all evaluations may cost a held-out patient; None where counts carry no noise.
        every: rounds between evaluations, besides the last model's.
        spare_attempts: evaluations that may be repeated after a failure.
        bins: of the score.
        temper: the scale on which they are equal.
        threshold: a score from here on is called positive.
    """

    epsilon: float | None
    every: int
    spare_attempts: int
    bins: int
    temper: float
    threshold: float

    @property
    def noised(self) -> bool:
        return self.epsilon is not None


class PrivacyTerms(Part):
    """What every kind of study says of privacy: the promise to a patient, and who may see a site's own numbers."""

    unit: Literal["patient"] = "patient"
    epsilon: Positive | None = None
    delta: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    spare_attempts: Annotated[int, Field(ge=0, le=1000)] = 2
    secure_aggregation: bool = True
    """The coordinator learns sums alone. Off, it sees each site's noised update and counts."""
    colluders: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] = 1
    """Sites that may collude with the coordinator, in every round, without breaking the promise for the others."""
    ring_bits: Literal[32, 64] = 32
    """The width of a coordinate of a secure sum."""


class Privacy(PrivacyTerms):
    """What a study may cost a hospital's patients."""

    mechanism: Literal["dp-sgd", "none"]
    clipping_norm: Positive = 1.0
    noise: Literal["local", "shared"] = "local"
    """Local: each site's noise protects its patients from everyone outside. Shared: the sites' noise together protects them
    from the coordinator, outsiders and as many colluding sites as are named, and each site adds less of it."""
    update_bound: Positive | None = None
    """The largest L2 norm of a site's update in a secure sum, and without differential privacy in any; left out, it follows from
    clipping and noise, or is 100 where there is none."""

    @model_validator(mode="after")
    def _coherent(self) -> Privacy:
        if self.mechanism == "dp-sgd" and (self.epsilon is None or self.delta is None):
            raise ValueError('mechanism "dp-sgd" needs epsilon and delta')
        if self.mechanism == "none" and self.epsilon is not None:
            raise ValueError('mechanism "none" promises no epsilon: leave it out')
        if self.noise == "shared":
            if self.mechanism != "dp-sgd":
                raise ValueError('noise "shared" is noise of the mechanism "dp-sgd"')
            if not self.secure_aggregation:
                raise ValueError(
                    'noise "shared" needs secure_aggregation: one site\'s part of it must never be seen alone'
                )
            if self.update_bound is not None:
                raise ValueError('noise "shared" follows from clipping alone: leave out update_bound')
        return self


Bound = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Gates(Part):
    """What a model must hold to become a release (`fedward.server.gates`). One that is left out is not asked for; one that cannot
    be evaluated does not hold."""

    min_auroc: Bound | None = None
    """AUROC over all held-out patients."""
    min_group_auroc: Bound | None = None
    """AUROC of the fairness group for which it is lowest."""
    max_site_drop: Bound | None = None
    """How far a hospital's AUROC on its own patients may lie below that of the model it could train alone."""
    max_equalized_odds_gap: Bound | None = None
    """The largest difference in sensitivity or specificity between the groups of an attribute."""
    max_calibration_error: Bound | None = None
    """Expected calibration error over all held-out patients."""
    max_group_calibration_gap: Bound | None = None
    """Distance of mean score and outcome rate in the fairness group where it is largest."""
    max_epsilon: Positive | None = None
    """What the study has cost a patient of any hospital, failed attempts included."""
    judged_by: Literal["value", "interval"] | None = None
    """"value", the default: the estimate must hold. "interval": the worse end of its 95% interval must."""

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without later gates that are not set: a study keeps the digest under which it was approved."""
        first = {"min_auroc", "max_site_drop", "max_equalized_odds_gap"}
        return {name: value for name, value in plain(self).items() if name in first or value is not None}


class Release(Part):
    """Fewer than this behind a model, and it cannot become a release."""

    min_sites: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Sites that contributed to its training; left out, as many as a round needs."""
    min_rounds: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Committed rounds of training that a site must be in to count."""
    min_groups: Annotated[int, Field(ge=1, le=200)] | None = None
    """Groups of the fairness table, crossed ones among them, with enough held-out patients; left out, groups are not counted."""
    min_group_patients: Annotated[int, Field(ge=10, le=1_000_000)] = 20
    """Held-out patients, of all sites together, that a group must have to count."""


class BaseManifest(Part):
    """What every kind of study has: the columns that it reads, who takes part, and what it may cost."""

    study: Study
    outcome: Outcome
    features: Annotated[tuple[Feature, ...], Field(min_length=1, max_length=2000)]
    fairness: Fairness = Fairness()
    federation: Federation
    privacy: PrivacyTerms

    @model_validator(mode="after")
    def _columns_coherent(self) -> Self:
        columns = [feature.column for feature in self.features]
        doubles = sorted({c for c in columns if columns.count(c) > 1})
        if doubles:
            raise ValueError(f"features name a column twice: {doubles}")
        if self.outcome.column in columns:
            raise ValueError(f'the outcome "{self.outcome.column}" is also a feature')
        for image in (feature for feature in self.features if isinstance(feature, ImageFeature)):
            taken = [c for c in (*columns, self.outcome.column) if image.owns(c)]
            if taken:
                raise ValueError(f'"{taken[0]}" is also a pixel of the image "{image.column}"')
        grouped = [group.column for group in self.fairness.groups]
        if len(set(grouped)) != len(grouped):
            raise ValueError("fairness groups name a column twice: give it one entry")
        by_column = {feature.column: feature for feature in self.features}
        for group in self.fairness.groups:
            feature = by_column.get(group.column)
            if feature is None:
                raise ValueError(f'fairness group "{group.column}" is no feature of the study')
            if isinstance(feature, NumericFeature) and group.cut is None:
                raise ValueError(f'fairness group "{group.column}" is a number: give it cut = [..]')
            if isinstance(feature, CategoricalFeature) and group.cut is not None:
                raise ValueError(f'fairness group "{group.column}" has levels: leave out cut')
            if isinstance(feature, ImageFeature):
                raise ValueError(f'fairness group "{group.column}" is an image')
        return self

    @model_validator(mode="after")
    def _crossed_groups_told_apart(self) -> Self:
        if not self.fairness.intersections:
            return self
        found = attributes(self)
        slices = 1 + sum(len(attribute.groups) for attribute in found)
        if slices > MAX_CROSSED_SLICES:
            raise ValueError(
                f"fairness makes {slices} slices with its intersections, and at most {MAX_CROSSED_SLICES} are counted: cross fewer "
                "columns, or cut them into fewer bands"
            )
        for name in (name for attribute in found if attribute.crosses is None for name in attribute.groups):
            if CROSS in name:
                raise ValueError(
                    f'fairness group "{name}" holds "{CROSS}", which joins the names of crossed groups: rename the level, or leave '
                    "out intersections"
                )
        return self

    @model_validator(mode="after")
    def _cohort_suffices(self) -> Self:
        cohort = self.federation.cohort
        if cohort is not None and cohort < self.least_sites:
            raise ValueError(
                f"federation.cohort = {cohort} asks too few sites: a round needs {self.least_sites}, by its quorum and by what a "
                "secure sum asks for"
            )
        return self

    @property
    def canonical(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    @property
    def least_sites(self) -> int:
        """The fewest sites of a round: the quorum, and what a secure sum that withstands the colluders needs."""
        secure = max(MIN_MEMBERS, self.privacy.colluders + 2) if self.privacy.secure_aggregation else 1
        return max(self.federation.quorum, secure)

    @property
    def may_miss(self) -> bool:
        """Whether a feature's value may be missing."""
        return True

    @property
    def planned_rounds(self) -> int:
        """Rounds that are charged for."""
        return 1

    @property
    def planned_attempts(self) -> int:
        """Charged attempts that the noise is calibrated for: every round once, and the spare ones."""
        return self.planned_rounds + self.privacy.spare_attempts


class Manifest(BaseManifest):
    """What the author of a study that trains writes."""

    model: Model
    training: Training
    evaluation: Evaluation = Evaluation()
    privacy: Privacy
    gates: Gates = Gates()
    eligibility: Eligibility | None = None
    """What a hospital needs to take part, which it checks itself; None asks for nothing."""
    release: Release | None = None
    """What a model needs to become a release, besides the gates; None asks for no more than a round does."""

    @model_validator(mode="after")
    def _release_in_reach(self) -> Self:
        if self.release is None:
            return self
        if self.release.min_rounds > self.training.rounds:
            raise ValueError(
                f"release.min_rounds = {self.release.min_rounds} is more than the {self.training.rounds} rounds of training"
            )
        groups = sum(len(attribute.groups) for attribute in attributes(self))
        if self.release.min_groups is not None and self.release.min_groups > groups:
            raise ValueError(f"release.min_groups = {self.release.min_groups}, and fairness.groups has {groups} groups")
        return self

    @model_validator(mode="after")
    def _demand_fits(self) -> Self:
        groups = {group.column: group for group in self.fairness.groups}
        levels = {
            feature.column: len(feature.levels) for feature in self.features if isinstance(feature, CategoricalFeature)
        }
        for floor in () if self.eligibility is None else self.eligibility.groups:
            if floor.column not in groups:
                raise ValueError(f'eligibility group "{floor.column}" is none of the fairness groups')
            cut = groups[floor.column].cut
            most = levels[floor.column] if cut is None else len(cut) - 1
            if floor.min_levels is not None and floor.min_levels > most:
                raise ValueError(
                    f'eligibility group "{floor.column}" has {most} levels, and {floor.min_levels} are demanded'
                )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a demand that is not made: a study keeps the digest under which it was approved."""
        later = {"eligibility", "release"}
        return {name: value for name, value in plain(self).items() if name not in later or value is not None}

    @model_validator(mode="after")
    def _evaluated(self) -> Self:
        if self.privacy.mechanism == "none" and (
            self.evaluation.noise == "counts" or self.evaluation.epsilon is not None
        ):
            raise ValueError('evaluation.noise "counts" and evaluation.epsilon need mechanism "dp-sgd"')
        if self.evaluation.noise == "none" and self.evaluation.epsilon is not None:
            raise ValueError('evaluation.noise "none" promises no epsilon: leave it out')
        return self

    @model_validator(mode="after")
    def _can_vote(self) -> Self:
        if not self.evaluation.influence:
            return self
        images = [feature.column for feature in self.features if isinstance(feature, ImageFeature)]
        if images:
            raise ValueError(
                f'evaluation.influence asks which feature a prediction follows, and "{images[0]}" is an image, one feature '
                "whatever is on it: leave it out"
            )
        cells = 2 * self.counting.bins
        if len(self.features) > cells:
            raise ValueError(
                f"evaluation.influence counts votes for {len(self.features)} features in {cells} cells, two a bin: give "
                f"evaluation.bins = {-(-len(self.features) // 2)} or more, or leave it out"
            )
        return self

    @property
    def counting(self) -> Counting:
        """How the study evaluates."""
        chosen, noised = self.evaluation, self.privacy.mechanism == "dp-sgd" and self.evaluation.noise != "none"
        spare = min(1, self.privacy.spare_attempts) if noised else self.privacy.spare_attempts
        return Counting(
            epsilon=(chosen.epsilon or self.privacy.epsilon) if noised else None,
            every=chosen.every or (self.training.rounds if noised else 5),
            spare_attempts=spare if chosen.spare_attempts is None else chosen.spare_attempts,
            bins=chosen.bins or (10 if noised else 100),
            temper=chosen.temper or (2.0 if noised else 4.0),
            threshold=chosen.threshold or 0.5,
        )

    @model_validator(mode="after")
    def _algorithm_fits(self) -> Self:
        training = self.training
        if training.aggregation != "mean" and self.privacy.secure_aggregation:
            raise ValueError(
                f'aggregation "{training.aggregation}" compares the sites\' updates one by one, and a secure sum hides them: '
                "leave it out, or write secure_aggregation = false, knowing that the coordinator then sees each site's update"
            )
        if training.aggregation != "mean" and self.federation.quorum < training.least_sites:
            raise ValueError(
                f'aggregation "{training.aggregation}" with byzantine = {training.byzantine} needs a quorum of at least '
                f"{training.least_sites}, got {self.federation.quorum}"
            )
        if training.algorithm == "qfedavg" and self.privacy.mechanism != "none":
            raise ValueError('qfedavg weighs sites by losses that carry no noise: it needs mechanism "none"')
        if training.algorithm == "qfedavg" and self.privacy.secure_aggregation:
            raise ValueError(
                "qfedavg weighs single sites, and a secure sum hides them: write secure_aggregation = false"
            )
        return self

    @model_validator(mode="after")
    def _one_sum_a_round(self) -> Self:
        training = self.training
        if self.privacy.noise == "shared" and (
            training.local_steps != 1 or training.sampling_rate != 1.0 or training.proximal != 0
        ):
            raise ValueError(
                'noise "shared" needs one clipped sum a round, over every patient: algorithm "fedsgd", or another with '
                "local_steps = 1, sampling_rate = 1.0 and no proximal term"
            )
        if self.privacy.noise == "shared" and training.kept:
            raise ValueError('noise "shared" is one sum of all sites, none has an update of its own: leave out kept')
        return self

    @property
    def honest_sites(self) -> int:
        """Sites that are sure to be in every sum that is opened and do not collude: a patient's own and at least one more."""
        return self.least_sites - self.privacy.colluders

    @property
    def may_miss(self) -> bool:
        return self.training.missing != "refuse"

    @property
    def planned_rounds(self) -> int:
        return self.training.rounds

    @property
    def planned_evaluations(self) -> int:
        """How often a site gives counts of its held-out patients: at the planned rounds, at the end, and the spare ones."""
        plan = self.counting
        return (self.training.rounds - 1) // plan.every + 1 + plan.spare_attempts


class RosterEntry(Part):
    """A site as the study knows it. Weights come from `declared_patients`, never from live counts; `noise_multiplier` is the
    site's own σ, from what it has left to spend, and 0 without differential privacy."""

    site: Annotated[str, Field(pattern=NAME)]
    identity_key: Annotated[str, Field(pattern=HEX_KEY)]
    declared_patients: Annotated[int, Field(ge=1, le=MAX_DECLARED_PATIENTS)]
    noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BaseSealed(Part):
    """What the coordinator signs and each hospital approves, whatever the kind of study: see its subclasses."""

    format: Literal[1] = 1
    kind: str
    manifest: BaseManifest
    federation_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    coordinator_key: Annotated[str, Field(pattern=HEX_KEY)]
    roster: Annotated[tuple[RosterEntry, ...], Field(min_length=1, max_length=1000)]
    sealed_at: Annotated[int, Field(ge=0)]
    expires_at: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _roster_coherent(self) -> Self:
        sites = [entry.site for entry in self.roster]
        if sites != sorted(set(sites)):
            raise ValueError("the roster must name each site once, in alphabetical order")
        keys = {entry.identity_key for entry in self.roster}
        if len(keys) != len(sites):
            raise ValueError("two sites of the roster share one identity key")
        if self.manifest.federation.quorum > len(sites):
            raise ValueError(f"quorum {self.manifest.federation.quorum} exceeds the roster of {len(sites)} sites")
        if self.manifest.privacy.secure_aggregation and not MIN_MEMBERS <= len(sites) <= MAX_MEMBERS:
            raise ValueError(
                f"secure aggregation needs {MIN_MEMBERS} to {MAX_MEMBERS} sites, the roster has {len(sites)}: invite others, "
                "or write secure_aggregation = false, knowing that the coordinator then sees each site's update"
            )
        colluders = self.manifest.privacy.colluders
        if self.manifest.privacy.secure_aggregation and least_threshold(len(sites), colluders) > len(sites):
            raise ValueError(f"{len(sites)} sites cannot withstand {colluders} that collude: lower privacy.colluders")
        if self.expires_at <= self.sealed_at:
            raise ValueError("expires_at must lie after sealed_at")
        return self

    # Both are asked for again and again in every round, and nothing of a sealed study changes.
    @cached_property
    def canonical(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    @cached_property
    def digest(self) -> str:
        """The study digest: SHA-256 of the canonical JSON."""
        return digest(self.canonical)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """pydantic's, whose copy takes over what was computed of the original: a changed study has another digest."""
        copy = super().model_copy(update=update, deep=deep)
        for computed in ("canonical", "digest"):
            copy.__dict__.pop(computed, None)
        return copy

    def entry(self, site: str) -> RosterEntry:
        """The roster's entry of a site.

        Raises:
            InputError: the site is not in the roster.
        """
        for entry in self.roster:
            if entry.site == site:
                return entry
        raise InputError(
            f'site "{site}" is not in the roster of study "{self.manifest.study.id}"',
            expected=", ".join(e.site for e in self.roster),
        )


S = TypeVar("S", bound=BaseSealed)
P = TypeVar("P", bound=Part)


class SealedManifest(BaseSealed):
    """A study that trains, sealed."""

    kind: Literal["train"] = "train"
    manifest: Manifest
    count_deviation: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Of the noise that each site adds to each of its counts; 0 where counts carry none."""

    @model_validator(mode="after")
    def _release_in_reach(self) -> Self:
        release = self.manifest.release
        if release is not None and (release.min_sites or 1) > len(self.roster):
            raise ValueError(
                f"release.min_sites = {release.min_sites} exceeds the roster of {len(self.roster)} sites: nothing could be released"
            )
        return self

    @model_validator(mode="after")
    def _noise_coherent(self) -> Self:
        private = self.manifest.privacy.mechanism == "dp-sgd"
        if any((entry.noise_multiplier > 0) != private for entry in self.roster):
            raise ValueError("every site's noise_multiplier must be above 0 with dp-sgd, and 0 without")
        if self.manifest.counting.noised != (self.count_deviation > 0):
            raise ValueError("count_deviation must be above 0 where counts are noised, and 0 where they are not")
        return self


def explain(error: ValidationError) -> str:
    """pydantic's findings as `field: what was expected, what came`, one per line, at most ten."""
    lines = []
    for item in error.errors(include_url=False)[:10]:
        where = ".".join(str(part) for part in item["loc"]) or "manifest"
        came = None if item["type"] == "json_invalid" else item.get("input")  # the whole file, perhaps a key
        shown = f", got {came!r}" if isinstance(came, (str, int, float, bool)) and "got" not in item["msg"] else ""
        hint = ""
        if item["type"] == "extra_forbidden":
            simulated = item["loc"] == ("simulation",)
            hint = " (only `fedward simulate` reads this table: leave it out)" if simulated else " (a misspelt field?)"
        lines.append(f"{where}: {item['msg'].removeprefix('Value error, ')}{shown}{hint}")
    return "; ".join(lines)


def parse(data: dict[str, Any], source: str = "manifest") -> Manifest:
    """A manifest from parsed TOML or JSON data; errors as `parse_data`."""
    return parse_data(Manifest, data, source, "study")


def parse_data(model: type[P], data: dict[str, Any], source: str, what: str) -> P:
    """A model's object from parsed TOML or JSON data.

    Raises:
        InputError: a field is missing, unknown, of the wrong type or out of bounds; the message names each.
    """
    try:
        return model.model_validate_json(canonical_json(data))
    except ValidationError as error:
        raise InputError(
            f"{source} is not a valid {what}", got=explain(error), remedy="correct the named fields"
        ) from None
    except (RecursionError, UnicodeEncodeError, ValueError):
        raise InputError(f"{source} is not a valid {what}", got="values nested too deep, or no text") from None


def parse_sealed(data: bytes) -> SealedManifest:
    """A sealed study that trains, from its canonical bytes; errors as `parse_canonical`."""
    return parse_canonical(TypeAdapter(SealedManifest), data)


def parse_canonical(kind: TypeAdapter[S], data: bytes) -> S:
    """A sealed manifest from its canonical bytes.

    Raises:
        InputError: the bytes are no JSON, or no sealed manifest.
        IntegrityError: the bytes are not the canonical form, so their digest would be ambiguous.
    """
    try:
        # JSON arrays come as lists, which strict tuples refuse; pydantic's own JSON mode knows the difference.
        sealed = kind.validate_json(data)
    except ValidationError as error:
        raise InputError("not a sealed manifest", got=explain(error)) from None
    if sealed.canonical != data:
        raise IntegrityError(
            "the sealed manifest is not in canonical form", remedy="ask the coordinator to propose it again"
        )
    return sealed


def load(path: Path) -> Manifest:
    """Read a manifest's TOML file.

    Raises:
        InputError: the file is missing, too large, not TOML, or not a manifest.
    """
    return parse(read_toml(path, "manifest"), path.name)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Parsed TOML of a bounded file.

    Raises:
        InputError: missing, too large, not UTF-8, or not TOML.
    """
    text = read_text(path, what)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{path.name} is not TOML", expected=what, got="values nested too deep") from None
    except ValueError as error:  # TOMLDecodeError, and what int() says of a number with thousands of digits
        raise InputError(f"{path.name} is not TOML", expected=what, got=str(error)) from None


def read_text(path: Path, what: str) -> str:
    """A small text file, bounded and UTF-8, or an InputError that says what is wrong."""
    if not path.is_file():
        raise InputError(f"no {what} at {path}", remedy="check the path")
    size = path.stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise InputError(
            f"{path.name} is too large", expected=f"at most {MAX_MANIFEST_BYTES} bytes", got=f"{size} bytes"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is not UTF-8 text", expected=what) from None
