"""Many simulated studies at once: `rounds.federate` of logistic regression, stacked over studies and settings.

A planner asks what dozens of schedules give on dozens of splits. One study is a few milliseconds of arithmetic in a hundred of
calls, so all splits are one batched matrix product, and all settings of one split are its columns. The arithmetic is that of a
node and its coordinator (`client.training`, `client.closed_form`, `server.aggregation`): float32 models, each patient's
gradient clipped, each site's noise on its own sum, float64 sums over sites. Draws are taken in a node's order, standard
normals that each setting scales by its own σC: a column equals `federate` with the same seed up to round-off, and settings are
compared under the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.client.closed_form import layers_of
from fedward.client.training import noise_ahead
from fedward.privacy.draws import Draws
from fedward.privacy.errors import InputError
from fedward.study.encoding import Encoded
from fedward.study.manifest import SealedManifest
from fedward.study.models import build, to_vector
from fedward.study.terms import SiteTerms, site_terms, training_cohort

Single: TypeAlias = NDArray[np.float32]
Double: TypeAlias = NDArray[np.float64]

_NO_CLIP = 1e30
_TINY = 1e-6
"""What Opacus adds to a norm before it divides."""


def stackable(settings: Sequence[SealedManifest], studies: Sequence[Mapping[str, Encoded]]) -> bool:
    """Whether `federate_stacked` can run them: logistic regression, one row a patient, a weighted mean, a plain server step, and
    settings that differ in rounds, rates, momentum, C and σ alone."""
    first = settings[0].manifest
    same = all(
        (one.manifest.features, one.manifest.outcome, one.manifest.model)
        == (first.features, first.outcome, first.model)
        and _kind(one) == _kind(settings[0])
        for one in settings
    )
    layers = layers_of(build(first))
    linear = layers is not None and len(layers) == 1 and layers[0].activation is None
    trainings = [one.manifest.training for one in settings]
    plain = all(
        one.algorithm in {"fedsgd", "fedavg"} and one.aggregation == "mean" and not one.kept for one in trainings
    )
    single = all(len(data) == len(data.patients) for study in studies for data in study.values())
    return same and linear and plain and single


def _kind(sealed: SealedManifest) -> tuple[object, ...]:
    sites = tuple(entry.site for entry in sealed.roster)
    terms = [site_terms(sealed, site) for site in sites]
    return sites, *((one.steps, one.sampling_rate, one.private) for one in terms)


def federate_stacked(
    settings: Sequence[SealedManifest], studies: Sequence[Mapping[str, Encoded]], draws: Sequence[Draws]
) -> Single:
    """The last model of every setting on every study's patients, shape (studies, settings, d).

    Args:
        settings: sealed manifests that `stackable` accepts, over one roster.
        studies: for each study, every roster site's training patients.
        draws: each study's own, shared by all settings; used as `federate` would use them.

    Returns:
        parameters as `rounds.federate` gives them; not finite where that would raise `training-diverged`.

    Raises:
        InputError: the settings cannot be stacked, the patients do not fit the roster, or draws and studies differ in number.
    """
    if not settings or not studies or len(draws) != len(studies):
        raise InputError("a stack needs settings, studies, and as many draws as studies")
    sites = [entry.site for entry in settings[0].roster]
    for study in studies:
        if set(study) != set(sites):
            raise InputError("the patients do not fit the roster", expected=", ".join(sites), got=", ".join(study))
    if not stackable(settings, studies):
        raise InputError("these settings cannot be stacked", remedy="run each with `rounds.federate`")
    with np.errstate(all="ignore"):  # a column that diverges is told by its own numbers
        return _Stack(settings, studies, draws, sites).run()


@dataclass(frozen=True)
class _Site:
    """A hospital's patients over all studies, padded to the largest: inputs (S, n, k), outcomes and the rest (S, n, 1)."""

    inputs: Single
    outcomes: Single
    real: Single
    lengths: Single
    """√(‖x‖² + 1): a patient's gradient norm is this times the loss's derivative."""
    numbers: tuple[int, ...]


def _padded(tables: Sequence[Encoded]) -> _Site:
    most = max(len(table) for table in tables)
    shape = (len(tables), most, 1)
    inputs = np.zeros((len(tables), most, tables[0].inputs.shape[1]), dtype=np.float32)
    outcomes, real = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for index, table in enumerate(tables):
        inputs[index, : len(table)] = table.inputs
        outcomes[index, : len(table), 0] = table.outcomes
        real[index, : len(table)] = 1
    lengths = np.sqrt((inputs * inputs).sum(axis=2, keepdims=True) + 1)
    return _Site(inputs, outcomes, real, lengths, tuple(len(table) for table in tables))


class _Stack:
    """The running columns. Those with the most rounds come first, so that the finished ones fall off the end."""

    def __init__(
        self,
        settings: Sequence[SealedManifest],
        studies: Sequence[Mapping[str, Encoded]],
        draws: Sequence[Draws],
        sites: Sequence[str],
    ) -> None:
        rounds = np.array([one.manifest.training.rounds for one in settings])
        self.order = np.argsort(-rounds, kind="stable")
        self.settings = [settings[index] for index in self.order]
        self.rounds = rounds[self.order]
        self.rates = np.array([one.manifest.training.server_learning_rate for one in self.settings])
        self.momenta = np.array([one.manifest.training.server_momentum for one in self.settings])
        self.draws = draws
        self.sites = [_padded([study[site] for study in studies]) for site in sites]
        self.terms = [[site_terms(one, site) for one in self.settings] for site in sites]
        self.cohorts = np.array([[training_cohort(one, site) for one in self.settings] for site in sites])
        self.start = to_vector(build(settings[0].manifest))

    def run(self) -> Single:
        shape = (len(self.draws), len(self.start), len(self.settings))
        final = np.empty(shape, dtype=np.float32)
        model = np.broadcast_to(self.start[None, :, None], shape).astype(np.float32)
        moment = np.zeros(shape)
        for number in range(1, int(self.rounds[0]) + 1):
            running = int(np.count_nonzero(self.rounds >= number))
            model, moment = model[:, :, :running], moment[:, :, :running]
            total = np.zeros(model.shape)
            for site, terms, cohort in zip(self.sites, self.terms, self.cohorts, strict=True):
                total += cohort[:running] * self._update(site, terms[:running], model)
            moment = self.momenta[:running] * moment + total / self.cohorts[:, :running].sum(axis=0)
            model = (model + self.rates[:running] * moment).astype(np.float32)
            ended = self.rounds[:running] == number
            final[:, :, :running][:, :, ended] = model[:, :, ended]
        found = np.empty((len(self.draws), len(self.settings), len(self.start)), dtype=np.float32)
        found[:, self.order] = final.transpose(0, 2, 1)
        return found

    def _update(self, site: _Site, terms: Sequence[SiteTerms], base: Single) -> Single:
        """A site's update in every column, shape (S, d, G): what `client.training.train` returns."""
        steps, private = terms[0].steps, terms[0].private
        rates = _row([one.learning_rate for one in terms])
        expected = _row([one.expected_batch for one in terms])
        norms = _row([one.clipping_norm if private else _NO_CLIP for one in terms])
        deviations = np.array([one.noise_multiplier * one.clipping_norm for one in terms])
        ahead = noise_ahead(steps, base.shape[1])
        model = base
        for step in range(steps):
            sampled = self._sampled(site, terms[0].sampling_rate)
            total = _clipped_sum(model, site, sampled, norms)
            if private:
                if step % ahead == 0:
                    noise = np.stack([draws.gaussian((ahead, base.shape[1]), 1.0) for draws in self.draws])
                total = (total + noise[:, step % ahead, :, None] * deviations).astype(np.float32)
            model = model - rates * (total / expected)
        return model - base

    def _sampled(self, site: _Site, rate: float) -> Single:
        """One Poisson sample of every study's patients, shape (S, n, 1)."""
        found = np.zeros_like(site.real)
        for index, (draws, number) in enumerate(zip(self.draws, site.numbers, strict=True)):
            found[index, :number, 0] = draws.bernoulli(number, rate)
        return found


def _row(values: Sequence[float]) -> Single:
    return np.array(values, dtype=np.float32)


def _clipped_sum(model: Single, site: _Site, sampled: Single, norms: Single) -> Single:
    """Σ over sampled patients of min(1, C/‖g‖) g, shape (S, d, G), weights first and the bias last."""
    logits = site.inputs @ model[:, :-1] + model[:, None, -1]
    error = np.tanh(logits / 2)
    error += 1
    error /= 2
    error -= site.outcomes
    error *= sampled
    factors = norms / (np.abs(error) * site.lengths + np.float32(_TINY))
    error *= np.minimum(factors, 1, out=factors)
    return np.concatenate([site.inputs.transpose(0, 2, 1) @ error, error.sum(axis=1, keepdims=True)], axis=1)


def predict_stacked(models: Single, inputs: Single) -> Double:
    """Probabilities of every column of one study on its held-out inputs (n, k), shape (columns, n); models (columns, d)."""
    logits = (models[:, :-1] @ inputs.T + models[:, -1:]).astype(np.float64)
    return np.asarray((1 + np.tanh(logits / 2)) / 2)
