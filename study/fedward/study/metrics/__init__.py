"""Accuracy and fairness from counts alone: histograms of (group × score bin × outcome).

Sites send counts, and sums of counts are all that anyone needs: every metric and its interval follow from the summed
histogram, noised or not. Slice 0 is everybody; then one slice a fairness group, crossed ones last. Counts under `SMALL` are
suppressed when shown.

    counting    scores to counts; bins; which slices there are
    suppression which slices are too small to show, and which would give them away
    ranking     AUROC with DeLong's interval, on exact counts
    measures    every metric as a function of counts
    calibrating calibration over groups of bins that are large enough to show
    binning     how far a metric of counts can be from the one of raw scores
    intervals   metrics with bootstrap intervals, noise included
    curves      ROC and precision-recall curves, and the point at a threshold
    mitigation  what a threshold for each group would do: an analysis, never applied
"""

from fedward.study.metrics.calibrating import CalibrationGroup, calibration_groups
from fedward.study.metrics.counting import (
    EVERYBODY,
    TEMPER,
    Counts,
    bin_centres,
    bin_edges,
    histogram,
    histogram_shape,
    slice_names,
    suppress_small,
    suppress_sums,
)
from fedward.study.metrics.intervals import SURE, Estimate, attribute_slices, calibration_curve, estimates
from fedward.study.metrics.ranking import Z95, Auroc, auroc, exact_auroc
from fedward.study.metrics.suppression import SMALL, suppressed_cells, suppressed_slices

__all__ = [
    "EVERYBODY",
    "SMALL",
    "SURE",
    "TEMPER",
    "Z95",
    "Auroc",
    "CalibrationGroup",
    "Counts",
    "Estimate",
    "attribute_slices",
    "auroc",
    "bin_centres",
    "bin_edges",
    "calibration_curve",
    "calibration_groups",
    "estimates",
    "exact_auroc",
    "histogram",
    "histogram_shape",
    "slice_names",
    "suppress_small",
    "suppress_sums",
    "suppressed_cells",
    "suppressed_slices",
]
