"""Local training of many sites at once: their models are one array; of models of Linear layers a step is a few products.

The arithmetic is that of a node (`client.training`, `client.closed_form`), with a first axis of sites: Poisson samples, each
patient's gradient clipped by its closed-form norm, each site's own noise, division by the declared batch, FedProx's pull. A site's
draws are asked in a node's order, so that the same draws give the same update up to round-off. Samples of different sizes are
padded with rows that weigh nothing. Sites do not meet before the server's step, so a few are trained at a time: as many as a
core's cache holds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedward.client.closed_form import few_threads, layers_of
from fedward.client.training import noise_ahead
from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError, InputError
from fedward.simulations.draws import UnsafeKeyedDraws
from fedward.study.encoding import Encoded
from fedward.study.manifest import SealedManifest
from fedward.study.models import build
from fedward.study.terms import SiteTerms, site_terms
from fedward.study.vectors import Vector

Single: TypeAlias = NDArray[np.float32]
Gradients: TypeAlias = Callable[[NDArray[np.int64], Single], None]
"""Of rows of the tables and their weights, shape (s, b); a row that pads a sample weighs 0, and of a private study the others 1."""
_Views: TypeAlias = tuple[list[Single], list[Single]]

_CACHE_FLOATS = 1 << 17
"""Activations of the sites that are trained together: half a MiB, of a core's cache the larger part."""
_MOST_COINS = 1 << 21
"""Tossed at once, a byte each."""
_TINY = np.float32(1e-6)
"""What Opacus adds to a norm before it divides."""


def roster_of(sealed: SealedManifest, training: Mapping[str, Encoded], draws: Mapping[str, Draws]) -> list[str]:
    """The roster's sites.

    Raises:
        InputError: patients or draws do not fit them.
    """
    sites = [entry.site for entry in sealed.roster]
    if set(training) != set(sites) or set(draws) != set(sites):
        raise InputError("the patients do not fit the roster", expected=", ".join(sites), got=", ".join(training))
    return sites


def single_rows(sealed: SealedManifest, training: Mapping[str, Encoded]) -> bool:
    """Whether every patient has one row, and no site's noise is shared: what any stack needs."""
    return sealed.manifest.privacy.noise != "shared" and all(
        len(data) == len(data.owners) for data in training.values()
    )


def stackable(sealed: SealedManifest, training: Mapping[str, Encoded]) -> bool:
    """Whether a study's sites can be stacked as products: `single_rows`, and Linear layers alone."""
    return single_rows(sealed, training) and layers_of(build(sealed.manifest)) is not None


class Stack(ABC):
    """All sites of a study, ready to train from any base model; a subclass knows the model's gradients."""

    def __init__(
        self, sealed: SealedManifest, training: Mapping[str, Encoded], draws: Mapping[str, Draws], size: int, width: int
    ) -> None:
        """
        Args:
            sealed: the study.
            training: each roster site's training patients.
            draws: each site's own.
            size: d.
            width: numbers that a row of a step needs, about.

        Raises:
            InputError: patients have several rows, or patients or draws do not fit the roster.
        """
        self.sites = roster_of(sealed, training, draws)
        if not single_rows(sealed, training):
            raise InputError("this study's sites cannot be stacked", remedy="train them one by one")
        self._size = size
        tables = [training[site] for site in self.sites]
        self._inputs: Single = np.concatenate([table.inputs for table in tables]).astype(np.float32, copy=False)
        self._outcomes: Single = np.concatenate([table.outcomes for table in tables]).astype(np.float32, copy=False)
        ends = np.cumsum([len(table) for table in tables])
        self._members = [
            _Member(site_terms(sealed, site), draws[site], int(end) - len(table), len(table))
            for site, table, end in zip(self.sites, tables, ends, strict=True)
        ]
        self._pieces = [self._members[start : start + size] for start, size in self._cut(width)]

    def updates(self, base: Vector, corrections: Vector | None = None) -> Single:
        """As `engines.Engine.updates`.

        Raises:
            FedwardError: training produced a number that is not finite.
        """
        bases = np.broadcast_to(base, (len(self._members), self._size))
        found = np.empty((len(self._members), self._size), dtype=np.float32)
        start = 0
        with self._threads(), np.errstate(all="ignore"):  # what is not finite is refused below
            for piece in self._pieces:
                place = slice(start, start + len(piece))
                self._train(piece, bases[place], None if corrections is None else corrections[place], found[place])
                start += len(piece)
        if not np.isfinite(found).all():
            raise FedwardError(
                "training did not stay finite", remedy="lower the learning rate", code="training-diverged"
            )
        return found

    def _threads(self) -> AbstractContextManager[None]:
        """Around a round: how many threads compute."""
        return nullcontext()

    def _cut(self, width: int) -> list[tuple[int, int]]:
        """Pieces of neighbouring sites, as (first, number), whose activations fit the cache."""
        pieces, start, most = [], 0, 0.0
        for place, member in enumerate(self._members):
            rows = member.expected_rows
            most = max(most, rows)
            if place > start and most * width * (place + 1 - start) > _CACHE_FLOATS:
                pieces.append((start, place - start))
                start, most = place, rows
        pieces.append((start, len(self._members) - start))
        return pieces

    def _train(self, piece: Sequence[_Member], base: Single, corrections: Single | None, out: Single) -> None:
        """Writes the updates of some sites, shape (s, d), as the bases and corrections are."""
        terms = piece[0].terms
        model = np.array(base, order="C")  # a base that all share is a view with strides of 0, whose order is no order
        total = np.empty_like(model)
        scale = np.array([[terms.learning_rate / member.terms.expected_batch] for member in piece], dtype=np.float32)
        gradients = self._gradients(model, terms, total)
        for step, (index, real) in enumerate(_samples(piece)):
            if terms.private:
                gradients(index, real)
                for row, member in enumerate(piece):
                    total[row] += member.noise(step, self._size)
                total *= scale
            else:
                gradients(index, real * scale)  # a few weights instead of many sums
            if terms.proximal:
                total += np.float32(terms.learning_rate * terms.proximal) * (model - base)
            if corrections is not None:
                total += np.float32(terms.learning_rate) * corrections
            model -= total
        np.subtract(model, base, out=out)

    @abstractmethod
    def _gradients(self, model: Single, terms: SiteTerms, total: Single) -> Gradients:
        """What sums the sampled patients' weighted gradients, clipped where the study is private.

        Args:
            model: the sites' models, shape (s, d), as they are when it is called.
            terms: what all sites have in common.
            total: where the sums go, shape (s, d).
        """


class SiteStack(Stack):
    """Models of Linear layers: every gradient in closed form."""

    def __init__(self, sealed: SealedManifest, training: Mapping[str, Encoded], draws: Mapping[str, Draws]) -> None:
        """Arguments and errors as `Stack`, and InputError if the study is not `stackable`."""
        layers = layers_of(build(sealed.manifest))
        if layers is None:
            raise InputError("this study's sites cannot be stacked", remedy="train them one by one")
        self._layers = layers
        width = layers[0].weight.shape[1] + 2 * sum(len(layer.bias) for layer in layers)
        super().__init__(sealed, training, draws, sum(layer.size for layer in layers), width)

    def _threads(self) -> AbstractContextManager[None]:
        return few_threads(self._layers)

    def _gradients(self, model: Single, terms: SiteTerms, total: Single) -> Gradients:
        return partial(self._sum, self._views(model), terms, self._views(total))

    def _sum(self, layers: _Views, terms: SiteTerms, sums: _Views, index: NDArray[np.int64], real: Single) -> None:
        weights, biases = layers
        out = self._inputs.take(index, axis=0)
        inputs = [out]
        for layer, weight, bias in zip(self._layers, weights, biases, strict=True):
            out = out @ weight.transpose(0, 2, 1)
            out += bias
            _activate(layer.activation, out)
            inputs.append(out)
        error = inputs.pop()
        np.negative(error, out=error)
        np.exp(error, out=error)
        error += 1
        np.reciprocal(error, out=error)
        error -= self._outcomes.take(index)[..., None]
        error *= real[..., None]
        ones = np.ones((len(index), 1, index.shape[1]), dtype=np.float32)
        errors: list[Single] = []
        for place in range(len(self._layers) - 1, -1, -1):
            if terms.private:
                errors.append(error)
            else:
                _add_up(error, inputs[place], ones, sums, place)
            if place:
                error = _before(error, weights[place])
                _derive(self._layers[place - 1].activation, inputs[place], error, spare=terms.private)
        if terms.private:
            errors.reverse()
            factors = _factors(inputs, errors, terms.clipping_norm)
            for place, part in enumerate(errors):
                np.multiply(part, factors, out=part)
                _add_up(part, inputs[place], ones, sums, place)

    def _views(self, flat: Single) -> _Views:
        """Weights (s, out, in) and biases (s, 1, out) of each layer, as views of (s, d)."""
        weights, biases, start = [], [], 0
        for layer in self._layers:
            middle, end = start + layer.weight.size, start + layer.size
            weights.append(flat[:, start:middle].reshape(len(flat), *layer.weight.shape))
            biases.append(flat[:, None, middle:end])
            start = end
        return weights, biases


class _Member:
    """One site: its terms, its rows [start, start + number) of the tables, and its draws."""

    def __init__(self, terms: SiteTerms, draws: Draws, start: int, number: int) -> None:
        self.terms, self.start, self.number = terms, start, number
        self._draws = draws
        self._ahead: Single = np.empty((0, 0), dtype=np.float32)

    @property
    def expected_rows(self) -> float:
        """How many rows a step has, but for chance."""
        mean = self.terms.sampling_rate * self.number
        return mean + 2 * math.sqrt(mean) + 1

    def heads(self, steps: int) -> NDArray[np.int64]:
        """So many steps' Poisson samples of patients, as one row of steps × number coins: where its heads lie."""
        coins, rate = steps * self.number, self.terms.sampling_rate
        if isinstance(self._draws, UnsafeKeyedDraws):
            return self._draws.heads(coins, rate)
        return np.flatnonzero(self._draws.bernoulli(coins, rate))

    def noise(self, step: int, size: int) -> Single:
        """A step's noise, shape (d,); drawn for several steps at once, as on a node."""
        ahead = noise_ahead(self.terms.steps, size)
        if step % ahead == 0:
            deviation = self.terms.noise_multiplier * self.terms.clipping_norm
            self._ahead = self._draws.gaussian((ahead, size), deviation).astype(np.float32)
        found: Single = self._ahead[step % ahead]
        return found


def _samples(piece: Sequence[_Member]) -> Iterator[tuple[NDArray[np.int64], Single]]:
    """Row numbers and weights of each step, shape (s, b) each; rows that pad a site's sample weigh 0.

    With noise a step's sample is drawn after the noise of the step before, as at a node; without, many steps' at once.
    """
    left = piece[0].terms.steps
    at_once = (
        1 if piece[0].terms.private else max(1, _MOST_COINS // (len(piece) * max(one.number for one in piece) + 1))
    )
    while left > 0:
        yield from _padded(piece, min(at_once, left))
        left -= at_once


def _padded(piece: Sequence[_Member], steps: int) -> Iterator[tuple[NDArray[np.int64], Single]]:
    """The same of the next few steps: found of all sites at once, for one site's are few."""
    heads = [member.heads(steps) for member in piece]
    owner = np.repeat(np.arange(len(piece)), [len(one) for one in heads])
    step, row = np.divmod(np.concatenate(heads), np.array([max(1, member.number) for member in piece])[owner])
    batch = owner * steps + step  # of a site's step
    sizes = np.bincount(batch, minlength=len(piece) * steps)
    spot = np.arange(len(batch)) - (np.cumsum(sizes) - sizes)[batch]
    index = np.zeros((len(sizes), int(sizes.max())), dtype=np.int64)
    real = np.zeros(index.shape, dtype=np.float32)
    index[batch, spot] = row + np.array([member.start for member in piece])[owner]
    real[batch, spot] = 1
    rows, weights = index.reshape(len(piece), steps, -1), real.reshape(len(piece), steps, -1)
    for place, width in enumerate(sizes.reshape(len(piece), steps).max(axis=0).tolist()):
        yield rows[:, place, :width], weights[:, place, :width]


def _activate(activation: type[nn.Module] | None, out: Single) -> None:
    if activation is nn.ReLU:
        np.maximum(out, np.zeros_like(out), out=out)  # with a number for the zeros NumPy takes five times as long
    elif activation is nn.Tanh:
        np.tanh(out, out=out)


def _derive(activation: type[nn.Module] | None, after: Single, error: Single, *, spare: bool) -> None:
    """From derivatives after an activation to those before it, in place; `after` is spared if it is needed again."""
    if activation is nn.ReLU:
        error *= np.sign(after)  # 0 or 1, without the cast that a comparison's outcome would need
    elif activation is nn.Tanh:
        slope = np.multiply(after, after, out=None if spare else after)
        np.subtract(np.float32(1), slope, out=slope)
        error *= slope


def _add_up(error: Single, inputs: Single, ones: Single, sums: _Views, place: int) -> None:
    """A layer's gradients over all rows, into its `sums`."""
    np.matmul(error.transpose(0, 2, 1), inputs, out=sums[0][place])
    np.matmul(ones, error, out=sums[1][place])  # a sum over rows, at a third of the time


def _before(error: Single, weight: Single) -> Single:
    """Derivatives at a layer's inputs, shape (s, b, in), from those at its outputs, shape (s, b, out)."""
    found: Any = (
        error * weight if weight.shape[1] == 1 else error @ weight
    )  # a product with one inner term is no product
    return np.asarray(found)


def _factors(inputs: Sequence[Single], errors: Sequence[Single], norm: float) -> Single:
    """What each row's gradient is multiplied by, so that its norm is at most C; shape (s, b, 1). Rows that have none become 0."""
    squares: Single = np.zeros(inputs[0].shape[:2], dtype=np.float32)
    for a, error in zip(inputs, errors, strict=True):
        part = _lengths(a)
        part += 1
        part *= _lengths(error)
        squares += part
    finite = np.isfinite(squares)
    if not finite.all():  # as at a node, a row whose gradient is not finite adds nothing
        for whole in (*inputs, *errors, squares):
            whole[~finite] = 0
    np.sqrt(squares, out=squares)
    squares += _TINY
    np.divide(np.float32(norm), squares, out=squares)
    np.minimum(squares, 1, out=squares)
    return squares[..., None]


def _lengths(rows: Single) -> Single:
    """Squared norms along the last axis; a product with ones is the fastest sum of many short rows."""
    found: Single = (rows * rows) @ np.ones(rows.shape[-1], dtype=np.float32)
    return found
