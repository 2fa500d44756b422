"""What a study needs on one machine: splits, a sealed manifest, seeded draws; and what to hold it against: each hospital alone,
and the pool that privacy forbids.

The manifest is sealed with placeholder keys, since nobody has to be convinced. The baselines train the study's own model on the
same encoding, so that a difference comes from who saw which patients.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedward.client.alone import PENALTY, local_only
from fedward.client.datasets import declared
from fedward.client.split import held_out
from fedward.privacy.errors import InputError
from fedward.study.encoding import Encoded
from fedward.study.evaluation import count_deviation
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest, explain
from fedward.study.metrics import exact_auroc
from fedward.study.models import build, load_vector, scores
from fedward.study.schedule import least_noise
from fedward.study.vectors import Vector


class UnsafeSeededDraws:
    """Draws that a seed repeats: for simulations only, where the patients are public or made up.

    Unsafe, because whoever knows or finds the seed computes the noise and subtracts it, and PCG64 can be reconstructed
    from its outputs: there is then no privacy at all, whatever ε the accounting shows. It lives in `simulations`, which
    no module of a node imports, so that a node cannot load it.
    """

    def __init__(self, *seed: int) -> None:
        """Whole numbers of at least 0; each sequence of them gives a stream of its own."""
        self._generator = np.random.default_rng(seed)

    def uniform(self, n: int) -> NDArray[np.float64]:
        """Uniforms, shape (n,), in (0, 1) up to a chance of 2^-53 for the 0."""
        return self._generator.random(n)

    def gaussian(self, shape: int | tuple[int, ...], sigma: float) -> NDArray[np.float64]:
        """N(0, sigma²) of the given shape.

        Raises:
            InputError: `sigma` is no finite positive number.
        """
        if not (np.isfinite(sigma) and sigma > 0):
            raise InputError("the noise has no scale", expected="a finite sigma above 0", got=repr(sigma))
        return np.asarray(self._generator.normal(0.0, sigma, shape), dtype=np.float64)

    def bernoulli(self, n: int, q: float) -> NDArray[np.bool_]:
        """One Poisson sample of n patients at rate q, shape (n,)."""
        return self.uniform(n) < q

    def discrete_gaussian(self, n: int, deviation: float) -> NDArray[np.int64]:
        """N_Z(0, deviation²), shape (n,), by rejection (Canonne, Kamath & Steinke 2020, algorithm 3, in floating point).

        Raises:
            InputError: `deviation` is no finite positive number.
        """
        if not (np.isfinite(deviation) and deviation > 0):
            raise InputError("the noise has no scale", expected="a finite deviation above 0", got=repr(deviation))
        scale = math.floor(deviation) + 1
        found = np.zeros(0, dtype=np.int64)
        while len(found) < n:
            # A discrete Laplace is the difference of two geometric draws.
            tries = self._generator.geometric(-math.expm1(-1 / scale), (2, 2 * (n - len(found)) + 16))
            laplace = (tries[0] - tries[1]).astype(np.int64)
            bias = (np.abs(laplace) - deviation**2 / scale) ** 2 / (2 * deviation**2)
            found = np.concatenate([found, laplace[self.uniform(len(laplace)) < np.exp(-bias)]])
        return found[:n]


@dataclass(frozen=True)
class Split:
    """A hospital's patients: those who train and those who never do."""

    training: Encoded
    held_out: Encoded


def split(data: Encoded, share: float, key: bytes) -> Split:
    """Split as a node does, by a keyed hash of the patient: `key` has 32 bytes and stands for the hospital's own.

    Raises:
        InputError: the key has another length.
    """
    mask = held_out(data.patients, share, key)
    return Split(data.select(~mask), data.select(mask))


def pool(parts: Iterable[Encoded]) -> Encoded:
    """Several hospitals' patients as one table, in the order given. Their identifiers get the hospital's number before
    them: the same one at two hospitals is two patients.

    Raises:
        InputError: there is none.
    """
    tables = list(parts)
    if not tables:
        raise InputError("there is nothing to pool", expected="at least one hospital's patients")
    return Encoded(
        patients=tuple(f"{number}/{patient}" for number, table in enumerate(tables) for patient in table.patients),
        inputs=np.concatenate([table.inputs for table in tables]),
        outcomes=np.concatenate([table.outcomes for table in tables]),
        membership=np.concatenate([table.membership for table in tables]),
    )


def rehearse(
    manifest: Manifest, patients: Mapping[str, int], *, noise_multiplier: float | None = None
) -> SealedManifest:
    """The manifest sealed for a simulation: σ calibrated as at hospitals that have spent nothing yet, cohorts rounded as in a
    real study, keys placeholders.

    Args:
        manifest: the study.
        patients: each hospital's number of patients, held-out ones included, as it would register them.
        noise_multiplier: σ, where it is known already; else it is calibrated.

    Raises:
        InputError: the roster does not fit the study.
        RefusalError: no noise multiplier in reach keeps the manifest's promise.
    """
    sigma = least_noise(manifest) if noise_multiplier is None else noise_multiplier
    try:
        roster = tuple(
            RosterEntry(
                site=site,
                # Nobody holds the private half of a hash: nothing can ever be signed in this roster's name.
                identity_key=_placeholder(site),
                declared_patients=declared(patients[site]),
                noise_multiplier=sigma,
            )
            for site in sorted(patients)
        )
        return SealedManifest(
            manifest=manifest,
            federation_id="0" * 32,
            coordinator_key=_placeholder("coordinator"),
            roster=roster,
            count_deviation=count_deviation(manifest),
            sealed_at=0,
            expires_at=1,
        )
    except ValidationError as error:
        raise InputError(
            "these hospitals do not fit the study",
            got=explain(error),
            remedy="plan for at least as many hospitals as the quorum, each with a name of lower-case letters, digits, - and _",
        ) from None


def _placeholder(name: str) -> str:
    return hashlib.sha256(b"fedward/simulation/" + name.encode()).hexdigest()


def pooled(manifest: Manifest, hospitals: Iterable[Encoded], penalty: float = PENALTY) -> Vector:
    """What all training patients together would give, which privacy forbids; arguments and errors as `local_only`."""
    return local_only(manifest, pool(hospitals), penalty)


def predict(manifest: Manifest, vector: Vector, data: Encoded) -> NDArray[np.float64]:
    """Predicted probabilities of a model's parameters, shape (n,).

    Raises:
        InputError: the parameters do not fit the study's model.
    """
    model = build(manifest)
    load_vector(model, vector)
    return scores(model, data.inputs)


def auroc(manifest: Manifest, vector: Vector, patients: Sequence[Encoded]) -> float:
    """AUROC of a model over several hospitals' patients taken together, on raw scores.

    Raises:
        InputError: they do not have both outcomes, or the parameters do not fit.
    """
    together = pool(patients)
    found = exact_auroc(predict(manifest, vector, together), together.outcomes)
    if found is None:
        raise InputError("AUROC needs patients of both outcomes", got=f"{len(together)} patients of at most one")
    return found.value
