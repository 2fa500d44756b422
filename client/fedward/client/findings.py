"""What a task computes at a hospital: an update, the counts of an evaluation, the answers of an exploration.

Called when the ledger has been charged; nothing here decides whether it may.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedward.client import datasets
from fedward.client.exclusions import listed
from fedward.client.exploring import answer, check_request
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.own_metrics import OwnMetrics
from fedward.client.policy import load_policy
from fedward.client.split import held_out
from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError, InputError
from fedward.privacy.secagg.faults import COORDINATOR, ProtocolError
from fedward.study import messages
from fedward.study.eligibility import Tally, tally
from fedward.study.encoding import Encoded
from fedward.study.exploration import SealedExploration
from fedward.study.kinds import AnySealed
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Task
from fedward.study.metrics import Counts
from fedward.study.shared import shared_noise
from fedward.study.terms import site_terms
from fedward.study.vectors import vector_digest
from fedward.study.votes import with_votes

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class _Cohort:
    """A study's data in memory, split; valid for one registration."""

    dataset: datasets.Dataset
    excluded: frozenset[bytes]
    training: Encoded
    held_out: Encoded
    tally: Tally


@dataclass(frozen=True)
class Findings:
    """What a task found: update, shape (d,), and histogram; each None when it was not asked for. An update of integers is a sum
    with shared noise, for the ring alone."""

    update: NDArray[np.float32] | NDArray[np.int64] | None
    counts: Counts | None


class Finder:
    """Computes for one home, and keeps the data of studies in memory while their registration stands."""

    def __init__(self, home: SiteHome, site: str, log: SiteLog, draws: Draws) -> None:
        self._home = home
        self._site = site
        self._log = log
        self._draws = draws
        self._own_metrics = OwnMetrics(home)
        self._cohorts: dict[str, _Cohort] = {}

    def tally(self, sealed: SealedManifest) -> Tally:
        """The counts of a study's patients, without who opted out by now; errors as `datasets.load`."""
        return self._cohort(sealed).tally

    def find(self, sealed: AnySealed, request: Task, base: NDArray[np.float32]) -> Findings:
        """Answer the queries, or evaluate the base model and train from it, as asked. The ledger has been charged."""
        if isinstance(sealed, SealedExploration):
            answers = answer(self._home, sealed, self._draws)
            self._log.write(
                "answered", study=request.study, attempt=request.attempt, queries=len(sealed.manifest.queries)
            )
            return Findings(None, answers)
        from fedward.client.evaluation import held_out_counts, noised  # noqa: PLC0415
        from fedward.study import models  # noqa: PLC0415

        cohort = self._cohort(sealed)
        began = time.perf_counter()
        model = models.build(sealed.manifest)
        models.load_vector(model, base)
        counts = update = None
        if request.evaluate:
            exact = held_out_counts(model, cohort.held_out, sealed.manifest)
            self._keep_metrics(sealed, request.round, exact)
            counts = noised(self._with_votes(sealed, model, cohort.held_out, exact), sealed, self._draws)
        if request.train:
            update = self._train(sealed, request, model, cohort.training)
        self._log.write(
            "worked",
            study=request.study,
            round=request.round,
            attempt=request.attempt,
            trained=int(request.train),
            evaluated=int(request.evaluate),
            train_ms=round(1000 * (time.perf_counter() - began), 1),
        )
        return Findings(update, counts)

    def _train(
        self, sealed: SealedManifest, request: Task, model: nn.Module, patients: Encoded
    ) -> NDArray[np.float32] | NDArray[np.int64]:
        """The update with its noise, in reals; or, where noise is shared, the noised integers of the clipped sum."""
        from fedward.client.training import train, unnoised_sum  # noqa: PLC0415

        noise = shared_noise(sealed, request.dimension)
        if noise is not None:
            return unnoised_sum(model, patients, noise.clipping_norm).noised(noise, self._draws)
        return np.asarray(train(model, patients, site_terms(sealed, self._site), self._draws), dtype=np.float32)

    def _with_votes(self, sealed: SealedManifest, model: nn.Module, held_out: Encoded, exact: Counts) -> Counts:
        """The counts with what the held-out patients vote for, where the study asks; with zeros where the policy does not allow."""
        from fedward.client.evaluation import held_out_votes, no_votes  # noqa: PLC0415

        manifest = sealed.manifest
        if not manifest.evaluation.influence:
            return exact
        allowed = load_policy(self._home.policy_file).share_influence
        return with_votes(
            exact, held_out_votes(model, held_out, manifest, self._draws) if allowed else no_votes(manifest)
        )

    def _keep_metrics(self, sealed: SealedManifest, round_: int, counts: Counts) -> None:
        try:
            self._own_metrics.keep(sealed, round_, counts)
        except (FedwardError, OSError) as error:  # the study goes on; its own people miss a table
            self._log.error(error, code="metrics-not-kept")

    def _cohort(self, sealed: SealedManifest) -> _Cohort:
        dataset = datasets.find(self._home, sealed.manifest.study.id)
        excluded = listed(self._home).held(dataset.exclusion_changes)
        kept = self._cohorts.get(sealed.digest)
        if kept is not None and (kept.dataset, kept.excluded) == (dataset, excluded):
            return kept
        data = datasets.load(self._home, dataset, sealed.manifest)
        mask = held_out(data.patients, sealed.manifest.training.holdout, self._home.patient_key())
        counts = tally(data, sealed.manifest)
        cohort = _Cohort(dataset, excluded, data.select(~mask), data.select(mask), counts)
        self._cohorts[sealed.digest] = cohort
        return cohort


def base_model(sealed: AnySealed, request: Task, body: bytes) -> NDArray[np.float32]:
    """The base model, shape (d,); an exploration has none.

    Raises:
        ProtocolError: it is not of the study, or not the one that the request names.
    """
    if isinstance(sealed, SealedExploration):
        try:
            check_request(sealed, request, body)
        except InputError as error:
            raise no_honest_request(error.what, error.code) from None
        return np.zeros(0, dtype=np.float32)
    # torch and Opacus take seconds to import; a site that only reviews a study need not wait for them.
    from fedward.study import models  # noqa: PLC0415

    try:
        if request.dimension != models.dimension(models.build(sealed.manifest)):
            raise InputError("the parameters do not fit the study's model", code="wrong-shape")
        base = messages.floats_from_bytes(body, request.dimension, "the base model")
    except InputError as error:
        raise no_honest_request(error.what, error.code) from None
    if vector_digest(base) != request.base:
        raise no_honest_request("the base model is not the one that the request names", "wrong-base")
    start = sealed.manifest.model.start
    if request.round == 1 and start not in {None, request.base}:
        raise no_honest_request("the first round starts from another model than the study says", "wrong-base")
    return base


def no_honest_request(what: str, code: str) -> ProtocolError:
    """The error for what no honest coordinator sends."""
    return ProtocolError(what, code=code, blamed=COORDINATOR)
