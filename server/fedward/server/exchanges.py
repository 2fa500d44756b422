"""What the stages of an attempt say: of a plain round, of a secure round, of a batch's setup. Pure but for signing.

A plain round keeps each site's admitted update until the sum. A secure round adds masked vectors as they come and keeps none:
no update of a single site ever exists at the coordinator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.canonical import digest
from fedward.privacy.errors import InputError, IntegrityError, RefusalError
from fedward.privacy.secagg.contexts import Batch, RoundContext
from fedward.privacy.secagg.coordinator import BatchSetup, OpenBatch, SlotSum
from fedward.privacy.signing import Identity
from fedward.server.admission import Admitted, Limits, admit, admit_answers, open_answer
from fedward.server.robust import aggregate
from fedward.study import messages
from fedward.study.evaluation import most_noise
from fedward.study.exploration import SealedExploration
from fedward.study.kinds import AnySealed
from fedward.study.manifest import SealedManifest
from fedward.study.messages import Advertise, Masked, Secured, Step, Work
from fedward.study.metrics import Counts
from fedward.study.secure import SecureTerms
from fedward.study.sums import AnswerTerms, answer_terms, counts_shape, most_each, sum_terms
from fedward.study.terms import most_patients, plain_bound, training_cohort
from fedward.study.vectors import Vector
from fedward.study.votes import voted_features


@dataclass(frozen=True)
class Gathered:
    """What an attempt yields: Δ, shape (d,), and the summed histogram; each None when it was not asked for."""

    delta: NDArray[np.float64] | None
    counts: Counts | None


class PlainExchange:
    """One stage, `work`: every site's update and counts come as they are, and are admitted one by one.

    `received` is by site the digest of the signed reply that was admitted.
    """

    def __init__(self, sealed: AnySealed, request: Work, base: Vector, identity: Identity) -> None:
        self._sealed = sealed
        self.request = request
        self._payload = messages.pack(request, messages.floats_to_bytes(base), identity)
        self._digest = digest(self._payload)
        self._admitted: dict[str, Admitted] = {}
        self.received: dict[str, str] = {}

    def requests(self, stage: str, sites: Sequence[str]) -> dict[str, bytes]:  # noqa: ARG002
        return dict.fromkeys(sites, self._payload)

    def admit(self, site: str, stage: str, data: bytes) -> None:  # noqa: ARG002
        self._admitted[site] = self._checked(site, data)
        self.received[site] = digest(data)

    def _checked(self, site: str, data: bytes) -> Admitted:
        sealed, key = self._sealed, self._sealed.entry(site).identity_key
        if isinstance(sealed, SealedExploration):
            return admit_answers(
                data, site=site, key=key, request=self.request, request_digest=self._digest,
                most=most_each(answer_terms(sealed, 1).ring),
            )  # fmt: skip
        return admit(
            data,
            site=site,
            key=key,
            request=self.request,
            request_digest=self._digest,
            limits=Limits(
                counts_shape(sealed),
                most_patients(sealed, site),
                # A site rounds its clipped update to float32.
                plain_bound(sealed, site, self.request.dimension) * (1 + 1e-6),
                most_noise(sealed),
                voted_features(sealed.manifest),
            ),
        )

    def gather(self, sites: Sequence[str]) -> Gathered:
        """Sum in the order given, roster order, so that a rerun gives equal bits. The sites' updates are then let go."""
        admitted = [self._admitted[site] for site in sites]
        self._admitted = {}
        delta = None
        if isinstance(self._sealed, SealedManifest) and self.request.train:
            weights = [training_cohort(self._sealed, site) for site in sites]
            updates = [one.update for one in admitted if one.update is not None]
            delta = aggregate(updates, weights, self._sealed.manifest.training)
        counts = [one.counts for one in admitted if one.counts is not None]
        return Gathered(delta, np.sum(np.stack(counts), axis=0) if self.request.evaluate else None)


class _Conversation:
    """Requests of a batch, each remembered by its digest, so that a late answer is told from a true one."""

    def __init__(self, sealed: AnySealed, batch: str, identity: Identity) -> None:
        self.sealed = sealed
        self.batch = batch
        self._identity = identity
        self._asked: dict[tuple[str, str], bytes] = {}
        self._digests: dict[tuple[str, str], str] = {}

    def ask(self, stage: str, site: str, make: Callable[[], tuple[messages.Request, bytes]]) -> bytes:
        """The request of a stage for a site ("" for all sites), made once."""
        known = self._asked.get((stage, site))
        if known is None:
            request, body = make()
            known = messages.pack(request, body, self._identity)
            self._asked = {(stage, site): known} if site == "" else self._asked | {(stage, site): known}
            self._digests[stage, site] = digest(known)
        return known

    def hear(self, stage: str, site: str, data: bytes, left: set[str]) -> bytes:
        """The body of a site's answer in a stage; errors as `admission.open_answer`. Who lost its place is added to `left`."""
        asked = self._digests.get((stage, site)) or self._digests.get((stage, ""), "")
        try:
            return self._open(site, data, asked)
        except RefusalError as error:
            if error.code == "unknown-batch":
                left.add(site)
            raise

    def _open(self, site: str, data: bytes, asked: str) -> bytes:
        reply, body = open_answer(data, site=site, key=self.sealed.entry(site).identity_key, request_digest=asked)
        if not isinstance(reply, Secured) or (reply.study, reply.batch) != (self.sealed.digest, self.batch):
            raise InputError("a reply is of the wrong kind", expected="secured", got=reply.kind, code="wrong-kind")
        return body


class SetupExchange:
    """The setup of a batch: `advertise`, `share`, `open`. Every member must do every one.

    `left` names the sites that lost their place on the way: they were restarted.
    """

    STAGES = ("advertise", "share", "open")

    def __init__(self, sealed: AnySealed, batch: Batch, identity: Identity) -> None:
        self.left: set[str] = set()
        self._batch = batch
        self._setup = BatchSetup(batch)
        self._talk = _Conversation(sealed, batch.batch, identity)

    def requests(self, stage: str, sites: Sequence[str]) -> dict[str, bytes]:
        if stage == "open":  # the boxes differ by recipient
            return {site: self._talk.ask(stage, site, partial(self._delivery, site)) for site in sites}
        make = self._advertise if stage == "advertise" else self._share
        return {site: self._talk.ask(stage, "", make) for site in sites}

    def admit(self, site: str, stage: str, data: bytes) -> None:
        body = self._talk.hear(stage, site, data, self.left)
        take = {"advertise": self._setup.advertised, "share": self._setup.shared, "open": self._setup.opened}[stage]
        take(site, body)

    def finish(self) -> OpenBatch:
        """The open batch; errors as `BatchSetup.finish`."""
        return self._setup.finish()

    def _advertise(self) -> tuple[messages.Request, bytes]:
        batch = self._batch
        request = Advertise(
            study=batch.study, batch=batch.batch, cohort=batch.members, threshold=batch.threshold, slots=batch.slots
        )
        return request, b""

    def _share(self) -> tuple[messages.Request, bytes]:
        return Step(kind="share", study=self._batch.study, batch=self._batch.batch), self._setup.adverts()

    def _delivery(self, site: str) -> tuple[messages.Request, bytes]:
        return Step(kind="open", study=self._batch.study, batch=self._batch.batch), self._setup.delivery(site)


class SecureExchange:
    """One slot of a batch: `masked`, `confirm`, `unmask`. Only the sum is ever known here.

    `left` names the sites that have no place in the batch any more: they were restarted. `received` is by site the digest of the
    signed reply with its masked vector.
    """

    STAGES = ("masked", "confirm", "unmask")

    def __init__(self, sealed: AnySealed, opened: OpenBatch, request: Masked, base: Vector, identity: Identity) -> None:
        self.left: set[str] = set()
        self.received: dict[str, str] = {}
        self.request = request
        self._base = base
        self._terms: SecureTerms | AnswerTerms = sum_terms(
            sealed, opened.batch.size, dimension=request.dimension, train=request.train, evaluate=request.evaluate
        )
        self.context = RoundContext(
            setup=opened.setup,
            slot=request.slot,
            round=request.round,
            attempt=request.attempt,
            base=bytes.fromhex(request.base),
            terms=self._terms.ring.digest,
        )
        self._sum = SlotSum(opened, self.context, self._terms.ring)
        self._talk = _Conversation(sealed, opened.batch.batch, identity)

    @property
    def survivors(self) -> tuple[str, ...]:
        return self._sum.survivors

    @property
    def confirmations(self) -> tuple[bytes, ...]:
        return self._sum.confirmations

    def requests(self, stage: str, sites: Sequence[str]) -> dict[str, bytes]:
        make = {"masked": self._masked, "confirm": self._confirm, "unmask": self._unmask}[stage]
        return {site: self._talk.ask(stage, "", make) for site in sites}

    def admit(self, site: str, stage: str, data: bytes) -> None:
        take = {"masked": self._sum.masked, "confirm": self._sum.confirmed, "unmask": self._sum.revealed}[stage]
        take(site, self._talk.hear(stage, site, data, self.left))
        if stage == "masked":
            self.received[site] = digest(data)

    def gather(self, sites: Sequence[str]) -> Gathered:
        """Open the sum.

        Raises:
            ProtocolError: a dealer lied, or the sum is beyond what its sites could make. There is no sum then.
        """
        if tuple(sites) != self._sum.survivors:
            raise IntegrityError("the survivors are not the sites whose vectors were summed", got=", ".join(sites))
        delta, counts = self._terms.decode(self._sum.open(), sites)
        return Gathered(delta, counts)

    def _masked(self) -> tuple[messages.Request, bytes]:
        return self.request, messages.floats_to_bytes(self._base)

    def _confirm(self) -> tuple[messages.Request, bytes]:
        return Step(kind="confirm", study=self.request.study, batch=self.request.batch), self._sum.confirm_request()

    def _unmask(self) -> tuple[messages.Request, bytes]:
        return Step(kind="unmask", study=self.request.study, batch=self.request.batch), self._sum.unmask_request()
