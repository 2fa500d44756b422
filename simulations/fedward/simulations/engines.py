"""Who computes the sites' updates of a simulated round: all at once (`SiteStack`), or one after the other as a node would."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedward.client.training import train, unnoised_sum
from fedward.privacy.draws import Draws
from fedward.privacy.errors import InputError
from fedward.simulations.site_stack import SiteStack, roster_of, stackable
from fedward.simulations.site_vmap import SiteVmap, worth_it
from fedward.study.encoding import Encoded
from fedward.study.manifest import SealedManifest
from fedward.study.models import build, load_vector
from fedward.study.secure import secure_terms
from fedward.study.terms import site_terms
from fedward.study.vectors import Vector

EngineName: TypeAlias = Literal["stacked", "loop", "flower"]


class Engine(Protocol):
    """The sites of one study."""

    def updates(self, base: Vector, corrections: Vector | None = None) -> NDArray[np.float32]:
        """Every site's update (trained − base), in the roster's order: shape (sites, d).

        Args:
            base: the model to start from, shape (d,), or each site's, shape (sites, d).
            corrections: what joins each site's gradient at every step, shape (sites, d).

        Raises:
            FedwardError: training did not stay finite.
        """
        ...


EngineFactory: TypeAlias = Callable[[SealedManifest, Mapping[str, Encoded], Sequence[int]], Engine]
"""Makes the engine of a study from its training patients and what its draws are keyed by, whole numbers of at least 0."""


class SiteLoop:
    """Each site by `client.training.train`, the code that a node runs."""

    def __init__(self, sealed: SealedManifest, training: Mapping[str, Encoded], draws: Mapping[str, Draws]) -> None:
        """Arguments as `SiteStack`; any model, any number of rows a patient.

        Raises:
            InputError: patients or draws do not fit the roster.
        """
        sites = roster_of(sealed, training, draws)
        self._sealed = sealed
        self._sites = [(site_terms(sealed, site), training[site], draws[site]) for site in sites]

    def updates(self, base: Vector, corrections: Vector | None = None) -> NDArray[np.float32]:
        """As `Engine.updates`."""
        found = []
        bases = np.broadcast_to(base, (len(self._sites), base.shape[-1]))
        initial = build(self._sealed.manifest)
        for place, (terms, data, draws) in enumerate(self._sites):
            # A new model each time, as a node builds one for each request: Opacus's hooks must not pile up on one.
            model = deepcopy(initial)
            load_vector(model, bases[place])
            correction = None if corrections is None else corrections[place]
            found.append(train(model, data, terms, draws, correction))
        return np.stack(found)


class SharedSum:
    """All sites of a study with shared noise: no site has an update of its own, a round is one sum in the ring."""

    def __init__(self, sealed: SealedManifest, training: Mapping[str, Encoded], draws: Mapping[str, Draws]) -> None:
        """Arguments and errors as `SiteLoop`."""
        self._sealed, self._sites = sealed, roster_of(sealed, training, draws)
        self._training, self._draws = training, draws

    def delta(self, base: Vector) -> NDArray[np.float64]:
        """Δ of a round from a base model, shape (d,): the ring's own sum, without masks, which cancel."""
        terms = secure_terms(self._sealed, len(self._sites), dimension=len(base), train=True, evaluate=False)
        if terms.noise is None:
            raise InputError("the study's noise is not shared")
        total = np.zeros(len(base), dtype=terms.ring.dtype)
        for site in self._sites:
            model = build(self._sealed.manifest)
            load_vector(model, base)
            summed = unnoised_sum(model, self._training[site], terms.noise.clipping_norm)
            vector, _ = terms.encode(site, summed.noised(terms.noise, self._draws[site]), None, os.urandom)
            total += vector
        delta, _ = terms.decode(terms.ring.open_sum(total, len(self._sites)), self._sites)
        if delta is None:
            raise InputError("a round that trains has an update")
        return delta


def engine(
    name: EngineName, sealed: SealedManifest, training: Mapping[str, Encoded], draws: Mapping[str, Draws]
) -> Engine | SharedSum:
    """The engine of that name; "stacked" is the loop where stacking cannot be or is slower, and shared noise has its own.

    Arguments and errors as `SiteLoop`; and InputError for "flower", whose processes are started by `flower.engine`.
    """
    if name == "flower":
        raise InputError(
            "Flower's simulation is not started by its name", remedy="use fedward simulate --engine flower"
        )
    if sealed.manifest.privacy.noise == "shared":
        return SharedSum(sealed, training, draws)
    if name == "stacked" and stackable(sealed, training):
        return SiteStack(sealed, training, draws)
    if name == "stacked" and worth_it(sealed, training):
        return SiteVmap(sealed, training, draws)
    return SiteLoop(sealed, training, draws)
