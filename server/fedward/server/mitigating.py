"""What a threshold for each group would do to a study's newest model, from the counts of its evaluation. Pure, and never applied.

1. Groups that may not be shown are left out before anything is computed: those with fewer than `SMALL` patients of an outcome and
   those that would give them away (`fedward.study.metrics.suppression`); so are groups that are not above the noise beyond doubt,
   of which no metric is told either. A gap needs two groups.
2. Of exact counts a group's threshold lies on edges that are `apart`, so that whoever asks for one bound after another finds no
   small count. Of noised counts it may be any: ε covers whatever is made of them.
3. The common threshold, its rates and gaps are those of the study's own metrics, over the groups that are left.

Nothing that decides about a model reads this: no gate, no release, no card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError, RefusalError
from fedward.server.records import Evaluation
from fedward.study.attributes import Attribute, attributes
from fedward.study.kinds import AnySealed
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.messages import counts_from_bytes
from fedward.study.metrics import SMALL, bin_centres, bin_edges, histogram_shape, slice_names, suppress_sums
from fedward.study.metrics.intervals import SURE
from fedward.study.metrics.measures import first_bin
from fedward.study.metrics.mitigation import Criterion, Mitigation, apart, mitigate

BOUND: Final = 0.05
CRITERIA: Final[Mapping[Criterion, str]] = MappingProxyType(
    {"equal_opportunity": "sensitivity", "equalized_odds": "sensitivity and specificity"}
)
"""Each criterion, and what it keeps alike between groups."""
LIMITS: Final = (
    "An analysis, applied to nothing: model, gates and releases stay as they are. It is told of the very patients on whom the "
    "thresholds were chosen, so it flatters. To treat patients by thresholds of their group is a clinical and a legal decision."
)

Why = Literal["small", "noise"]
WHY: Final[Mapping[Why, str]] = MappingProxyType(
    {
        "small": f"too small to show: fewer than {SMALL} patients of an outcome, or it would give such a group away",
        "noise": "too small for the noise of its counts",
    }
)


@dataclass(frozen=True)
class LeftOut:
    """A group that is not compared, and why."""

    group: str
    why: Why


@dataclass(frozen=True)
class Mitigated:
    """The analysis of one attribute.

    Attributes:
        study_id: of the study.
        version: of the model: rounds committed.
        sites: whose counts were summed.
        attribute: whose groups are compared.
        attributes: all that the study has.
        threshold: the study's own: scores from there on are called positive.
        deviation: of the noise on each count; 0 without.
        choices: among how many thresholds each group's was chosen.
        left_out: groups that are not compared.
        found: the thresholds and what they do.
    """

    study_id: str
    version: int
    sites: int
    attribute: str
    attributes: tuple[str, ...]
    threshold: float
    deviation: float
    choices: tuple[int, ...]
    left_out: tuple[LeftOut, ...]
    found: Mitigation

    def as_json(self) -> dict[str, Any]:
        left_out = [asdict(one) | {"words": WHY[one.why]} for one in self.left_out]
        plain = {name: value for name, value in vars(self).items() if name not in {"found", "left_out"}}
        return plain | {"left_out": left_out, "limits": limits(self)} | self.found.as_json()


def limits(made: Mitigated) -> str:
    """What such an analysis does not do, and how sure it is."""
    if not made.deviation:
        return LIMITS
    return (
        f"{LIMITS} Each count carries noise of deviation {made.deviation:.1f}, and thresholds that are chosen on noised counts "
        "flatter more: they fit the noise."
    )


def compared(sealed: AnySealed | None) -> tuple[str, ...]:
    """The attributes whose groups can be compared; none of a study that is not sealed or trains nothing."""
    if not isinstance(sealed, SealedManifest):
        return ()
    return tuple(attribute.name for attribute in attributes(sealed.manifest))


def mitigated(
    sealed: AnySealed | None,
    evaluation: Evaluation | None,
    attribute: str | None = None,
    bound: float = BOUND,
    criterion: Criterion = "equal_opportunity",
) -> Mitigated:
    """The analysis of one attribute, the study's first unless another is named.

    Args:
        sealed: the study.
        evaluation: its newest.
        attribute: `sex`, or `sex & age` of a crossed one.
        bound: what the criterion's gap may be, from 0 to 1.
        criterion: which gap.

    Raises:
        InputError: the study trains nothing, compares no groups, has no such attribute or no evaluation yet; or as `mitigate`.
        RefusalError: `groups-too-small`: fewer than two groups are left.
    """
    if not isinstance(sealed, SealedManifest):
        raise InputError(
            "this study has no model whose thresholds could be looked at", expected="a sealed study that trains one"
        )
    manifest, chosen = sealed.manifest, _attribute(sealed.manifest, attribute)
    if evaluation is None:
        raise InputError(
            f'no model of study "{manifest.study.id}" has been evaluated yet', expected="counts of held-out patients",
            remedy="wait for the round after which the manifest has one evaluated",
        )  # fmt: skip
    total = counts_from_bytes(
        evaluation.counts, histogram_shape(manifest), np.iinfo(np.int64).min
    )  # noise may be negative
    deviation = sealed.count_deviation * len(evaluation.sites) ** 0.5  # every site noised its own counts
    left, out = _groups(manifest, chosen, total, deviation)
    if len(left) < 2:
        raise _too_few(manifest, chosen, left, out)
    plan, counts = manifest.counting, total[left].astype(np.float64)
    first = first_bin(bin_centres(plan.bins, plan.temper), plan.threshold)
    allowed = np.ones((len(left), plan.bins + 1), dtype=np.bool_) if deviation else apart(counts, first)
    names = [slice_names(manifest)[place] for place in left]
    found = mitigate(counts, bin_edges(plan.bins, plan.temper), names, first, bound, criterion, allowed)
    return Mitigated(
        study_id=manifest.study.id,
        version=evaluation.version,
        sites=len(evaluation.sites),
        attribute=chosen.name,
        attributes=compared(sealed),
        threshold=plan.threshold,
        deviation=deviation,
        choices=tuple(int(row.sum()) for row in allowed),
        left_out=out,
        found=found,
    )


def _attribute(manifest: Manifest, named: str | None) -> Attribute:
    found = {one.name: one for one in attributes(manifest)}
    if not found:
        raise InputError(
            f'study "{manifest.study.id}" compares no groups', expected="fairness.groups in its manifest",
            remedy="propose a study that names them",
        )  # fmt: skip
    if named is None:
        return next(iter(found.values()))
    if named not in found:
        raise InputError(f'study "{manifest.study.id}" has no such attribute', expected=", ".join(found), got=named)
    return found[named]


def _groups(
    manifest: Manifest, attribute: Attribute, total: NDArray[np.int64], deviation: float
) -> tuple[list[int], tuple[LeftOut, ...]]:
    """Places of the groups that may be compared, and the others."""
    hidden, names = _hidden(manifest, total), slice_names(manifest)
    left, out = list[int](), list[LeftOut]()
    for place in attribute.slices:
        if names[place] in hidden:
            out.append(LeftOut(names[place], "small"))
        elif not (total[place].sum(0) >= SURE * deviation * len(total[place]) ** 0.5).all():
            out.append(LeftOut(names[place], "noise"))
        else:
            left.append(place)
    return left, tuple(out)


def _hidden(manifest: Manifest, total: NDArray[np.int64]) -> set[str]:
    """What no page shows."""
    counts = ((max(0, int(ill)), max(0, int(none))) for none, ill in total.sum(axis=1))
    return suppress_sums(manifest, dict(zip(slice_names(manifest), counts, strict=True)))


def _too_few(manifest: Manifest, attribute: Attribute, left: list[int], out: tuple[LeftOut, ...]) -> RefusalError:
    shown = [slice_names(manifest)[place] for place in left]
    others = [name.name for name in attributes(manifest) if name.name != attribute.name]
    return RefusalError(
        f'too few groups of "{attribute.name}" are large enough to be compared',
        expected=f"two groups or more, each of {SMALL} patients or more of each outcome and above the noise of its counts",
        got="; ".join(
            [f"large enough: {', '.join(shown) or 'none'}", *(f"{one.group} is {WHY[one.why]}" for one in out)]
        ),
        remedy="measure more patients" + (f", or choose another attribute: {', '.join(others)}" if others else ""),
        code="groups-too-small",
    )  # fmt: skip
