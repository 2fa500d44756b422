"""The hospital's node: a signed request in, a signed reply out. It runs only what the hospital installed.

For every request, in this order, and each may refuse:
    1. the coordinator's signature, by the key of the kit;
    2. the approval of that very study digest by as many people as the policy asks for, not expired, and no pause;
    3. the hospital's policy, read afresh; then what the study demands of the hospital's patients, if it demands anything;
    4. the terms: they come from the approved manifest, never from the request;
    5. under secure aggregation: the place in the batch, and a slot of it, which is consumed;
    6. the ledger is charged, durably, before any patient's row is read for a number that leaves (3 tells a yes or a no);
    7. training, and the update leaves: masked under secure aggregation, else as it is.
A study under secure aggregation is never asked for an update that is not masked. A refusal leaves as a code and a reference, and
every text stays in the site's own log; a well-formed request that no honest coordinator sends is kept as evidence.
A request that comes again, byte by byte, gets the reply that it got: a reply that was lost costs neither round nor budget.
Before an answer leaves, the approval is looked at once more: who says no while a round runs keeps its answer here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedward.client import approvals, budgets, datasets
from fedward.client.clock import SiteClock
from fedward.client.door import Asked, Released, release
from fedward.client.entries import Entries
from fedward.client.exclusions import listed
from fedward.client.findings import Finder, base_model, no_honest_request
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.mapping import load_mapping
from fedward.client.places import Places
from fedward.client.policy import Objection, exploring_objections, load_policy
from fedward.client.restoring import restored_at
from fedward.client.sightings import answer_checkpoint
from fedward.client.witness import Witness
from fedward.privacy.canonical import digest
from fedward.privacy.draws import Draws
from fedward.privacy.durable import is_disk_error
from fedward.privacy.errors import FedwardError, InputError, RefusalError
from fedward.privacy.events import Event
from fedward.privacy.ledger import Charge
from fedward.privacy.secagg.contexts import RoundContext
from fedward.privacy.secagg.faults import ProtocolError
from fedward.privacy.secagg.ring import clipping_factor, repeatable
from fedward.privacy.secagg.site import SiteParty
from fedward.privacy.signing import from_text
from fedward.study import messages
from fedward.study.codes import INTERNAL_ERROR, leaving
from fedward.study.exploration import Exploration
from fedward.study.kinds import AnyManifest, AnySealed, parse_draft
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.messages import (
    Advertise,
    Checkpoint,
    Checkpointed,
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
from fedward.study.schedule import attempt_events, most_charges
from fedward.study.secure import batch_of
from fedward.study.sums import sum_terms
from fedward.study.terms import evaluates, plain_bound
from fedward.study.witness import sign_head

if TYPE_CHECKING:
    pass


class SiteNode:
    """Answers the coordinator's requests for one site. One request at a time; kept data is per study."""

    def __init__(self, home: SiteHome, log: SiteLog, draws: Draws, clock: Callable[[], float] = time.time) -> None:
        self._home = home
        self._log = log
        self._clock = SiteClock(home, clock)
        self._identity = home.identity()
        self._kit = home.kit()
        self._ledger = home.ledger(witnessed=False)  # held against the countersigned head at each request
        self._witness = Witness(home, self._ledger)
        self._places = Places(home.opened_folder)
        self._entries = Entries(home, log, self._clock)
        self._finder = Finder(home, self._kit.site, log, draws)
        self._replies: dict[str, tuple[str, Released, bool, int | None]] = {}

    def look_up_identity(self) -> None:
        """Read identity and kit anew: a rotation may have replaced them."""
        self._identity = self._home.identity()
        self._kit = self._home.kit()

    def __call__(self, data: bytes) -> Released:
        """The reply to a request's bytes. Never raises: whatever goes wrong becomes a refusal with a reference."""
        name = digest(data)
        request: messages.Request | None = None
        listed_at: int | None = None
        try:
            request, body = messages.open_request(data, self._kit.coordinator_key)
            if (kept := self._kept(name)) is not None:
                return kept
            listed_at = self._list_changes(request)
            reply, reply_body = self._answer(request, body, name)
            if isinstance(reply, (Result, Secured)):  # a person may have said no while it was worked on
                approvals.require_in_force(self._home, reply.study, int(self._clock()))
                self._require_list(request, listed_at)  # or a patient may have opted out
            self._entries.answered(request, reply)
            reply = reply.model_copy(update={"head": sign_head(self._kit.site, self._ledger.head, self._identity)})
            packed = self._release(reply, reply_body, request, name)
        except Exception as error:  # noqa: BLE001  # a bug must not take the node down, nor its text leave
            reply, packed = self._refuse(error, request, data, name)
        self._remember(request, reply, name, packed, listed_at)
        return packed

    def _kept(self, name: str) -> Released | None:
        """The reply that this very request got, unless a person has said no since, or a patient of it may have opted out.

        Raises:
            RefusalError, IntegrityError: as `approvals.require_in_force`: what was withheld, or lost, stays so.
        """
        for study, (known, packed, refused, listed_at) in self._replies.items():
            if known == name:
                if not refused:
                    approvals.require_in_force(self._home, study, int(self._clock()))
                    if listed_at is not None and listed(self._home).changes != listed_at:
                        raise _opted_out()
                return packed
        return None

    def _list_changes(self, request: messages.Request) -> int | None:
        """How often the exclusion list has changed, where the reply is made of patients; else None."""
        return listed(self._home).changes if isinstance(request, (Work, Masked)) else None

    def _require_list(self, request: messages.Request, listed_at: int | None) -> None:
        """Raises: RefusalError, if the exclusion list was changed while the reply was made."""
        if self._list_changes(request) != listed_at:
            raise _opted_out()

    def _release(self, reply: Reply, body: bytes, request: messages.Request | None, name: str) -> Released:
        asked = Asked(
            self._kit.site,
            name,
            request,
            study=lambda study: approvals.proposal(self._home, study),
            batch=lambda study, batch: self._places.find(study, batch).party.batch,
        )
        return release(reply, body, asked, self._identity)

    def _remember(
        self, request: messages.Request | None, reply: Reply, name: str, packed: Released, listed_at: int | None
    ) -> None:
        """Keep the last reply of each study; a refusal too, where the attempt's slot is used up by it."""
        if isinstance(reply, (Result, Secured)):
            self._replies[reply.study] = (name, packed, False, listed_at)
        elif isinstance(request, Masked) and self._places.seen(request.study) == request.attempt:
            self._replies[request.study] = (name, packed, True, listed_at)

    def _refuse(
        self, error: Exception, request: messages.Request | None, data: bytes, name: str
    ) -> tuple[Refusal, Released]:
        """An error as it leaves: its code, if the code is on the list, whom it blames, and a reference."""
        raised = error.code if isinstance(error, FedwardError) else "disk" if is_disk_error(error) else INTERNAL_ERROR
        code = leaving(raised)
        reference = self._log.error(error, code=code, raised=str(raised))
        code = self._entries.refused(request, code, reference)
        refusal = Refusal(site=self._kit.site, request=name, code=code, reference=reference)
        if not isinstance(error, ProtocolError) or request is None:
            return refusal, self._release(refusal, b"", request, name)
        self._entries.keep_evidence(error, request, data, reference)
        blaming = refusal.model_copy(update={"blames": error.blamed})
        try:
            return blaming, self._release(blaming, b"", request, name)
        except FedwardError as blame:  # who is blamed is nobody of this study: the name may be anything
            self._log.error(blame, code=code)
            return refusal, self._release(refusal, b"", request, name)

    def _answer(self, request: messages.Request, body: bytes, name: str) -> tuple[Reply, bytes]:
        brought = getattr(request, "witnessed", None)
        if brought is not None:
            self._witness.take(brought)
        self._witness.require()
        self._entries.note_policy()
        if isinstance(request, Declare):
            return self._declare(request, body, name), b""
        if isinstance(request, Offer):
            return self._consider(request, body, name), b""
        if isinstance(request, Checkpoint):
            return self._compare_logs(request, body, name), b""
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
        decisions, policy = approvals.require_running(self._home), load_policy(self._home.policy_file)
        if not policy.share_cohort_size:
            raise RefusalError("the policy does not share the cohort's size", code="policy-cohort-size")
        manifest = self._draft(request, body)
        dataset = datasets.find(self._home, request.study_id)
        approvals.require_registered(decisions, request.study_id, dataset)
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
            raise no_honest_request(error.what, "malformed") from None
        if manifest.study.id != request.study_id:
            raise no_honest_request("the drafted study has another name than the request", "malformed")
        return manifest

    def _consider(self, request: Offer, body: bytes, name: str) -> Standing:
        sealed = approvals.receive(self._home, body, from_text(request.signature, "the manifest's signature"))
        at = int(self._clock())
        standing = approvals.standing_of(self._home, sealed.digest, at)
        state = standing.said
        if state == "approved" and budgets.stopped_before(self._ledger, sealed.digest):
            dataset = datasets.find(self._home, sealed.manifest.study.id)
            budgets.reserve(self._home, sealed, dataset.cohort, at=at)
        self._log.write("offered", sealed.manifest.study.title, study=sealed.digest, state=state)
        said_at = at if standing.last is None else standing.last.at
        return Standing(site=self._kit.site, request=name, study=sealed.digest, state=state, at=said_at)

    def _compare_logs(self, request: Checkpoint, body: bytes, name: str) -> Checkpointed:
        said = answer_checkpoint(self._home, request.known, body, at=int(self._clock()))
        self._log.write(
            "checkpoint", size=said.own.checkpoint.size, seen=said.seen, cosigned=int(bool(said.cosignature))
        )
        return Checkpointed(
            site=self._kit.site,
            request=name,
            checkpoint=said.own.text,
            proof=said.proof,
            seen=said.seen,
            cosignature=said.cosignature,
        )

    def _end(self, request: Ended, name: str) -> Standing:
        """Give free what an ended study did not charge; a stopped one is held again when its coordinator continues it."""
        at = int(self._clock())
        budgets.release(self._home, self._ledger, request.study, request.reason, at=at)
        self._home.record("study-ended", at=at, study=request.study, reason=request.reason)
        state = approvals.standing_of(self._home, request.study, at).said
        self._log.write("ended", request.reason, study=request.study)
        return Standing(site=self._kit.site, request=name, study=request.study, state=state, at=at)

    def _work(self, request: Work, body: bytes, name: str) -> tuple[Result, bytes]:
        sealed = self._admit(request)
        base = base_model(sealed, request, body)
        self._charge(sealed, request)
        found = self._finder.find(sealed, request, base)
        if found.update is not None and found.update.dtype != np.float32:
            raise InputError("a sum with shared noise leaves in the ring alone", code="not-masked")
        update = b"" if found.update is None else self._clipped(sealed, request, found.update)
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

    def _clipped(self, sealed: AnySealed, request: Work, update: NDArray[Any]) -> bytes:
        """A plain update as it leaves, no longer than the study lets it be."""
        if isinstance(sealed, SealedManifest):
            factor = clipping_factor(update, plain_bound(sealed, self._kit.site, request.dimension))
            if factor < 1:
                self._log.write("clipped", "the update was longer than the study's bound", study=request.study)
                update = (update.astype(np.float64) * factor).astype(np.float32)
        return messages.floats_to_bytes(update)

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
        approvals.require_approved(self._home, request.study, int(self._clock()))
        message = self._places.find(request.study, request.batch).step(request, body)
        self._log.write(request.kind, study=request.study, batch=request.batch)
        return message

    def _masked(self, request: Masked, body: bytes) -> bytes:
        sealed = self._admit(request)
        place = self._places.find(request.study, request.batch)
        base = base_model(sealed, request, body)
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
        found = self._finder.find(sealed, request, base)
        entropy = os.urandom if found.update is None or asked.get("train") else repeatable(found.update)  # type: ignore[arg-type]  # a shared sum has noise
        vector, clipped = terms.encode(self._kit.site, found.update, found.counts, entropy)
        if clipped:
            self._log.write("clipped", "the update was longer than the study's bound", study=request.study)
        return place.party.mask(vector, terms.ring)

    def _charged(self, study: str) -> int:
        """The highest attempt that the ledger was ever charged for in a study."""
        made = (entry.charge for entry in self._ledger.charges() if entry.charge.study_digest == study)
        return max((charge.attempt for charge in made), default=0)

    def _approved(self, study: str) -> AnySealed:
        """The approved study, if the policy, read afresh, has nothing against it."""
        sealed = approvals.require_approved(self._home, study, int(self._clock()))
        if sealed.entry(self._kit.site).identity_key != self._identity.public:
            raise RefusalError(
                "the study names a former identity of this site", remedy="ask for a new proposal", code="foreign-key"
            )
        dataset = datasets.find(self._home, sealed.manifest.study.id)
        if sealed.manifest.privacy.epsilon is not None:
            budgets.check_delta(self._ledger, dataset.patients)
        _refuse_for(approvals.objections_here(self._home, sealed, dataset, self._finder.tally))
        return sealed

    def _admit(self, request: Work | Masked) -> AnySealed:
        sealed = self._approved(request.study)
        if isinstance(sealed, SealedManifest):
            self._planned(sealed.manifest, request)
        if sealed.manifest.privacy.secure_aggregation and isinstance(request, Work):
            raise no_honest_request("the coordinator asks for an update that is not masked", "not-masked")
        return sealed

    @staticmethod
    def _planned(manifest: Manifest, request: Task) -> None:
        """Refuse a round, or an evaluation, that the approved manifest does not plan."""
        last = manifest.training.rounds + (0 if request.train else 1)
        if request.round > last:
            raise no_honest_request(f"round {request.round} is not in the study of {last}", "unknown-round")
        trains = request.round <= manifest.training.rounds
        if request.train != trains or (request.evaluate and not evaluates(manifest, request.round)):
            raise no_honest_request(f"the study plans no such work in round {request.round}", "unplanned-work")

    def _charge(self, sealed: AnySealed, request: Task) -> None:
        """Charge what the request would release, each purpose once for an attempt and within the plan. What carries no noise
        is covered by no ε: it is entered as unprotected."""
        events = attempt_events(sealed, self._kit.site, train=request.train, evaluate=request.evaluate)
        restored = restored_at(self._home)
        if None in events.values() and restored is not None and sealed.sealed_at <= restored:
            raise RefusalError(
                "this home was restored after the study was sealed, and its numbers carry no noise",
                remedy="ask for a new proposal: which of the study's sums were opened here since the backup is not known",
                code="restored-since",
            )
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
        self._home.record(
            "charged", at=int(self._clock()), study=sealed.digest, study_id=sealed.manifest.study.id, purpose=purpose,
            round=request.round, attempt=request.attempt, entry=receipt.sequence,
        )  # fmt: skip


def _refuse_for(found: Sequence[Objection]) -> None:
    if found:
        raise RefusalError("; ".join(objection.text for objection in found), code=found[0].code)


def _opted_out() -> RefusalError:
    return RefusalError(
        "the exclusion list was changed since this reply was begun: what patients who opted out are part of stays here",
        code="data-changed",
    )
