"""From sites' histograms to metrics of a model version: counts are summed first, and only the sum is kept. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedward.privacy.errors import InputError
from fedward.server.records import Evaluation, MetricRow
from fedward.study.manifest import Manifest
from fedward.study.messages import counts_to_bytes
from fedward.study.metrics import Counts, auroc, brier, histogram_shape, slice_names


def evaluate(manifest: Manifest, version: int, sites: Sequence[str], histograms: Sequence[Counts]) -> Evaluation:
    """Sum the histograms, each (groups + 1, bins, 2), and derive each slice's metrics.

    Raises:
        InputError: a site's histogram is missing or of another shape.
    """
    shape = histogram_shape(manifest)
    if len(sites) != len(histograms) or any(counts.shape != shape for counts in histograms):
        raise InputError("histograms do not fit the study", expected=f"{len(sites)} of shape {shape}")
    total = np.sum(np.stack(histograms), axis=0)
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
