"""From the sites' summed histogram to metrics of a model version. Only the sum is ever kept. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fedward.server.records import Evaluation, MetricRow
from fedward.study.manifest import Manifest
from fedward.study.messages import counts_to_bytes
from fedward.study.metrics import Counts, Estimate, auroc, estimates, slice_names
from fedward.study.votes import parts


def evaluate(
    manifest: Manifest, version: int, sites: Sequence[str], total: Counts, deviation: float = 0.0
) -> Evaluation:
    """Each slice's metrics of a model version, and the gaps between groups.

    Args:
        manifest: the study.
        version: the model's.
        sites: whose counts were summed.
        total: their sum, the slice of votes among it where the study asks for votes; they are kept and not looked at.
        deviation: of the noise on each of its cells; 0 without.

    Raises:
        InputError: the sum is of another shape.
    """
    histogram, _ = parts(manifest, total)
    names = slice_names(manifest)
    patients = {name: _patients(counts) for name, counts in zip(names, histogram, strict=True)}
    found = estimates(manifest, histogram, deviation, names)
    if deviation == 0:
        exact = {name: _delong(name, counts) for name, counts in zip(names, histogram, strict=True)}
        found = [exact[one.slice] if one.name == "auroc" else one for one in found]
    rows = [
        MetricRow(
            version, one.slice, one.name, one.value, one.low, one.high, *patients.get(one.slice, patients[names[0]])
        )
        for one in found
    ]
    return Evaluation(version, counts_to_bytes(total), tuple(sites), tuple(rows))


def _delong(name: str, counts: Counts) -> Estimate:
    """Exact counts need no bootstrap."""
    area = auroc(counts)
    return Estimate(name, "auroc", None) if area is None else Estimate(name, "auroc", area.value, area.low, area.high)


def _patients(counts: Counts) -> tuple[int, int]:
    """(positives, negatives), none below 0 whatever the noise was."""
    negatives, positives = (max(0, int(count)) for count in counts.sum(axis=0))
    return positives, negatives
