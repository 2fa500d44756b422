"""Secure runs of the in-memory federation: all that was said, faults at any stage, and what each site truly found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import federation as federation_module
import numpy as np
import pytest
from federation import NOW, Federation, MemoryTransport, heart_manifest
from numpy.typing import NDArray

from fedward.client import datasets
from fedward.client.exclusions import listed
from fedward.client.findings import Finder
from fedward.client.home import SiteHome
from fedward.client.log import SiteLog
from fedward.client.node import SiteNode
from fedward.privacy.draws import Draws
from fedward.privacy.secagg import wire
from fedward.privacy.secagg.contexts import RoundContext
from fedward.privacy.secagg.coordinator import OpenBatch
from fedward.server.exchanges import SecureExchange, SetupExchange
from fedward.server.transport import Delivery
from fedward.study import messages
from fedward.study.encoding import Encoded
from fedward.study.heart import SITES, heart_folder
from fedward.study.manifest import Manifest, SealedManifest
from fedward.study.messages import Masked, Refusal, Reply, Request, Secured, Step
from fedward.study.models import build, to_vector
from fedward.study.secure import SecureTerms, batch_of
from fedward.study.terms import training_cohort
from fedward.study.vectors import vector_digest

WITHOUT: dict[str, object] = {"mechanism": "none", "epsilon": None, "delta": None}
"""The privacy table's settings of a study without differential privacy."""
SETUP = ("advertise", "share", "open")
SLOT = ("masked", "confirm", "unmask")
_HEAD = 39
"""Bytes before the context of a signed message of secure aggregation: magic, kind, sender, digest."""


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Do once in this process what a run does again and again, and what no secure sum depends on: half of its time."""
    read, real = {}, datasets.load

    def load(home: SiteHome, dataset: datasets.Dataset, manifest: Manifest) -> Encoded:
        name = (dataset.source_sha256, dataset.mapping_sha256, manifest.model_dump_json(), listed(home).entries)
        if name not in read:
            read[name] = real(home, dataset, manifest)
        return read[name]

    patch.setattr(datasets, "load", load)
    patch.setattr("fedward.study.models.entry_points", lambda **_: ())  # the search for others' models
    noise = lambda manifest: 0.0 if manifest.privacy.epsilon is None else 5.0  # noqa: E731 - more than any study here needs
    for module in ("fedward.server.proposal", "fedward.client.budgets"):
        patch.setattr(f"{module}.least_noise", noise)


# Studies.


def secure_study(*, dp: bool = True, **changes: dict[str, object]) -> Manifest:
    """The heart study under secure aggregation, with or without differential privacy."""
    changes["privacy"] = ({} if dp else WITHOUT) | changes.get("privacy", {})
    return heart_manifest(secure=True, **changes)


def ready(federation: Federation, manifest: Manifest, sites: Sequence[str] | None = None) -> SealedManifest:
    """Registered everywhere with the heart hospitals' data, in turns, proposed, and approved by these sites."""
    for index, home in enumerate(federation.sites.values()):
        source = SITES[index % len(SITES)]
        data, mapping = heart_folder() / f"{source}.csv", heart_folder() / f"{source}.mapping.toml"
        if not (home.path / "datasets" / f"{manifest.study.id}.json").exists():
            datasets.register(home, manifest, data, mapping, federation.clock.unix())
        text = home.policy_file.read_text()
        if manifest.privacy.mechanism == "none":
            text = text.replace("require_dp = true", "require_dp = false")
        if not manifest.privacy.secure_aggregation:
            text = text.replace("require_secure_aggregation = true", "require_secure_aggregation = false")
        if not manifest.counting.noised:
            text = text.replace("require_evaluation_noise = true", "require_evaluation_noise = false")
        home.policy_file.write_text(text)
    sealed = federation.propose(manifest)
    federation.approve(sealed, None if sites is None else tuple(sites))
    return sealed


def known_as_approved(federation: Federation) -> None:
    """Let the coordinator believe that every site approved: a run then asks even who cannot be reached for it."""
    for site in federation.sites:
        federation.store.set_standing(federation.key, site, "approved", "", None, 0)


def decide(federation: Federation, site: str, state: Any) -> None:
    federation_module.decide(federation.sites[site], federation.sealed(), state, int(NOW.timestamp()))


def undecide(federation: Federation, site: str) -> None:
    federation_module.undecide(federation.sites[site])


def draw_with(federation: Federation, make: Callable[[str], Draws]) -> None:
    """Let every node, also one that restarts, draw from what `make` gives for its site."""

    def node(site: str) -> SiteNode:
        home = federation.sites[site]
        return SiteNode(home, SiteLog(home.log_file, None), make(site), clock=federation.clock.unix)

    federation.node = node  # type: ignore[method-assign]
    for site in federation.sites:
        federation.restart(site)


# What is said.


@dataclass(frozen=True)
class Said:
    """A request as it reached a node, and the node's reply: also one that never arrived."""

    site: str
    request: Request
    sent: bytes
    reply: Reply
    body: bytes
    raw: bytes

    @property
    def kind(self) -> str:
        return self.request.kind

    @property
    def code(self) -> str:
        """The refusal's code; "" when it is none."""
        return self.reply.code if isinstance(self.reply, Refusal) else ""


Fault = Callable[[str, Request], str]
"""What happens to a request to a site:

    unreachable     it does not arrive, and the transport says so
    mute            it is handled, and the reply is never seen
    lost            it is handled, the reply is lost, and the transport says so
    killed          the node dies before it reads it (kill -9) and is started again
    killed-after    the node dies when it has answered, the reply is lost, and it is started again
    ""              nothing
"""


class Wire(MemoryTransport):
    """Keeps everything that is said, and does to a request what `fault` says."""

    def __init__(self, federation: Federation, fault: Fault = lambda _site, _request: "") -> None:
        super().__init__(federation.transport.nodes)
        self.federation, self.fault = federation, fault
        self.said: list[Said] = []
        self._coordinator = federation.home.identity().public
        self._keys = {site: home.identity().public for site, home in federation.sites.items()}
        federation.transport = self

    def send(self, requests: Mapping[str, bytes]) -> None:
        for site, payload in requests.items():
            self.sent.append((site, payload))
            if site in self.offline:
                self._arrived.append(Delivery(site, None, "offline"))
                continue
            request, _ = messages.open_request(payload, self._coordinator)
            self._one(site, payload, request, self.fault(site, request))

    def _one(self, site: str, payload: bytes, request: Request, fault: str) -> None:
        if fault in {"unreachable", "killed"}:
            if fault == "killed":
                self.federation.restart(site)
            self._arrived.append(Delivery(site, None, "node-offline"))
            return
        raw = self.nodes[site](payload)
        reply, body = messages.open_reply(raw, self._keys[site])
        self.said.append(Said(site, request, payload, reply, body, raw))
        if fault == "killed-after":
            self.federation.restart(site)
        if fault in {"lost", "killed-after"}:
            self._arrived.append(Delivery(site, None, "reply-lost"))
        elif fault != "mute":
            changed = self.tamper(site, raw)
            if changed is not None:
                self._arrived.append(Delivery(site, changed))

    def of(self, kind: str, site: str | None = None) -> list[Said]:
        return [one for one in self.said if one.kind == kind and site in {None, one.site}]

    def masked(self, site: str | None = None) -> list[Said]:
        """Every masked vector that left a site, whether it arrived or not."""
        return [one for one in self.of("masked", site) if isinstance(one.reply, Secured)]

    def batches(self) -> list[tuple[str, ...]]:
        """The cohorts that were asked to set up a batch, in order."""
        cohorts = {one.request.batch: one.request.cohort for one in self.of("advertise")}  # type: ignore[union-attr]
        return list(cohorts.values())


def stage_fault(stage: str, sites: Sequence[str], fault: str, *, only_first: bool = True) -> Fault:
    """A fault of these sites at a stage: the first time that each is asked, or always."""
    struck: set[str] = set()

    def strike(site: str, request: Request) -> str:
        if request.kind != stage or site not in sites or (only_first and site in struck):
            return ""
        struck.add(site)
        return fault

    return strike


def leaving(federation: Federation, stage: str, sites: Sequence[str]) -> Fault:
    """These sites go offline when they are asked at a stage, and stay so until `offline` is cleared."""

    def leave(site: str, request: Request) -> str:
        if request.kind == stage and site in sites:
            federation.transport.offline.add(site)
            return "unreachable"
        return ""

    return leave


def context_of(said: Said) -> RoundContext:
    """RoundCtx of a message of a slot, as its site signed it."""
    return RoundContext.decode(said.body[_HEAD : _HEAD + RoundContext.SIZE])


def vector_of(said: Said, bits: int = 32) -> NDArray[Any]:
    """The masked vector of a message, shape (m,)."""
    body = said.body[wire.masked_size(0) :]
    return np.frombuffer(body, dtype="<u4" if bits == 32 else "<u8")


def check_slots(said: Sequence[Said]) -> None:
    """In no slot of a batch did a site mask two vectors, or help to open sums of two sets; nobody kept its old noise."""
    masked: dict[tuple[str, bytes, int], bytes] = {}
    opened: dict[tuple[str, bytes, int], bytes] = {}
    vectors: set[bytes] = set()
    for one in said:
        if one.kind not in SLOT or not isinstance(one.reply, Secured):
            continue
        context = context_of(one)
        place = (one.site, context.setup, context.slot)
        if one.kind == "masked":
            assert masked.setdefault(place, one.body) == one.body, f"{one.site} masked twice in one slot"
            vectors.add(vector_of(one).tobytes())
        if one.kind == "unmask":
            assert opened.setdefault(place, one.body) == one.body, f"{one.site} revealed twice in one slot"
    assert len(vectors) == len(masked), "a masked vector left twice"
    used = {(one.request.setup, one.request.slot, one.request.attempt)  # type: ignore[union-attr]
            for one in said if one.kind == "masked"}  # fmt: skip
    assert len({(setup, slot) for setup, slot, _ in used}) == len(used), "a slot was used for two attempts"


def check_sums(federation: Federation) -> None:
    """Every secure sum that was committed stands in the journal, before it, with the very sites that are recorded."""
    opened: dict[int, list[str]] = {}
    for entry in federation.store.journal(federation.key):
        if entry.kind == "unmasking":
            assert entry.data["attempt"] not in opened, "the shares of an attempt were asked for twice"
            opened[entry.data["attempt"]] = entry.data["survivors"]
        if entry.kind == "closed" and entry.data["outcome"] == "committed":
            rows = [row for row in federation.store.statuses(federation.key) if row.attempt == entry.data["attempt"]]
            assert [row.site for row in rows if row.status == "contributed"] == opened[entry.data["attempt"]]


# What is true.


class Truth:
    """What every site found in each attempt, and put into the ring, seen within its node before anything is masked.

    With `given`, sites do not train: a site's update is what `given` says for it and the attempt.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, given: Callable[[str, int, int], NDArray[np.float32]] | None = None
    ) -> None:
        self.updates: dict[tuple[str, int], NDArray[np.float32]] = {}
        self.counts: dict[tuple[str, int], NDArray[np.int64]] = {}
        self.encoded: dict[tuple[str, int], NDArray[Any]] = {}
        self.terms: dict[int, SecureTerms] = {}
        self._now: dict[str, tuple[int, int]] = {}
        self._training = ""
        find, encode = Finder.find, SecureTerms.encode

        def found(finder: Any, sealed: Any, request: Any, base: Any) -> Any:
            site = finder._site
            self._now[site], self._training = (request.attempt, len(base)), site
            result = find(finder, sealed, request, base)
            if result.update is not None:
                self.updates[site, request.attempt] = result.update
            if result.counts is not None:
                self.counts[site, request.attempt] = result.counts
            return result

        def encoded(terms: SecureTerms, site: str, update: Any, counts: Any, entropy: Any) -> Any:
            vector, clipped = encode(terms, site, update, counts, entropy)
            self.encoded[site, self._now[site][0]] = vector.copy()
            self.terms[self._now[site][0]] = terms
            return vector, clipped

        patch.setattr(Finder, "find", found)
        patch.setattr(SecureTerms, "encode", encoded)
        if given is not None:

            def trained(*_: Any) -> NDArray[np.float32]:
                return given(self._training, *self._now[self._training])

            patch.setattr("fedward.client.training.train", trained)

    def delta(self, attempt: int, sites: Sequence[str], sealed: SealedManifest) -> NDArray[np.float64]:
        """Σ Nᵢ uᵢ / Σ Nᵢ of what was put into the ring: exact, by Python's integers."""
        terms = self.terms[attempt]
        length = terms.ring.blocks[0].length
        signed = [self.encoded[site, attempt][:length].view(f"<i{terms.ring.bits // 8}").tolist() for site in sites]
        total = np.array([float(sum(column)) for column in zip(*signed, strict=True)]) * terms.grid
        return np.asarray(total / sum(terms.weights[site] for site in sites))

    def mean(self, attempt: int, sites: Sequence[str], sealed: SealedManifest) -> NDArray[np.float64]:
        """The weighted mean of what the sites found, without any ring."""
        weights = [training_cohort(sealed, site) for site in sites]
        updates = np.stack([self.updates[site, attempt].astype(np.float64) for site in sites])
        return np.asarray(np.average(updates, axis=0, weights=weights))

    def counted(self, attempt: int, sites: Sequence[str]) -> NDArray[np.int64]:
        return np.sum([self.counts[site, attempt] for site in sites], axis=0)


def given_updates(scale: float = 1.0) -> Callable[[str, int, int], NDArray[np.float32]]:
    """Another vector for each site and attempt."""

    def give(site: str, attempt: int, dimension: int) -> NDArray[np.float32]:
        generator = np.random.default_rng([attempt, *site.encode()])
        return generator.normal(0.0, scale, dimension).astype(np.float32)

    return give


# A coordinator by hand.


class Hand:
    """Says what a test wants, in the order that it wants, to the nodes of a federation."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.identity = federation.home.identity()
        self.sealed = federation.sealed()
        self.base = to_vector(build(self.sealed.manifest))

    def ask(self, site: str, request: Request, body: bytes = b"") -> Said:
        return self.tell(site, messages.pack(request, body, self.identity))

    def tell(self, site: str, payload: bytes) -> Said:
        """Send these very bytes."""
        raw = self.federation.transport.nodes[site](payload)
        reply, body = messages.open_reply(raw, self.federation.sites[site].identity().public)
        return Said(site, messages.open_request(payload, self.identity.public)[0], payload, reply, body, raw)

    def set_up(self, cohort: Sequence[str] | None = None, *, slots: int = 4, name: str = "b" * 32) -> OpenBatch:
        """A batch of these sites, each step by the nodes."""
        members = tuple(cohort or self.federation.sites)
        batch = batch_of(self.sealed, name, members, 2 * len(members) // 3 + 1, slots)
        exchange = SetupExchange(self.sealed, batch, self.identity)
        for stage in SETUP:
            for site, payload in exchange.requests(stage, members).items():
                exchange.admit(site, stage, self.tell(site, payload).raw)
        return exchange.finish()

    def request(self, opened: OpenBatch, slot: int = 0, **changes: Any) -> Masked:
        """A request for a masked vector: of the first round's training, but for `changes`."""
        fields: dict[str, Any] = {
            "study": self.sealed.digest,
            "round": 1,
            "attempt": slot + 1,
            "base": vector_digest(self.base),
            "dimension": len(self.base),
            "train": True,
            "evaluate": False,
            "batch": opened.batch.batch,
            "setup": opened.setup.hex(),
            "slot": slot,
        }
        return Masked.model_validate(fields | changes)

    def slot(self, opened: OpenBatch, slot: int = 0, **changes: Any) -> SecureExchange:
        return SecureExchange(self.sealed, opened, self.request(opened, slot, **changes), self.base, self.identity)

    def stage(self, exchange: SecureExchange, stage: str, sites: Sequence[str]) -> list[Said]:
        """A whole stage with these sites; every reply is admitted."""
        said = [self.tell(site, payload) for site, payload in exchange.requests(stage, sites).items()]
        for one in said:
            exchange.admit(one.site, stage, one.raw)
        return said

    def step(self, site: str, kind: Any, opened: OpenBatch, body: bytes) -> Said:
        return self.ask(site, Step(kind=kind, study=self.sealed.digest, batch=opened.batch.batch), body)


# Deaths of the coordinator.


class KilledError(BaseException):
    """The process died here."""


class Mortal:
    """Stands before a store or transport, and dies before or after the `at`-th call that changes something; never at 0."""

    WRITES = frozenset({"happened", "set_standing", "start", "open_attempt", "close_attempt", "note", "seal", "lose"})
    NETWORK = frozenset({"send", "poll"})

    def __init__(self, inner: object, calls: frozenset[str], at: int, *, after: bool = False) -> None:
        self._inner, self._calls, self._left, self._after = inner, calls, at, after
        self.passed: list[str] = []
        """The calls so far that change something."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name not in self._calls:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.passed.append(name)
            self._left -= 1
            if self._left == 0 and not self._after:
                raise KilledError
            result = real(*args, **kwargs)
            if self._left == 0:
                raise KilledError
            return result

        return call
