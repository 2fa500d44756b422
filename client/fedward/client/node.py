"""The hospital's node: a signed request in, a signed reply out. It runs only what the hospital installed.

For every request, in this order, and each may refuse:
    1. the coordinator's signature, by the key of the kit;
    2. a person's approval of that very study digest, not expired;
    3. the hospital's policy, read afresh;
    4. the terms: they come from the approved manifest, never from the request;
    5. under secure aggregation: the place in the batch, and a slot of it, which is consumed;
    6. the ledger is charged, durably, before any patient's row is read;
    7. training, and the update leaves: masked under secure aggregation, else as it is.
A study under secure aggregation is never asked for an update that is not masked. A refusal leaves as a code and a reference, and
every text stays in the site's own log; a well-formed request that no honest coordinator sends is kept as evidence.
A request that comes again, byte by byte, gets the reply that it got: a reply that was lost costs neither round nor budget.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedward.client import approvals, budgets, datasets
from fedward.client.door import Asked, Released, release
from fedward.client.exploring import answer, check_request
from fedward.client.home import SiteHome
from fedward.client.incidents import Incidents
from fedward.client.log import SiteLog
from fedward.client.mapping import load_mapping
from fedward.client.own_metrics import OwnMetrics
from fedward.client.places import Places
from fedward.client.policy import Objection, exploring_objections, load_policy
from fedward.client.split import held_out
from fedward.client.witness import Witness
from fedward.privacy.canonical import digest
from fedward.privacy.draws import Draws
from fedward.privacy.errors import FedwardError, InputError, RefusalError
from fedward.privacy.events import Event
from fedward.privacy.ledger import Charge, Ledger
from fedward.privacy.secagg.contexts import RoundContext
from fedward.privacy.secagg.faults import COORDINATOR, ProtocolError
from fedward.privacy.secagg.site import SiteParty
from fedward.privacy.signing import from_text
from fedward.study import messages
from fedward.study.codes import INTERNAL_ERROR, leaving
from fedward.study.encoding import Encoded
from fedward.study.exploration import Exploration, SealedExploration
from fedward.study.kinds import AnyManifest, AnySealed, parse_draft
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.messages import (
    Advertise,
    Declare,
    Declared,
    Ended,
    Masked,
    Offer,
    Refusal,
    Reply,
    Result,
    Secured,
    Standing,
    Step,
    Task,
    Work,
)
from fedward.study.metrics import Counts
from fedward.study.schedule import attempt_events, most_charges
from fedward.study.secure import batch_of
from fedward.study.shared import shared_noise
from fedward.study.sums import sum_terms
from fedward.study.terms import evaluates, site_terms
from fedward.study.witness import sign_head

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class _Cohort:
    """A study's data in memory, split; valid for one registration."""

    dataset: datasets.Dataset
    training: Encoded
    held_out: Encoded


@dataclass(frozen=True)
class _Findings:
    """What a task found: update, shape (d,), and histogram; each None when it was not asked for. An update of integers is a sum
    with shared noise, for the ring alone."""

    update: NDArray[np.float32] | NDArray[np.int64] | None
    counts: Counts | None


class SiteNode:
    """Answers the coordinator's requests for one site. One request at a time; kept data is per study."""

    def __init__(self, home: SiteHome, log: SiteLog, draws: Draws, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._log = log
        self._draws = draws
        self._clock = clock
        self._identity = home.identity()
        self._kit = home.kit()
        self._ledger = Ledger.open(home.ledger_file)  # held against the countersigned head at each request
        self._witness = Witness(home, self._ledger)
        self._incidents = Incidents(home.incidents_folder)
        self._places = Places(home.opened_folder)
        self._own_metrics = OwnMetrics(home.metrics_folder)
        self._cohorts: dict[str, _Cohort] = {}
        self._replies: dict[str, tuple[str, Released]] = {}

    def __call__(self, data: bytes) -> Released:
        """The reply to a request's bytes. Never raises: whatever goes wrong becomes a refusal with a reference."""
        name = digest(data)
        for known, packed in self._replies.values():
            if known == name:
                return packed
        request: messages.Request | None = None
        try:
            request, body = messages.open_request(data, self._kit.coordinator_key)
            reply, reply_body = self._answer(request, body, name)
            reply = reply.model_copy(update={"head": sign_head(self._kit.site, self._ledger.head, self._identity)})
            packed = self._release(reply, reply_body, request, name)
        except Exception as error:  # noqa: BLE001  # a bug must not take the node down, nor its text leave
            reply, packed = self._refuse(error, request, data, name)
        self._remember(request, reply, name, packed)
        return packed

    def _release(self, reply: Reply, body: bytes, request: messages.Request | None, name: str) -> Released:
        asked = Asked(
            self._kit.site,
            name,
            request,
            study=lambda study: approvals.proposal(self._home, study),
            batch=lambda study, batch: self._places.find(study, batch).party.batch,
        )
        return release(reply, body, asked, self._identity)

    def _remember(self, request: messages.Request | None, reply: Reply, name: str, packed: Released) -> None:
        """Keep the last reply of each study; a refusal too, where the attempt's slot is used up by it."""
        if isinstance(reply, (Result, Secured)):
            self._replies[reply.study] = (name, packed)
        elif isinstance(request, Masked) and self._places.seen(request.study) == (request.round, request.attempt):
            self._replies[request.study] = (name, packed)

    def _refuse(
        self, error: Exception, request: messages.Request | None, data: bytes, name: str
    ) -> tuple[Refusal, Released]:
        """An error as it leaves: its code, if the code is on the list, whom it blames, and a reference."""
        raised = error.code if isinstance(error, FedwardError) else INTERNAL_ERROR
        code = leaving(raised)
        reference = self._log.error(error, code=code, raised=str(raised))
        refusal = Refusal(site=self._kit.site, request=name, code=code, reference=reference)
        if not isinstance(error, ProtocolError) or request is None:
            return refusal, self._release(refusal, b"", request, name)
        self._keep_evidence(error, request, data, reference)
        blaming = refusal.model_copy(update={"blames": error.blamed})
        try:
            return blaming, self._release(blaming, b"", request, name)
        except FedwardError as blame:  # who is blamed is nobody of this study: the name may be anything
            self._log.error(blame, code=code)
            return refusal, self._release(refusal, b"", request, name)

    def _keep_evidence(self, error: ProtocolError, request: messages.Request, data: bytes, reference: str) -> None:
        if not error.lie:
            return
        try:
            kept = self._incidents.record(
                reference=reference,
                at=int(self._clock()),
                code=error.code,
                what=error.text(),
                study=getattr(request, "study", ""),
                stage=request.kind,
                blamed=error.blamed,
                evidence=data,
            )
            self._log.write("incident", reference=reference, first=kept.reference, times=kept.times)
        except FedwardError as full:  # the lie is refused all the same, and stands in the log
            self._log.error(full, code="incident-not-recorded")

    def _answer(self, request: messages.Request, body: bytes, name: str) -> tuple[Reply, bytes]:
        brought = getattr(request, "witnessed", None)
        if brought is not None:
            self._witness.take(brought)
        self._witness.require()
        if isinstance(request, Declare):
            return self._declare(request, body, name), b""
        if isinstance(request, Offer):
            return self._consider(request, body, name), b""
        if isinstance(request, Ended):
            return self._end(request, name), b""
        if isinstance(request, Work):
            return self._work(request, body, name)
        if isinstance(request, Masked):
            message = self._masked(request, body)
        elif isinstance(request, Advertise):
            message = self._advertise(request)
        else:
            message = self._step(request, body)
        return Secured(site=self._kit.site, request=name, study=request.study, batch=request.batch), message

    def _declare(self, request: Declare, body: bytes, name: str) -> Declared:
        policy = load_policy(self._home.policy_file)
        if not policy.share_cohort_size:
            raise RefusalError("the policy does not share the cohort's size", code="policy-cohort-size")
        manifest = self._draft(request, body)
        dataset = datasets.find(self._home, request.study_id)
        if isinstance(manifest, Exploration):
            _refuse_for(exploring_objections(policy, manifest, load_mapping(Path(dataset.mapping)).origin))
        delta = manifest.privacy.delta
        if delta is not None and not delta * dataset.declared_patients < 1:  # the rounded count: it tells no more of N
            raise RefusalError("the study's δ is not below 1/N", got=f"{delta:g}", code="policy-delta")
        noise = budgets.calibrated(self._ledger, manifest, at=int(self._clock()))
        self._log.write("declared", study=request.study_id, patients=dataset.declared_patients, noise=noise)
        return Declared(
            site=self._kit.site,
            request=name,
            study_id=request.study_id,
            patients=dataset.declared_patients,
            noise_multiplier=noise,
        )

    @staticmethod
    def _draft(request: Declare, body: bytes) -> AnyManifest:
        try:
            manifest = parse_draft(body)
        except InputError as error:
            raise _no_honest_request(error.what, "malformed") from None
        if manifest.study.id != request.study_id:
            raise _no_honest_request("the drafted study has another name than the request", "malformed")
        return manifest

    def _consider(self, request: Offer, body: bytes, name: str) -> Standing:
        sealed = approvals.receive(self._home, body, from_text(request.signature, "the manifest's signature"))
        decision = approvals.decision_on(self._home, sealed.digest)
        state: approvals.State = "pending" if decision is None else decision.state
        if state == "approved" and budgets.stopped_before(self._ledger, sealed.digest):
            dataset = datasets.find(self._home, sealed.manifest.study.id)
            budgets.reserve(self._home, sealed, dataset.cohort, at=int(self._clock()))
        self._log.write("offered", sealed.manifest.study.title, study=sealed.digest, state=state)
        at = int(self._clock()) if decision is None else decision.at
        return Standing(site=self._kit.site, request=name, study=sealed.digest, state=state, at=at)

    def _end(self, request: Ended, name: str) -> Standing:
        """Give free what an ended study did not charge; a stopped one is held again when its coordinator continues it."""
        at = int(self._clock())
        self._ledger.release(request.study, request.reason, at=at)
        decision = approvals.decision_on(self._home, request.study)
        state: approvals.State = "pending" if decision is None else decision.state
        self._log.write("ended", request.reason, study=request.study)
        return Standing(site=self._kit.site, request=name, study=request.study, state=state, at=at)

    def _work(self, request: Work, body: bytes, name: str) -> tuple[Result, bytes]:
        sealed = self._admit(request)
        base = self._base(sealed, request, body)
        self._charge(sealed, request)
        found = self._find(sealed, request, base)
        if found.update is not None and found.update.dtype != np.float32:
            raise InputError("a sum with shared noise leaves in the ring alone", code="not-masked")
        update = b"" if found.update is None else messages.floats_to_bytes(found.update)  # type: ignore[arg-type]
        counts = b"" if found.counts is None else messages.counts_to_bytes(found.counts)
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
        return result, update + counts

    def _advertise(self, request: Advertise) -> bytes:
        sealed = self._approved(request.study)
        if not sealed.manifest.privacy.secure_aggregation:
            raise RefusalError("the study does not use secure aggregation", code="not-secure")
        batch = batch_of(sealed, request.batch, request.cohort, request.threshold, request.slots)
        seen = max(self._places.seen(sealed.digest), self._charged(sealed.digest))
        party = SiteParty(batch, self._kit.site, self._identity, os.urandom, seen)
        message = party.advertise()
        self._places.enter(party)
        self._log.write("batch", ", ".join(batch.members), study=sealed.digest, threshold=batch.threshold)
        return message

    def _step(self, request: Step, body: bytes) -> bytes:
        approvals.require_approved(self._home, request.study)
        message = self._places.find(request.study, request.batch).step(request, body)
        self._log.write(request.kind, study=request.study, batch=request.batch)
        return message

    def _masked(self, request: Masked, body: bytes) -> bytes:
        sealed = self._admit(request)
        place = self._places.find(request.study, request.batch)
        base = self._base(sealed, request, body)
        terms = sum_terms(
            sealed,
            place.party.batch.size,
            dimension=request.dimension,
            train=request.train,
            evaluate=request.evaluate,
        )
        context = RoundContext(
            setup=bytes.fromhex(request.setup),
            slot=request.slot,
            round=request.round,
            attempt=request.attempt,
            base=bytes.fromhex(request.base),
            terms=terms.ring.digest,
        )
        asked = attempt_events(sealed, self._kit.site, train=request.train, evaluate=request.evaluate)
        place.take(context, unnoised=None in asked.values())
        self._charge(sealed, request)
        found = self._find(sealed, request, base)
        vector, clipped = terms.encode(self._kit.site, found.update, found.counts, os.urandom)
        if clipped:
            self._log.write("clipped", "the update was longer than the study's bound", study=request.study)
        return place.party.mask(vector, terms.ring)

    def _charged(self, study: str) -> tuple[int, int]:
        """The highest (round, attempt) that the ledger was ever charged for in a study."""
        made = [entry.charge for entry in self._ledger.charges() if entry.charge.study_digest == study]
        return max(((charge.round, charge.attempt) for charge in made), default=(0, 0))

    def _base(self, sealed: AnySealed, request: Task, body: bytes) -> NDArray[np.float32]:
        """The base model, shape (d,); an exploration has none."""
        if isinstance(sealed, SealedExploration):
            try:
                check_request(sealed, request, body)
            except InputError as error:
                raise _no_honest_request(error.what, error.code) from None
            return np.zeros(0, dtype=np.float32)
        # torch and Opacus take seconds to import; a site that only reviews a study need not wait for them.
        from fedward.study import models  # noqa: PLC0415

        try:
            if request.dimension != models.dimension(models.build(sealed.manifest)):
                raise InputError("the parameters do not fit the study's model", code="wrong-shape")
            base = messages.floats_from_bytes(body, request.dimension, "the base model")
        except InputError as error:
            raise _no_honest_request(error.what, error.code) from None
        if models.vector_digest(base) != request.base:
            raise _no_honest_request("the base model is not the one that the request names", "wrong-base")
        return base

    def _find(self, sealed: AnySealed, request: Task, base: NDArray[np.float32]) -> _Findings:
        """Answer the queries, or evaluate the base model and train from it, as asked. The ledger has been charged."""
        if isinstance(sealed, SealedExploration):
            answers = answer(self._home, sealed, self._draws)
            self._log.write(
                "answered", study=request.study, attempt=request.attempt, queries=len(sealed.manifest.queries)
            )
            return _Findings(None, answers)
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
            counts = noised(exact, sealed, self._draws)
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
        return _Findings(update, counts)

    def _train(
        self, sealed: SealedManifest, request: Task, model: nn.Module, patients: Encoded
    ) -> NDArray[np.float32] | NDArray[np.int64]:
        """The update with its noise, in reals; or, where noise is shared, the noised integers of the clipped sum."""
        from fedward.client.training import train, unnoised_sum  # noqa: PLC0415

        noise = shared_noise(sealed, request.dimension)
        if noise is not None:
            return unnoised_sum(model, patients, noise.clipping_norm).noised(noise, self._draws)
        return np.asarray(train(model, patients, site_terms(sealed, self._kit.site), self._draws), dtype=np.float32)

    def _keep_metrics(self, sealed: SealedManifest, round_: int, counts: Counts) -> None:
        try:
            self._own_metrics.keep(sealed, round_, counts)
        except (FedwardError, OSError) as error:  # the study goes on; its own people miss a table
            self._log.error(error, code="metrics-not-kept")

    def _approved(self, study: str) -> AnySealed:
        """The approved study, if the policy, read afresh, has nothing against it."""
        sealed = approvals.require_approved(self._home, study)
        if self._clock() >= sealed.expires_at:
            raise RefusalError("the study has expired", remedy="ask for a new proposal", code="expired")
        dataset = datasets.find(self._home, sealed.manifest.study.id)
        if sealed.manifest.privacy.epsilon is not None:
            budgets.check_delta(self._ledger, dataset.patients)
        _refuse_for(approvals.objections_here(self._home, sealed, dataset))
        return sealed

    def _admit(self, request: Work | Masked) -> AnySealed:
        sealed = self._approved(request.study)
        if isinstance(sealed, SealedManifest):
            self._planned(sealed.manifest, request)
        if sealed.manifest.privacy.secure_aggregation and isinstance(request, Work):
            raise _no_honest_request("the coordinator asks for an update that is not masked", "not-masked")
        return sealed

    @staticmethod
    def _planned(manifest: Manifest, request: Task) -> None:
        """Refuse a round, or an evaluation, that the approved manifest does not plan."""
        last = manifest.training.rounds + (0 if request.train else 1)
        if request.round > last:
            raise _no_honest_request(f"round {request.round} is not in the study of {last}", "unknown-round")
        trains = request.round <= manifest.training.rounds
        if request.train != trains or (request.evaluate and not evaluates(manifest, request.round)):
            raise _no_honest_request(f"the study plans no such work in round {request.round}", "unplanned-work")

    def _charge(self, sealed: AnySealed, request: Task) -> None:
        """Charge what the request would release, each purpose once for an attempt and within the plan. What carries no noise
        is covered by no ε: it is entered as unprotected."""
        events = attempt_events(sealed, self._kit.site, train=request.train, evaluate=request.evaluate)
        for purpose, event in events.items():
            self._enter(sealed, request, purpose, event)

    def _enter(self, sealed: AnySealed, request: Task, purpose: str, event: Event | None) -> None:
        most = most_charges(sealed.manifest, purpose)
        made = [e.charge for e in self._ledger.charges() if e.charge.study_digest == sealed.digest]
        if sum(charge.purpose == purpose for charge in made) >= most:
            code = "evaluations-used-up" if purpose.startswith("evaluate") else "attempts-used-up"
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
        self._log.write("charged", purpose, study=sealed.digest, round=request.round, entry=receipt.sequence)

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


def _refuse_for(found: Sequence[Objection]) -> None:
    if found:
        raise RefusalError("; ".join(objection.text for objection in found), code=found[0].code)


def _no_honest_request(what: str, code: str) -> ProtocolError:
    return ProtocolError(what, code=code, blamed=COORDINATOR)
