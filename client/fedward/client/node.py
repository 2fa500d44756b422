"""The hospital's node: a signed request in, a signed reply out. It runs only what the hospital installed.

For every request, in this order, and each may refuse:
    1. the coordinator's signature, by the key of the kit;
    2. a person's approval of that very study digest, not expired;
    3. the hospital's policy, read afresh;
    4. the terms: they come from the approved manifest, never from the request;
    5. the ledger is charged, durably, before any patient's row is read;
    6. training, and the update leaves.
A refusal leaves as a code and a reference. Every text stays in the site's own log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedward.client import approvals, datasets
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.policy import load_policy, objections
from fedward.client.split import held_out
from fedward.privacy.accounting import DpEvent
from fedward.privacy.canonical import digest
from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError, InputError, RefusalError
from fedward.privacy.ledger import Charge
from fedward.privacy.signing import from_text
from fedward.study import messages
from fedward.study.encoding import Encoded
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.messages import Declare, Declared, Offer, Refusal, Reply, Result, Standing, Work
from fedward.study.metrics import histogram
from fedward.study.terms import evaluates, site_terms, study_event


@dataclass(frozen=True)
class _Cohort:
    """A study's data in memory, split; valid for one registration."""

    dataset: datasets.Dataset
    training: Encoded
    held_out: Encoded


class SiteNode:
    """Answers the coordinator's requests for one site. One request at a time; kept data is per study."""

    def __init__(self, home: SiteHome, log: SiteLog, draws: Draws, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._log = log
        self._draws = draws
        self._clock = clock
        self._identity = home.identity()
        self._kit = home.kit()
        self._ledger = home.ledger()
        self._cohorts: dict[str, _Cohort] = {}

    def __call__(self, data: bytes) -> bytes:
        """The reply to a request's bytes. Never raises: whatever goes wrong becomes a refusal with a reference."""
        name = digest(data)
        try:
            request, body = messages.open_request(data, self._kit.coordinator_key)
            reply, reply_body = self._answer(request, body, name)
        except FedwardError as error:
            reply, reply_body = self._refuse(error, error.code, name), b""
        except Exception as error:  # noqa: BLE001  # a bug must not take the node down, nor its text leave
            reply, reply_body = self._refuse(error, "internal-error", name), b""
        return messages.pack(reply, reply_body, self._identity)

    def _refuse(self, error: Exception, code: str, request: str) -> Refusal:
        reference = self._log.error(error, code=code)
        return Refusal(site=self._kit.site, request=request, code=code, reference=reference)

    def _answer(self, request: messages.Request, body: bytes, name: str) -> tuple[Reply, bytes]:
        if isinstance(request, Declare):
            return self._declare(request, name), b""
        if isinstance(request, Offer):
            return self._consider(request, body, name), b""
        return self._work(request, body, name)

    def _declare(self, request: Declare, name: str) -> Declared:
        if not load_policy(self._home.policy_file).share_cohort_size:
            raise RefusalError("the policy does not share the cohort's size", code="policy-cohort-size")
        dataset = datasets.find(self._home, request.study_id)
        self._log.write("declared", study=request.study_id, patients=dataset.declared_patients)
        return Declared(
            site=self._kit.site, request=name, study_id=request.study_id, patients=dataset.declared_patients
        )

    def _consider(self, request: Offer, body: bytes, name: str) -> Standing:
        sealed = approvals.receive(self._home, body, from_text(request.signature, "the manifest's signature"))
        decision = approvals.decision_on(self._home, sealed.digest)
        state: approvals.State = "pending" if decision is None else decision.state
        self._log.write("offered", sealed.manifest.study.title, study=sealed.digest, state=state)
        at = int(self._clock()) if decision is None else decision.at
        return Standing(site=self._kit.site, request=name, study=sealed.digest, state=state, at=at)

    def _work(self, request: Work, body: bytes, name: str) -> tuple[Result, bytes]:
        # torch and Opacus take seconds to import; a site that only reviews a study need not wait for them.
        from fedward.study import models  # noqa: PLC0415

        sealed = self._admit(request)
        model = models.build(sealed.manifest)
        if request.dimension != models.dimension(model):
            raise InputError("the parameters do not fit the study's model", code="wrong-shape")
        base = messages.floats_from_bytes(body, request.dimension, "the base model")
        if models.vector_digest(base) != request.base:
            raise InputError("the base model is not the one that the request names", code="wrong-base")
        self._charge(sealed, request)
        cohort = self._cohort(sealed)
        began = time.perf_counter()
        models.load_vector(model, base)
        counts = b""
        if request.evaluate:
            unseen = cohort.held_out
            scores = models.scores(model, unseen.inputs)
            bins = sealed.manifest.evaluation.bins
            counts = messages.counts_to_bytes(histogram(scores, unseen.outcomes, unseen.membership, bins))
        update = self._train(sealed, model, cohort) if request.train else b""
        train_ms = round(1000 * (time.perf_counter() - began), 1)
        result = Result(
            site=self._kit.site,
            request=name,
            study=request.study,
            round=request.round,
            attempt=request.attempt,
            base=request.base,
            update_values=len(update) // 4,
            histogram_values=len(counts) // 8,
        )
        self._log.write(
            "worked",
            study=request.study,
            round=request.round,
            attempt=request.attempt,
            trained=int(request.train),
            evaluated=int(request.evaluate),
            train_ms=train_ms,
        )
        return result, update + counts

    def _admit(self, request: Work) -> SealedManifest:
        sealed = approvals.require_approved(self._home, request.study)
        if self._clock() >= sealed.expires_at:
            raise RefusalError("the study has expired", remedy="ask for a new proposal", code="expired")
        self._planned(sealed.manifest, request)
        dataset = datasets.find(self._home, sealed.manifest.study.id)
        found = objections(load_policy(self._home.policy_file), sealed, dataset.patients)
        if found:
            raise RefusalError("; ".join(o.text for o in found), code=found[0].code)
        return sealed

    @staticmethod
    def _planned(manifest: Manifest, request: Work) -> None:
        """Refuse a round, or an evaluation, that the approved manifest does not plan."""
        last = manifest.training.rounds + (0 if request.train else 1)
        if request.round > last:
            raise RefusalError(
                f"round {request.round} is not in the study", expected=f"at most {last}", code="unknown-round"
            )
        trains = request.round <= manifest.training.rounds
        if request.train != trains or (request.evaluate and not evaluates(manifest, request.round)):
            raise RefusalError(f"the study plans no such work in round {request.round}", code="unplanned-work")

    def _charge(self, sealed: SealedManifest, request: Work) -> None:
        """Charge what the request would release. Counts of held-out patients carry no noise yet: no ε covers them, so
        they are entered as unprotected, refused a second time for the same attempt, and limited to the plan."""
        terms, manifest = site_terms(sealed, self._kit.site), sealed.manifest
        training = "train" if terms.private else "train-without-dp"
        if request.train:
            self._enter(sealed, request, training, terms.event, manifest.planned_attempts, "attempts-used-up")
        if request.evaluate:
            self._enter(
                sealed, request, "evaluate-without-dp", None, manifest.planned_evaluations, "evaluations-used-up"
            )

    def _enter(
        self, sealed: SealedManifest, request: Work, purpose: str, event: DpEvent | None, most: int, code: str
    ) -> None:
        made = [e.charge for e in self._ledger.charges() if e.charge.study_digest == sealed.digest]
        if sum(charge.purpose == purpose for charge in made) >= most:
            raise RefusalError(f"the study's plan of {most} is used up", got=purpose, code=code)
        charge = Charge(
            study_digest=sealed.digest,
            study_id=sealed.manifest.study.id,
            round=request.round,
            attempt=request.attempt,
            event=event,
            purpose=purpose,
        )
        receipt = self._ledger.charge(charge, at=int(self._clock()))
        self._log.write("charged", purpose, study=sealed.digest, round=request.round, epsilon=receipt.epsilon_after)

    def _cohort(self, sealed: SealedManifest) -> _Cohort:
        dataset = datasets.find(self._home, sealed.manifest.study.id)
        kept = self._cohorts.get(sealed.digest)
        if kept is not None and kept.dataset == dataset:
            return kept
        data = datasets.load(dataset, sealed.manifest)
        mask = held_out(data.patients, sealed.manifest.training.holdout, self._home.patient_key())
        cohort = _Cohort(dataset, data.select(~mask), data.select(mask))
        self._cohorts[sealed.digest] = cohort
        return cohort

    def _train(self, sealed: SealedManifest, model: object, cohort: _Cohort) -> bytes:
        from fedward.client.training import train  # noqa: PLC0415

        update = train(model, cohort.training, site_terms(sealed, self._kit.site), self._draws)  # type: ignore[arg-type]
        return messages.floats_to_bytes(np.asarray(update, dtype=np.float32))


def cost(home: SiteHome, sealed: SealedManifest) -> tuple[float, float]:
    """(ε spent at this hospital so far, ε once all of the study's planned attempts are charged), at the ledger's δ."""
    ledger = home.ledger()
    made = [
        e.charge for e in ledger.charges() if e.charge.study_digest == sealed.digest and e.charge.purpose == "train"
    ]
    event = study_event(sealed, len(made))
    return ledger.spent(), ledger.would_cost([event] if event is not None else [])
