"""Votes: every held-out patient names one feature that its prediction follows, so that a sum tells it of all of them. Pure.

A patient's share of a feature is the absolute attribution of the feature's inputs together over that of all features. The patient
votes once, for a feature drawn with these shares as probabilities; without shares, for nobody. So the expected part of the votes
that a feature gets is the mean of its shares over the voters, and a patient more or less changes one count by 1, whatever it drew:
votes are counts of patients, and are bounded, noised, charged and summed like all others (docs/adr/0027).

They leave as one slice more of the histogram, behind the groups: feature f in the cell f, row by row, the cells behind it empty.
Nothing but `parts` takes it off again: metrics never see it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.errors import InputError
from fedward.study.encoding import feature_spans, input_names
from fedward.study.manifest import CategoricalFeature, Manifest
from fedward.study.metrics import Counts, histogram_shape

Real = NDArray[np.float64]


def voted_features(manifest: Manifest) -> int:
    """How many features held-out patients vote for; 0 where the study asks for no votes."""
    return len(manifest.features) if manifest.evaluation.influence else 0


def given_shape(manifest: Manifest) -> tuple[int, int, int]:
    """The counts that a site gives: the histogram's shape, (slices, bins, 2), with a slice more where it asks for votes."""
    slices, bins, outcomes = histogram_shape(manifest)
    return slices + bool(voted_features(manifest)), bins, outcomes


def middle_patient(manifest: Manifest) -> Real:
    """Whom attributions are beside, (width,): the middle of every number, equal shares of levels, nothing missing. From the
    manifest alone, so that it tells of no patient."""
    middle = np.zeros(len(input_names(manifest)))
    for feature, span in feature_spans(manifest):
        if isinstance(feature, CategoricalFeature):
            middle[span.start : span.start + len(feature.levels)] = 1 / len(feature.levels)
    return middle


def patient_shares(manifest: Manifest, attributed: Real) -> Real:
    """Each patient's shares (n, features) of its attributions (n, width); zeros where these are all zero, or not all finite.

    A row of the result follows from the same row alone.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        by_feature = np.stack([attributed[:, span].sum(1) for _, span in feature_spans(manifest)], axis=1)
        absolute = np.abs(by_feature)
        whole = absolute.sum(1, keepdims=True)
        able = np.isfinite(whole) & (whole > 0)
        return np.where(able, absolute / np.where(able, whole, 1.0), 0.0)


def drawn(shares: Real, uniform: Real) -> Counts:
    """Votes (features,) of patients with these shares (n, features), each with a uniform of (0, 1), shape (n,)."""
    voters = shares.sum(1) > 0
    reached = shares[voters].cumsum(1)
    # The first feature that reaches the mark: never one with no share, as it reaches no further than the one before it.
    chosen = (reached < (uniform[voters] * reached[:, -1])[:, None]).sum(1)
    return np.bincount(chosen, minlength=shares.shape[1]).astype(np.int64)


def with_votes(histogram: Counts, votes: Counts) -> Counts:
    """The counts that leave, of a histogram (slices, bins, 2) and votes (features,).

    Raises:
        InputError: there are more features than cells of a slice.
    """
    _, bins, outcomes = histogram.shape
    if len(votes) > bins * outcomes:
        raise InputError("a slice has too few cells for the votes", expected=f"{len(votes)} or more", got=f"{bins * 2}")
    block = np.zeros(bins * outcomes, dtype=np.int64)
    block[: len(votes)] = votes
    return np.concatenate([histogram, block.reshape(1, bins, outcomes)])


def parts(manifest: Manifest, given: Counts) -> tuple[Counts, Counts | None]:
    """The histogram (slices, bins, 2), and the votes (features,) or None where the study asks for none.

    Raises:
        InputError: the counts are of another shape than the study's.
    """
    features = voted_features(manifest)
    if given.shape != given_shape(manifest):
        raise InputError("the counts do not fit the study", expected=str(given_shape(manifest)), got=str(given.shape))
    return (given[:-1], given[-1].reshape(-1)[:features]) if features else (given, None)


def fit_together(counts: Counts, features: int) -> bool:
    """Whether exact counts (slices, bins, 2) can be of one set of patients; with noise this says nothing.

    Nobody is in a group who is not among all; each of all votes once at most, and for one of so many features; 0 is no votes.
    """
    histogram, block = (counts[:-1], counts[-1].reshape(-1)) if features else (counts, np.zeros(0, dtype=np.int64))
    # In floats: the sum of a liar's int64 counts would wrap.
    everybody, voters = (float(part.astype(np.float64).sum()) for part in (histogram[0], block))
    return bool((histogram[1:] <= histogram[0]).all() and voters <= everybody and not block[features:].any())
