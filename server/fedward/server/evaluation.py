"""From the sites' summed histogram to metrics of a model version. Only the sum is ever kept. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fedward.privacy.errors import InputError
from fedward.server.records import Evaluation, MetricRow
from fedward.study.manifest import Manifest
from fedward.study.messages import counts_to_bytes
from fedward.study.metrics import Counts, auroc, brier, histogram_shape, slice_names


def evaluate(manifest: Manifest, version: int, sites: Sequence[str], total: Counts) -> Evaluation:
    """Each slice's metrics of a model version, from the sites' summed histogram, (groups + 1, bins, 2).

    Raises:
        InputError: the sum is of another shape.
    """
    shape = histogram_shape(manifest)
    if total.shape != shape:
        raise InputError("the summed histogram does not fit the study", expected=str(shape), got=str(total.shape))
    rows: list[MetricRow] = []
    for name, counts in zip(slice_names(manifest), total, strict=True):
        rows.extend(_slice(version, name, counts))
    return Evaluation(version, counts_to_bytes(total), tuple(sites), tuple(rows))


def _slice(version: int, name: str, counts: Counts) -> list[MetricRow]:
    negatives, positives = (int(count) for count in counts.sum(axis=0))
    area = auroc(counts)
    value, low, high = (area.value, area.low, area.high) if area else (None, None, None)
    return [
        MetricRow(version, name, "auroc", value, low, high, positives, negatives),
        MetricRow(version, name, "brier", brier(counts), None, None, positives, negatives),
    ]
