"""A study's rounds in one process: the coordinator's admission, sum and server step, over the sites of an engine.

Every site of the roster contributes to every round, in roster order, as in a federation in which nothing fails; an update that is
not admitted is left out, and a round needs its quorum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError, InputError
from fedward.server.admission import Limits, check_update
from fedward.server.aggregation import OptimiserState, step
from fedward.server.robust import aggregate
from fedward.simulations.adversaries import factors
from fedward.simulations.algorithms import ControlVariates, fair_step
from fedward.simulations.engines import Engine, SharedSum, engine
from fedward.simulations.losses import SiteLosses
from fedward.simulations.options import Adversary
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.models import build, to_vector
from fedward.study.terms import most_update, training_cohort
from fedward.study.vectors import Vector


@dataclass(frozen=True)
class Models:
    """Where a study stands.

    Attributes:
        shared: the server's model, shape (d,) float32.
        own: each site's own, in roster order, shape (s, d); None where all have the shared one.
        refused: the sites whose last update was not admitted.
    """

    shared: Vector
    own: Vector | None = None
    refused: tuple[str, ...] = ()


def rounds(sealed: SealedManifest, training: Mapping[str, Encoded], draws: Draws) -> Iterator[Vector]:
    """The model before the first round and after each, shape (d,) float32, trained site by site: `rounds + 1` of them.

    Args:
        sealed: the study, from `baselines.rehearse` or a coordinator.
        training: each roster site's training patients.
        draws: where noise and Poisson samples come from.

    Raises:
        InputError: a site of the roster has no patients here, or another site has.
        FedwardError: training did not stay finite.
    """
    each = {entry.site: draws for entry in sealed.roster}
    return engine_rounds(sealed, training, engine("loop", sealed, training, each))


def federate(sealed: SealedManifest, training: Mapping[str, Encoded], draws: Draws) -> Vector:
    """The study's last model, shape (d,) float32; arguments and errors as `rounds`."""
    *_, last = rounds(sealed, training, draws)
    return last


def engine_rounds(
    sealed: SealedManifest, training: Mapping[str, Encoded], sites: Engine | SharedSum
) -> Iterator[Vector]:
    """The same, with the sites' updates computed by an engine."""
    return (found.shared for found in models(sealed, training, sites))


def models(
    sealed: SealedManifest,
    training: Mapping[str, Encoded],
    sites: Engine | SharedSum,
    adversaries: Sequence[Adversary] = (),
) -> Iterator[Models]:
    """Where a study stands before its first round and after each: `rounds + 1` of them.

    Args:
        sealed: the study.
        training: each roster site's training patients.
        sites: what trains them.
        adversaries: whose updates are changed on the way; what they do to their patients is done before.

    Raises:
        InputError: the study keeps parameters that its model does not have, or what adversaries send has shared noise.
        FedwardError: training did not stay finite, or fewer updates than the quorum were admitted.
    """
    manifest = sealed.manifest
    if manifest.model.start is not None:
        raise InputError(
            "a simulation does not have the model that this study starts from",
            remedy="leave out model.start to simulate it",
        )
    kept = kept_parameters(manifest)
    shared = to_vector(build(manifest))
    server = _Server(sealed, training, sites, adversaries, len(kept))
    own = np.tile(shared, (len(sealed.roster), 1)) if kept.any() else None
    yield Models(shared, own)
    for _ in range(manifest.training.rounds):
        if isinstance(sites, SharedSum):
            shared = server.step(shared, sites.delta(shared))
        elif own is None:
            shared = server.step(shared, server.delta(shared, server.updates(shared)))
        else:
            base = np.where(kept, own, shared)
            updates = server.updates(base)
            shared = server.step(shared, server.delta(shared, np.where(kept, np.float32(0), updates)))
            own = np.where(kept, base + updates, shared)
        yield Models(shared, own, server.refused)


def kept_parameters(manifest: Manifest) -> NDArray[np.bool_]:
    """Which parameters each site keeps for itself (FedBN: Li et al. 2021; FedPer: Arivazhagan et al. 2019), shape (d,).

    Raises:
        InputError: no parameter's name begins so, or nothing would be left to share.
    """
    named = [(name, parameter.numel()) for name, parameter in build(manifest).named_parameters()]
    for prefix in manifest.training.kept:
        if not any(name.startswith(prefix) for name, _ in named):
            raise InputError(
                f'training.kept: no parameter\'s name begins with "{prefix}"',
                expected=", ".join(name for name, _ in named),
            )
    mask = [np.full(size, name.startswith(manifest.training.kept or ("\0",))) for name, size in named]
    found = np.concatenate(mask)
    if found.all():
        raise InputError("training.kept leaves nothing to share", remedy="train the hospitals alone")
    return found


class _Server:
    """The coordinator's part of a study, and what the algorithm remembers."""

    def __init__(
        self,
        sealed: SealedManifest,
        training: Mapping[str, Encoded],
        sites: Engine | SharedSum,
        adversaries: Sequence[Adversary],
        dimension: int,
    ) -> None:
        self._sealed, self._engine = sealed, sites
        self._sites = [entry.site for entry in sealed.roster]
        self._factors = factors(self._sites, adversaries)
        self._weights = np.array([training_cohort(sealed, site) for site in self._sites])
        most = [most_update(sealed, site, dimension) for site in self._sites]
        if (
            sealed.manifest.training.algorithm == "scaffold"
        ):  # c − cᵢ of K steps: the site's own once more, and all sites' mean
            most = [2 * own + max(most) for own in most]
        self._limits = [Limits((), 0, norm) for norm in most]
        self._state = OptimiserState.zeros(dimension)
        chosen = sealed.manifest.training
        shares = self._weights / self._weights.sum()
        self._control = (
            ControlVariates(shares, dimension, chosen.local_steps, chosen.local_learning_rate)
            if chosen.algorithm == "scaffold"
            else None
        )
        self._losses = SiteLosses(sealed.manifest, [training[site] for site in self._sites]) if chosen.q else None
        self.refused: tuple[str, ...] = ()
        if isinstance(sites, SharedSum) and self._factors is not None:
            raise InputError("adversaries that change updates need noise of each site's own, not shared noise")

    def updates(self, base: Vector) -> Vector:
        """What the sites' training makes of a model, or of their own, shape (s, d)."""
        if isinstance(self._engine, SharedSum):
            raise InputError("with shared noise no site has an update of its own")
        return self._engine.updates(base, None if self._control is None else self._control.corrections())

    def delta(self, shared: Vector, updates: Vector) -> NDArray[np.float64]:
        """Δ, shape (d,), from what the sites' training made: adversaries multiply it before they send it."""
        chosen = self._sealed.manifest.training
        updates = updates if self._factors is None else updates * self._factors
        admitted = self._admitted(updates)
        if self._control is not None:
            self._control.learn(updates, admitted)
        taken, weights = updates[admitted], self._weights[admitted]
        if self._losses is not None:
            losses = self._losses.at(shared)[admitted]
            return fair_step(taken, losses, weights / weights.sum(), chosen.q, chosen.local_learning_rate)
        return aggregate(list(taken), list(weights), chosen)

    def step(self, shared: Vector, delta: NDArray[np.float64]) -> Vector:
        """The next shared model."""
        vector, self._state = step(shared, delta, self._state, self._sealed.manifest.training)
        return vector

    def _admitted(self, updates: Vector) -> NDArray[np.bool_]:
        """Which updates the coordinator would take: all of them where secure aggregation hides each.

        Raises:
            FedwardError: fewer than the quorum.
        """
        found = np.ones(len(updates), dtype=np.bool_)
        if self._sealed.manifest.privacy.secure_aggregation:
            return found
        for place, limits in enumerate(self._limits):
            try:
                check_update(updates[place], limits)
            except InputError:
                found[place] = False
        self.refused = tuple(site for site, taken in zip(self._sites, found, strict=True) if not taken)
        if found.sum() < self._sealed.manifest.least_sites:
            raise FedwardError(
                "fewer updates were admitted than the study needs",
                expected=f"at least {self._sealed.manifest.least_sites}",
                got=f"{found.sum()}: {', '.join(self.refused[:10])} sent more than clipping and noise can make",
                code="quorum-missed",
            )
        return found
