"""A scripted evil coordinator: its true key, the true SuperLink and TLS to the true hospitals, and no scruples.

Every step has an honest default: a study, the setup of a batch (`Setup`), a slot's masked, confirm and unmask (`Slot`). An
attack changes one thing: `tell` carries any bytes, `ask` any request, `raw` any header at all, `step` any body. The
coordinator's half of the protocol is the real one, so that a whole exchange gives the exact sum.

`Evil` is a ServerApp of the federation's own SuperLink, in the test's process instead of one of its own: it claims a Flower run
as the coordinator's service does, and speaks to the hospitals through the same `SiteTransport`.
"""

from __future__ import annotations

import contextlib
import gc
import secrets
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from command import good
from flwr.proto.runtime_pb2 import PullTaskInputRequest, SendTaskHeartbeatRequest
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from loopback import Loopback
from numpy.typing import NDArray

from fedward.client.home import SiteHome
from fedward.client.incidents import Incident, Incidents, signed_by
from fedward.client.node import SiteNode
from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import FedwardError
from fedward.privacy.secagg import BatchSetup, OpenBatch, ProtocolError, RoundContext, SlotSum, wire
from fedward.privacy.secagg.contexts import MAX_SLOTS
from fedward.privacy.secagg.shamir import SHARE_BYTES
from fedward.privacy.signing import SIGNATURE_BYTES, Identity, to_text
from fedward.server.flower import SuperLinkService, control
from fedward.server.flower.wire import DirectSend, flower_client
from fedward.server.home import CoordinatorHome
from fedward.server.sites import SiteTransport
from fedward.study import messages
from fedward.study.heart import SITES
from fedward.study.manifest import Manifest, RosterEntry, SealedManifest, load
from fedward.study.messages import Advertise, Declare, Declared, Masked, Offer, Refusal, Reply, Request, Step
from fedward.study.metrics import Counts
from fedward.study.models import build, to_vector
from fedward.study.secure import batch_of, secure_terms
from fedward.study.terms import training_cohort
from fedward.study.vectors import Vector, vector_digest

ANSWER_S = 30.0
HEARTBEAT_S = 10.0
DAY_S = 86_400
_HEAD = 39
"""Bytes before the context of a signed message of secure aggregation: magic, kind, sender, digest."""
StepKind = Literal["share", "open", "confirm", "unmask"]


@dataclass(frozen=True)
class Said:
    """A request and what became of it: the site's signed reply, or why there is none."""

    site: str
    sent: bytes
    raw: bytes = b""
    reply: Reply | None = None
    body: bytes = b""
    failure: str = ""

    @property
    def code(self) -> str:
        """The refusal's code, or the transport's name for a reply that never came; "" for an answer."""
        return self.reply.code if isinstance(self.reply, Refusal) else self.failure


# --- the line to the hospitals ----------------------------------------------------------------------------------------------


class Line:
    """A Flower run of the coordinator's SuperLink, whose ServerApp is whoever holds this object."""

    def __init__(self, loopback: Loopback) -> None:
        home = CoordinatorHome.open(loopback.home)
        link = _link(home.settings.control_port)
        start = control.protocol().StartRunRequest(override_config=control.run_config({}))
        start.fab.content = control.bundle("evil:app", [])
        with link._lock:  # the service may be launching a run of its own
            self._run_id = int(link._ask(lambda: link._control.StartRun(start)).run_id)
            token = link._claim(self._run_id)
        interceptors = [RuntimeTokenHttpInterceptor(token=token), DirectSend(2**20)]
        self._task = flower_client(RuntimeHttpClient, link._address, interceptors)
        order = self._task.PullTaskInput(PullTaskInputRequest())  # the run is running from now on
        # As in a ServerApp's process: who an outgoing message of this process is from.
        TaskIdentity.task_id, TaskIdentity.run_id = order.task_id, self._run_id
        TaskIdentity.node_id = order.context.node_id
        self._link = link
        self._store = home.open_store()
        grid = SimpleNamespace(run=SimpleNamespace(run_id=self._run_id), _token=token, _addr=link._address)
        self.transport = SiteTransport(grid, self._store)
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="evil-heartbeat", daemon=True)
        self._beats.start()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            with contextlib.suppress(httpx.HTTPError):  # the next one comes in time
                self._task.SendTaskHeartbeat(SendTaskHeartbeatRequest())

    def close(self) -> None:
        self._over.set()
        self._beats.join(HEARTBEAT_S)
        self._link.stop_run(self._run_id)
        self._store.close()
        TaskIdentity._task_id = TaskIdentity._run_id = TaskIdentity._node_id = None


def _link(control_port: int) -> SuperLinkService:
    """The SuperLink of the service that runs in a thread of this process; only that thread's frame names it."""
    every = [one for one in gc.get_objects() if type(one) is SuperLinkService]
    found = [one for one in every if one._control_port == control_port]
    assert len(found) == 1, f"{len(found)} SuperLinks serve port {control_port}"
    return found[0]


class Evil:
    """The coordinator. `loopback` is the federation that it betrays."""

    def __init__(self, loopback: Loopback) -> None:
        self.loopback = loopback
        self.home = CoordinatorHome.open(loopback.home)
        self.identity = self.home.identity()
        self._keys = {site: SiteHome.open(home).identity().public for site, home in loopback.sites.items()}
        for home in loopback.sites.values():
            policy = SiteHome.open(home).policy_file
            policy.write_text(
                policy.read_text().replace("require_evaluation_noise = true", "require_evaluation_noise = false")
            )
        self._line = Line(loopback)
        self.transport = self._line.transport
        self._sealed_at = 0

    def close(self) -> None:
        self._line.close()

    def colluder(self, site: str) -> Identity:
        """The identity key of a hospital that plays along."""
        return SiteHome.open(self.loopback.sites[site]).identity()

    # what it says

    def tell(self, payloads: Mapping[str, bytes]) -> dict[str, Said]:
        """Deliver these very bytes; what each site made of them."""
        transport, said = self.transport, dict[str, Said]()
        transport.send(payloads)
        deadline = time.monotonic() + ANSWER_S
        while len(said) < len(payloads):
            for arrived in transport.poll():
                sent = payloads[arrived.site]
                if arrived.payload is None:
                    said[arrived.site] = Said(arrived.site, sent, failure=arrived.failure)
                    continue
                reply, body = messages.open_reply(arrived.payload, self._keys[arrived.site])
                if reply.request == digest(sent):
                    said[arrived.site] = Said(arrived.site, sent, arrived.payload, reply, body)
            assert time.monotonic() < deadline, f"no answer of {sorted(set(payloads) - set(said))}"
            time.sleep(0.02)
        return {site: said[site] for site in payloads}

    def tell_one(self, site: str, payload: bytes) -> Said:
        return self.tell({site: payload})[site]

    def ask(self, site: str, request: Request, body: bytes = b"", signer: Identity | None = None) -> Said:
        return self.tell_one(site, messages.pack(request, body, signer or self.identity))

    def spread(
        self, cases: Mapping[str, bytes | Callable[[str], bytes]], sites: Sequence[str] = SITES
    ) -> dict[str, Said]:
        """Tell each case to one site, so many at a time as there are sites. A case may be made for the site that gets it."""
        said: dict[str, Said] = {}
        names = list(cases)
        for start in range(0, len(names), len(sites)):
            payloads = {}
            turn = dict(zip(sites, names[start : start + len(sites)], strict=False))
            for site, name in turn.items():
                case = cases[name]
                payloads[site] = case if isinstance(case, bytes) else case(site)
            answers = self.tell(payloads)
            said |= {name: answers[site] for site, name in turn.items()}
        return said

    def raw(self, header: Mapping[str, object] | bytes, body: bytes = b"") -> bytes:
        """Any header at all, rightly framed and signed. A mapping gets the body's digest, unless it names one."""
        if not isinstance(header, bytes):
            header = canonical_json({"body_sha256": digest(body)} | dict(header))
        framed = b"FWD1" + struct.pack(">I", len(header)) + header + body
        return framed + self.identity.sign("message", framed)

    # what the hospitals keep of it

    def incidents(self, site: str) -> Incidents:
        return Incidents(SiteHome.open(self.loopback.sites[site]).incidents_folder)

    def incident(self, said: Said) -> Incident | None:
        """What the site keeps of this very message for the code that it refused it with, as `fedward site incidents` lists."""
        key = (digest(said.sent), said.code)
        found = [one for one in self.incidents(said.site).list() if (one.evidence_sha256, one.code) == key]
        assert len(found) <= 1
        return found[0] if found else None

    def listed(self, site: str) -> list[dict[str, Any]]:
        """What `fedward site incidents --json` prints."""
        shown: list[dict[str, Any]] = good("site", "incidents", "--home", self.loopback.sites[site])["incidents"]
        return shown

    # studies

    def study(self, study_id: str, **changes: Mapping[str, Any]) -> Study:
        """A study that every site has data for and approved: declared, sealed and offered by hand. Its counts carry no noise:
        what a site may be made to open of those is bounded by rules alone, and by no ε.
        """
        evaluation = {"noise": "none"} | dict(changes.get("evaluation", {}))
        manifest = load(self.loopback.study(study_id, **changes | {"evaluation": evaluation}))
        ask = {site: Declare(study_id=study_id, nonce=secrets.token_hex(32)) for site in SITES}
        said = self.tell(
            {site: messages.pack(request, manifest.canonical, self.identity) for site, request in ask.items()}
        )
        roster = []
        for site in SITES:
            reply = said[site].reply
            assert isinstance(reply, Declared), said[site].code
            roster.append(
                RosterEntry(
                    site=site,
                    identity_key=self._keys[site],
                    declared_patients=reply.patients,
                    noise_multiplier=reply.noise_multiplier,
                )
            )
        return self.approved(self.seal(manifest, roster))

    def approved(self, sealed: SealedManifest) -> Study:
        """Offer a sealed study to every site, whose people approve it."""
        study = Study(self, sealed)
        offered = self.tell({site: study.offering() for site in SITES})
        assert {said.code for said in offered.values()} == {""}
        self.loopback.approve(sealed.digest)
        return study

    def quorum_of(self, study: Study, quorum: int) -> Study:
        """The same study, but for its quorum and its name: a newer version of one name would supersede it."""
        manifest = study.sealed.manifest
        name = f"{manifest.study.id}-of-{quorum}"
        self.loopback.study(name)  # its data
        changes = {
            "federation": manifest.federation.model_copy(update={"quorum": quorum}),
            "study": manifest.study.model_copy(update={"id": name}),
        }
        return self.approved(self.seal(manifest.model_copy(update=changes), study.sealed.roster))

    def seal(self, manifest: Manifest, roster: Sequence[RosterEntry]) -> SealedManifest:
        now = self._sealed_at = max(int(time.time()), self._sealed_at + 1)  # no two studies are alike
        return SealedManifest(
            manifest=manifest,
            federation_id=self.home.settings.federation_id,
            coordinator_key=self.identity.public,
            roster=tuple(roster),
            sealed_at=now,
            expires_at=now + DAY_S,
        )


# --- a study, a batch, a slot -----------------------------------------------------------------------------------------------


@dataclass
class Study:
    """A sealed study. Attempts are numbered on and on, so that no test hinders another."""

    evil: Evil
    sealed: SealedManifest
    base: Vector = field(init=False)
    round: int = 1
    attempt: int = 0
    now: Setup | None = None
    """The open batch, if its members still have their places in it."""

    def __post_init__(self) -> None:
        self.base = to_vector(build(self.sealed.manifest))

    @property
    def digest(self) -> str:
        return self.sealed.digest

    def offering(self, sealed: bytes | None = None) -> bytes:
        """The message that offers the study, or any other bytes, rightly signed."""
        body = self.sealed.canonical if sealed is None else sealed
        signature = to_text(self.evil.identity.sign("manifest", body))
        request = Offer(study=digest(body), nonce=secrets.token_hex(32), signature=signature)
        return messages.pack(request, body, self.evil.identity)

    def charges(self, site: str) -> list[tuple[int, int, str]]:
        """(round, attempt, purpose) of all that this study was charged in a site's ledger."""
        made = [entry.charge for entry in SiteHome.open(self.evil.loopback.sites[site]).ledger().charges()]
        return [(one.round, one.attempt, one.purpose) for one in made if one.study_digest == self.digest]

    def all_charges(self) -> dict[str, list[tuple[int, int, str]]]:
        return {site: self.charges(site) for site in SITES}

    def advertise(self, **changes: Any) -> Advertise:
        """The first request of a new batch, with anything in it that its parser takes."""
        fields = {"study": self.digest, "batch": secrets.token_hex(16), "cohort": SITES, "threshold": 3, "slots": 4}
        return Advertise.model_validate(fields | changes)

    def begin(self, **changes: Any) -> Setup:
        """A batch that nobody has been told of. The one before it is left as soon as anybody is."""
        self.now = None
        return Setup(self, self.advertise(**changes))

    def set_up(self, **changes: Any) -> Setup:
        """A new batch, open: of all sites with four slots, but for `changes`."""
        setup = self.begin(**changes)
        setup.advertise()
        setup.share()
        setup.open()
        setup.finish()
        return setup

    def ready(self) -> Setup:
        """An open batch of all sites with a free slot."""
        if self.now is None or self.now.free == 0 or self.now.members != SITES:
            self.now = self.set_up(slots=MAX_SLOTS)
        return self.now

    def next_attempt(self) -> int:
        self.attempt += 1
        return self.attempt

    def another_base(self) -> Vector:
        """A base model that no other test has."""
        return np.random.default_rng().normal(0.0, 0.1, len(self.base)).astype(np.float32)


class Setup:
    """The setup of a batch. `advertise`, `share`, `open` are the honest steps, of all members or of those named; `said`
    keeps what was said in each."""

    def __init__(self, study: Study, request: Advertise) -> None:
        self.study, self.evil, self.request = study, study.evil, request
        self.members = request.cohort
        self.batch = batch_of(study.sealed, request.batch, request.cohort, request.threshold, request.slots)
        self.core = BatchSetup(self.batch)
        self.said: dict[str, dict[str, Said]] = {}
        self._opened: OpenBatch | None = None
        self._next = 0

    @property
    def free(self) -> int:
        return self.batch.slots - self._next

    @property
    def opened(self) -> OpenBatch:
        assert self._opened is not None
        return self._opened

    def index(self, site: str) -> int:
        return self.batch.index(site)

    def indexes(self, sites: Sequence[str]) -> frozenset[int]:
        return frozenset(self.index(site) for site in sites)

    def packed(self, kind: StepKind, body: bytes) -> bytes:
        return messages.pack(Step(kind=kind, study=self.study.digest, batch=self.batch.batch), body, self.evil.identity)

    def step(self, kind: StepKind, site: str, body: bytes) -> Said:
        """Any body in a step to one site."""
        return self.evil.tell_one(site, self.packed(kind, body))

    def _all(self, stage: str, payloads: Mapping[str, bytes], take: Callable[[str, bytes], None]) -> dict[str, Said]:
        said = self.evil.tell(payloads)
        for site, one in said.items():
            assert one.code == "", f"{site} at {stage}: {one.code}"
            take(site, one.body)
        self.said[stage] = self.said.get(stage, {}) | said
        return said

    def advertise(self, sites: Sequence[str] | None = None) -> dict[str, Said]:
        payload = messages.pack(self.request, b"", self.evil.identity)
        return self._all("advertise", dict.fromkeys(sites or self.members, payload), self.core.advertised)

    def share(self, sites: Sequence[str] | None = None) -> dict[str, Said]:
        payload = self.packed("share", self.core.adverts())
        return self._all("share", dict.fromkeys(sites or self.members, payload), self.core.shared)

    def open(self, sites: Sequence[str] | None = None) -> dict[str, Said]:
        payloads = {site: self.packed("open", self.core.delivery(site)) for site in sites or self.members}
        return self._all("open", payloads, self.core.opened)

    def finish(self) -> OpenBatch:
        self._opened = self.core.finish()
        return self._opened

    # what it may change

    def adverts(self) -> list[bytes]:
        """Every member's signed advert, in cohort order."""
        return wire.split_adverts(self.batch, self.core.adverts())

    def delivery(self, site: str) -> Delivery:
        """What a member is to be sent of the others' boxes."""
        roots, boxes = wire.split_delivery(self.batch, self.core.delivery(site))
        others = [name for name in self.members if name != site]
        return Delivery(self, dict(zip(self.members, roots, strict=True)), dict(zip(others, boxes, strict=True)))

    def box(self, dealer: str, recipient: str) -> bytes:
        """The box that a dealer closed for a recipient."""
        return self.delivery(recipient).boxes[dealer]

    def slot(self, number: int | None = None, **changes: Any) -> Slot:
        """The next free slot, for the study's next attempt: masked training from the study's base model, but for
        `changes` of the request; `base` is a model."""
        if number is None:
            number, self._next = self._next, self._next + 1
        return Slot(self, number, changes)


@dataclass(frozen=True)
class Delivery:
    """The signed roots of all members and the others' boxes for one, each by its dealer, to be sent as they are or changed."""

    setup: Setup
    roots: dict[str, bytes]
    boxes: dict[str, bytes]

    def with_box(self, dealer: str, box: bytes) -> Delivery:
        return replace(self, boxes=self.boxes | {dealer: box})

    def with_roots(self, dealer: str, roots: bytes) -> Delivery:
        return replace(self, roots=self.roots | {dealer: roots})

    def signed_for(self, dealer: str, recipient: str, box: bytes) -> Delivery:
        """With a box that the dealer, who colludes, signs as its own for the recipient."""
        setup, index = self.setup, self.setup.index(dealer)
        adverts = sha256(b"".join(setup.adverts())).digest()
        signed = wire.open_roots(setup.batch, index, self.roots[dealer], adverts)
        boxes = list(signed.boxes)
        boxes[setup.index(recipient)] = sha256(box).digest()
        again = wire.seal_roots(
            setup.batch, index, adverts, replace(signed, boxes=tuple(boxes)), setup.evil.colluder(dealer)
        )
        return self.with_roots(dealer, again).with_box(dealer, box)

    @property
    def packed(self) -> bytes:
        return wire.join_delivery(list(self.roots.values()), list(self.boxes.values()))


class Slot:
    """One slot's use. `masked`, `confirm`, `unmask` are the honest steps, of all members or of those named; `false` says whose
    message was refused here, and why."""

    def __init__(self, setup: Setup, number: int, changes: dict[str, Any]) -> None:
        study = setup.study
        self.setup, self.study, self.evil, self.batch = setup, study, setup.evil, setup.batch
        self.base: Vector = changes.pop("base", study.base)
        fields = {
            "study": study.digest,
            "round": study.round,
            "attempt": changes.get("attempt") or study.next_attempt(),
            "base": vector_digest(self.base),
            "dimension": len(self.base),
            "train": True,
            "evaluate": False,
            "batch": setup.batch.batch,
            "setup": setup.opened.setup.hex(),
            "slot": number,
        }
        self.request = Masked.model_validate(fields | changes)
        self.terms = secure_terms(
            study.sealed,
            setup.batch.size,
            dimension=len(self.base),
            train=self.request.train,
            evaluate=self.request.evaluate,
        )
        self.context = RoundContext(
            setup=bytes.fromhex(self.request.setup),
            slot=number,
            round=self.request.round,
            attempt=self.request.attempt,
            base=bytes.fromhex(self.request.base),
            terms=self.terms.ring.digest,
        )
        self.core = SlotSum(setup.opened, self.context, self.terms.ring)
        self.said: dict[str, dict[str, Said]] = {"masked": {}, "confirm": {}, "unmask": {}}
        self.false: dict[str, ProtocolError] = {}

    def packed(self) -> bytes:
        """The request for a masked vector."""
        return messages.pack(self.request, messages.floats_to_bytes(self.base), self.evil.identity)

    def header(self, **changes: object) -> dict[str, object]:
        """The request's header with anything changed, added, or (None) still null; for `Evil.raw`."""
        return self.request.model_dump(mode="json", exclude={"body_sha256"}) | changes

    def step(self, kind: StepKind, site: str, body: bytes) -> Said:
        return self.setup.step(kind, site, body)

    def _all(self, stage: str, payloads: Mapping[str, bytes], take: Callable[[str, bytes], None]) -> dict[str, Said]:
        """Who does not answer drops out; who answers is admitted, or stands in `false`."""
        said = self.evil.tell(payloads)
        for site in payloads:
            if said[site].code == "":
                try:
                    take(site, said[site].body)
                except ProtocolError as error:
                    self.false[site] = error
        self.said[stage] |= said
        return said

    def masked(self, sites: Sequence[str] | None = None) -> dict[str, Said]:
        return self._all("masked", dict.fromkeys(sites or self.batch.members, self.packed()), self.core.masked)

    def confirm(self, sites: Sequence[str] | None = None) -> dict[str, Said]:
        payload = self.setup.packed("confirm", self.core.confirm_request())
        return self._all("confirm", dict.fromkeys(sites or self.core.survivors, payload), self.core.confirmed)

    def unmask(self, sites: Sequence[str] | None = None) -> dict[str, Said]:
        payload = self.setup.packed("unmask", self.core.unmask_request())
        return self._all("unmask", dict.fromkeys(sites or self.core.survivors, payload), self.core.revealed)

    def until_confirmed(self, sites: Sequence[str] | None = None) -> Slot:
        self.masked(sites)
        self.confirm()
        return self

    def run(self, sites: Sequence[str] | None = None) -> tuple[NDArray[np.float64] | None, Counts | None]:
        """The whole exchange with these sites, honestly; Δ and the counts."""
        self.until_confirmed(sites)
        self.unmask()
        return self.open()

    def open(self) -> tuple[NDArray[np.float64] | None, Counts | None]:
        return self.terms.decode(self.core.open(), self.core.survivors)

    # what it may change

    def survivors(self, sites: Sequence[str]) -> bytes:
        """A request to confirm this set."""
        return wire.survivors_message(self.batch, self.context, self.setup.indexes(sites))

    def signatures(self, sites: Sequence[str]) -> list[bytes]:
        """What these sites signed when they were asked honestly."""
        return [self.said["confirm"][site].body for site in sites]

    def signed(self, site: str, survivors: Sequence[str], by: Identity | None = None) -> bytes:
        """A confirmation of a set in a site's name, by the site's own key if it colludes, or by any other."""
        index, named = self.setup.index(site), self.setup.indexes(survivors)
        return wire.seal_confirm(self.batch, index, self.context, named, by or self.evil.colluder(site))

    def confirmed(self, survivors: Sequence[str], signatures: Sequence[bytes]) -> bytes:
        """A request to unmask this set, shown these signatures, in the order given."""
        return wire.confirmations_message(self.batch, self.context, self.setup.indexes(survivors), signatures)


# --- what a test knows better than the coordinator ---------------------------------------------------------------------------


def refused(said: Said, code: str) -> None:
    """The site said no by that code, and nothing else left it."""
    assert isinstance(said.reply, Refusal), f"{said.site} answered; expected {code}"
    assert said.code == code
    assert said.body == b""


def caught(evil: Evil, said: Said, code: str, blamed: str = "coordinator") -> None:
    """The site refused, says whom it blames, and keeps the very bytes, which the coordinator's signature proves."""
    refused(said, code)
    assert isinstance(said.reply, Refusal)
    assert said.reply.blames == blamed
    incident = evil.incident(said)
    assert incident is not None, f"{said.site} keeps nothing of a lie"
    request, _ = messages.open_request(said.sent, evil.identity.public)
    assert not isinstance(request, Declare)
    assert (incident.code, incident.blamed, incident.study, incident.stage) == (
        code, blamed, request.study, request.kind,
    )  # fmt: skip
    assert said.reply.reference == incident.reference or incident.times > 1
    evidence = evil.incidents(said.site).evidence(incident.reference)
    assert evidence == said.sent
    assert signed_by(evidence, evil.identity.public)


def forgiven(evil: Evil, said: Said, code: str) -> None:
    """The site refused, but an honest coordinator may have sent it: no incident."""
    refused(said, code)
    assert evil.incident(said) is None


def site_here() -> str:
    """The site whose node runs in this thread."""
    return threading.current_thread().name.removeprefix("loopback-")


def mean(study: Study, vectors: Mapping[str, NDArray[Any]], sites: Sequence[str]) -> NDArray[np.float64]:
    """The weighted mean of these sites' vectors, without any ring."""
    weights = [training_cohort(study.sealed, site) for site in sites]
    return np.asarray(np.average([vectors[site].astype(np.float64) for site in sites], axis=0, weights=weights))


def assert_exact(slot: Slot, delta: NDArray[np.float64] | None, wanted: NDArray[np.float64]) -> None:
    """Δ is the plain mean, to within the ring's grid: each survivor's coordinate was rounded by less than one unit."""
    assert delta is not None
    sites = slot.core.survivors
    unit = slot.terms.grid / sum(slot.terms.weights[site] for site in sites)
    assert np.abs(delta - wanted).max() <= len(sites) * unit + 1e-12


class SilentError(Exception):
    """The site says nothing: its handler fails, and the SuperLink says so."""


class Nodes:
    """What the hospitals' nodes do otherwise than the truth, from within.

    `silent` tells whether a site does not even read a request; `lie` what it answers in the place of the body of its true
    message, which is then sealed with its true key.
    """

    def __init__(self, patch: pytest.MonkeyPatch, evil: Evil) -> None:
        self.silent: Callable[[str, Request], bool] = lambda _site, _request: False
        self.lie: Callable[[str, Request, bytes], bytes] = lambda _site, _request, body: body
        real, coordinator = SiteNode.__call__, evil.identity.public

        def answer(node: SiteNode, data: bytes) -> bytes:
            try:
                request, _ = messages.open_request(data, coordinator)
            except FedwardError:
                return real(node, data)
            site, identity = node._kit.site, node._identity
            if self.silent(site, request):
                raise SilentError
            true = real(node, data)
            reply, body = messages.open_reply(true, identity.public)
            told = self.lie(site, request, body)
            return true if told is body else messages.pack(reply, told, identity)

        patch.setattr(SiteNode, "__call__", answer)


def sealed_again(body: bytes, identity: Identity) -> bytes:
    """A message of the protocol with its sender's signature made anew."""
    return body[:-SIGNATURE_BYTES] + identity.sign("secagg", body[:-SIGNATURE_BYTES])


def with_false_share(body: bytes, identity: Identity, members: int = 4) -> bytes:
    """A reveal whose first share is off by one bit."""
    at = _HEAD + RoundContext.SIZE + (members + 7) // 8 + SHARE_BYTES - 1
    return sealed_again(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :], identity)


def with_false_vector(body: bytes, identity: Identity, vector: bytes) -> bytes:
    """A masked message with another vector, rightly signed."""
    head = body[: wire.masked_size(0)]
    head = head[: -SIGNATURE_BYTES - 32] + sha256(vector).digest() + head[-SIGNATURE_BYTES:]
    return sealed_again(head, identity) + vector


def with_false_seed(body: bytes, identity: Identity) -> bytes:
    """A masked message with a commitment to another seed, rightly signed."""
    size, at = wire.masked_size(0), _HEAD + RoundContext.SIZE
    head = body[:at] + secrets.token_bytes(32) + body[at + 32 : size]
    return sealed_again(head, identity) + body[size:]


def with_damage(body: bytes) -> bytes:
    """A message whose last byte changed on its way to the outer signature."""
    return body[:-1] + bytes([body[-1] ^ 1])


@contextmanager
def borrowed(loopback: Loopback, site: str, folder: Path) -> Iterator[Path]:
    """A site's node on a copy of its home, which a test may restore or damage; then the true one comes back."""
    home = loopback.sites[site]
    loopback.stop_node(site)
    loopback.sites[site] = Path(shutil.copytree(home, folder))
    loopback.start_node(site)
    try:
        loopback.await_connected()
        yield loopback.sites[site]
    finally:
        loopback.stop_node(site)
        loopback.sites[site] = home
        loopback.start_node(site)
        loopback.await_connected()


def restart(loopback: Loopback, site: str) -> None:
    """The node's memory is gone, its files stay."""
    loopback.stop_node(site)
    loopback.start_node(site)
    loopback.await_connected()


def restore(backup: Path, home: Path) -> None:
    """Put an older copy of a home in its place, file by file, as a restored disk would show it; what is newer goes."""
    older = {path.relative_to(backup) for path in backup.rglob("*") if path.is_file()}
    for path in [path for path in home.rglob("*") if path.is_file()]:
        if path.relative_to(home) not in older:
            path.unlink()
    for name in older:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        fresh = home / f"{name}.restored"
        shutil.copy2(backup / name, fresh)
        fresh.replace(home / name)  # a new file, as the old one may be open
