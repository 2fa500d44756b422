"""What travels between coordinator and site: canonical, strictly typed, bounded, signed bytes.

    "FWD1" ‖ header length (u32, big endian) ‖ header (canonical JSON) ‖ body ‖ Ed25519 signature (64 bytes)

The header names its kind, its sender's protocol and the body's SHA-256; the signature covers all that stands before it. A reply
carries the SHA-256 of the request that it answers, so it fits no other request. A parser refuses what is unknown, never ignores it.

    coordinator → site   declare    the drafted manifest (body): which cohort, and which noise, would the site declare for it?
                         offer      the sealed manifest (body); asks for the site's standing
                         ended      the study is completed or stopped; asks for the site's standing
                         checkpoint what the coordinator's audit log has come to (body: `study.sightings`); asks for the site's
                         work       base parameters (body, float32); train and/or evaluate
                         advertise  a secure batch's cohort; asks for the site's keys
                         share, open, confirm, unmask   a step of secure aggregation (body: `privacy.secagg.wire`)
                         masked     base parameters (body); train and/or evaluate, masked in a slot of the batch
    site → coordinator   declared   registered patients, rounded by the site, and the noise multiplier that it needs
                         checkpointed   what the site's audit log has come to, and its cosignature of the coordinator's
                         standing   pending, approved, refused, revoked, expired or withdrawn
                         result     update (float32) and histogram (int64) in the body
                         secured    the site's message of a step of secure aggregation (body)
                         refusal    a code and a reference into the site's own log; never a text
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import InputError, IntegrityError
from fedward.privacy.secagg.contexts import MAX_MEMBERS, MAX_SLOTS
from fedward.privacy.signing import SIGNATURE_BYTES, Identity, verify
from fedward.study import codes
from fedward.study.fields import NAME, Part
from fedward.study.manifest import HEX_KEY, explain
from fedward.study.sightings import MAX_PROOF
from fedward.study.versions import PROTOCOL, check_protocol
from fedward.study.witness import SignedHead, Witnessed

MAGIC = b"FWD1"
MAX_HEADER_BYTES = 65_536
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
"""100 million float32 parameters and their header; more is refused before anything is allocated."""

_OVERHEAD = 8 + SIGNATURE_BYTES

Digest = Annotated[str, Field(pattern=HEX_KEY)]
Site = Annotated[str, Field(pattern=NAME)]
Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,47}$")]
RefusalCode = Annotated[Code, AfterValidator(codes.known)]
"""One of the closed list: a coordinator refuses a reply with any other."""
Count = Annotated[int, Field(ge=0, lt=2**53)]
StandingState = Literal["pending", "approved", "refused", "revoked", "expired", "withdrawn"]
"""What a site says of a proposed study. `expired`: the approval, or the version of the study, is no longer valid here."""
BatchName = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Header(Part):
    protocol: Annotated[int, Field(ge=0, lt=2**31)] = PROTOCOL
    """What the sender speaks; outside of `versions.WORKS_WITH` nothing else of the message is read."""
    body_sha256: Digest = "0" * 64
    """Filled in by `pack`."""


class Declare(Header):
    kind: Literal["declare"] = "declare"
    study_id: Site
    nonce: Digest
    witnessed: Witnessed | None = None
    """The newest ledger head that this site said, countersigned."""


class Offer(Header):
    kind: Literal["offer"] = "offer"
    study: Digest
    nonce: Digest
    signature: Annotated[str, Field(max_length=100)]
    witnessed: Witnessed | None = None
    """The newest ledger head that this site said, countersigned."""


class Ended(Header):
    """A study is over, or stopped until its coordinator continues it: what it did not charge is free again."""

    kind: Literal["ended"] = "ended"
    study: Digest
    nonce: Digest
    reason: Literal["completed", "stopped"]
    witnessed: Witnessed | None = None
    """The newest ledger head that this site said, countersigned."""


class Checkpoint(Header):
    """Audit logs are compared: the coordinator's own checkpoint is in the body (`study.sightings.Brought`)."""

    kind: Literal["checkpoint"] = "checkpoint"
    nonce: Digest
    known: Count
    """How many entries of the site's audit log the coordinator has seen."""


class Task(Header):
    """What a site does in one attempt of a round."""

    study: Digest
    round: Annotated[int, Field(ge=1, le=10_001)]
    attempt: Annotated[int, Field(ge=1, le=1_000_000)]
    base: Digest
    dimension: Annotated[int, Field(ge=1, le=200_000_000)]
    train: bool
    evaluate: bool


class Work(Task):
    """A task whose result the coordinator sees."""

    kind: Literal["work"] = "work"


class Masked(Task):
    """A task whose result leaves masked, in a slot of a batch."""

    kind: Literal["masked"] = "masked"
    batch: BatchName
    setup: Digest
    slot: Annotated[int, Field(ge=0, lt=MAX_SLOTS)]


class Advertise(Header):
    """A new batch: the cohort, in roster order. Study and roster give the site all else."""

    kind: Literal["advertise"] = "advertise"
    study: Digest
    batch: BatchName
    cohort: Annotated[tuple[Site, ...], Field(min_length=1, max_length=MAX_MEMBERS)]
    threshold: Annotated[int, Field(ge=0, le=MAX_MEMBERS)]
    slots: Annotated[int, Field(ge=0, le=MAX_SLOTS)]


class Step(Header):
    """A step of secure aggregation whose body the batch's machine reads."""

    kind: Literal["share", "open", "confirm", "unmask"]
    study: Digest
    batch: BatchName


class Declared(Header):
    kind: Literal["declared"] = "declared"
    site: Site
    request: Digest
    study_id: Site
    patients: Count
    noise_multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """σ, calibrated by the site from what it has left to spend; 0 without differential privacy."""
    head: SignedHead | None = None
    """The site's ledger as it stands now."""


class Standing(Header):
    kind: Literal["standing"] = "standing"
    site: Site
    request: Digest
    study: Digest
    state: StandingState
    at: Count
    head: SignedHead | None = None
    """The site's ledger as it stands now."""


class Checkpointed(Header):
    """A site's audit log as it stands."""

    kind: Literal["checkpointed"] = "checkpointed"
    site: Site
    request: Digest
    checkpoint: Annotated[str, Field(max_length=1000)]
    """The signed note: `privacy.checkpoint`."""
    proof: Annotated[tuple[Digest, ...], Field(max_length=MAX_PROOF)]
    """That it continues the entries that the coordinator has seen."""
    seen: Count
    """How many entries of the coordinator's audit log this site has seen."""
    cosignature: Annotated[str, Field(max_length=400)] = ""
    """A signature line for the coordinator's checkpoint, if it continues what this site saw before."""
    head: SignedHead | None = None
    """The site's ledger as it stands now."""


class Result(Header):
    kind: Literal["result"] = "result"
    site: Site
    request: Digest
    study: Digest
    round: Annotated[int, Field(ge=1, le=10_001)]
    attempt: Annotated[int, Field(ge=1, le=1_000_000)]
    base: Digest
    update_values: Count
    histogram_values: Count
    head: SignedHead | None = None
    """The site's ledger as it stands now."""


class Secured(Header):
    """A site's message of a step of secure aggregation."""

    kind: Literal["secured"] = "secured"
    site: Site
    request: Digest
    study: Digest
    batch: BatchName
    head: SignedHead | None = None
    """The site's ledger as it stands now."""


class Refusal(Header):
    kind: Literal["refusal"] = "refusal"
    site: Site
    request: Digest
    code: RefusalCode
    blames: Annotated[str, Field(pattern=rf"{NAME}|^$")] = ""
    """Whose message was false, where the site knows: another site of the roster, or the coordinator."""
    reference: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


Request = Declare | Offer | Ended | Checkpoint | Work | Advertise | Step | Masked
Reply = Declared | Standing | Checkpointed | Result | Secured | Refusal
REPLIES: Mapping[str, type[Header]] = MappingProxyType(
    {
        "declared": Declared,
        "standing": Standing,
        "checkpointed": Checkpointed,
        "result": Result,
        "secured": Secured,
        "refusal": Refusal,
    }
)
"""Every kind of reply, by its name on the wire."""
M = TypeVar("M", bound=Header)
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


def pack(message: Request | Reply, body: bytes, signer: Identity) -> bytes:
    """The message's bytes. `body_sha256` is filled in here.

    Raises:
        InputError: the message is over its bounds.
    """
    header = canonical_json(message.model_dump(mode="json") | {"body_sha256": digest(body)})
    if len(header) > MAX_HEADER_BYTES or _OVERHEAD + len(header) + len(body) > MAX_MESSAGE_BYTES:
        raise InputError("a message is too large to send", got=f"{len(header)} + {len(body)} bytes")
    framed = MAGIC + struct.pack(">I", len(header)) + header + body
    return framed + signer.sign("message", framed)


def _split(data: bytes) -> tuple[memoryview, bytes, bytes, bytes]:
    """(signed part, header, body, signature) of a message's bytes; the body alone is copied, for it may be a large model's."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise InputError("the message is too large", expected=f"at most {MAX_MESSAGE_BYTES} bytes", code="malformed")
    if len(data) < _OVERHEAD or data[:4] != MAGIC:
        raise InputError("these bytes are no Fedward message", code="malformed")
    (length,) = struct.unpack(">I", data[4:8])
    if length > MAX_HEADER_BYTES or _OVERHEAD + length > len(data):
        raise InputError("the message is cut or its header length is false", code="malformed")
    signed = memoryview(data)[:-SIGNATURE_BYTES]
    return signed, bytes(signed[8 : 8 + length]), bytes(signed[8 + length :]), data[-SIGNATURE_BYTES:]


def _parse(data: bytes, sender: str, adapter: TypeAdapter[M], who: str) -> tuple[M, bytes]:
    signed, raw, body, signature = _split(data)
    verify(sender, "message", signed, signature, "the message")
    _check_protocol(raw, who)
    try:
        header = adapter.validate_json(raw)
    except ValidationError as error:
        raise InputError("the message's header is not valid", got=explain(error), code="malformed") from None
    if canonical_json(header.model_dump(mode="json")) != raw:
        raise InputError("the message's header is not canonical", code="malformed")
    if header.body_sha256 != digest(body):
        raise IntegrityError("the message's body is not the one that its header names", code="malformed")
    return header, body


def _check_protocol(raw: bytes, who: str) -> None:
    """Another version's header may have any other field: it is told by its number, before it is held against our own."""
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        return  # no header at all: the parser says so
    if isinstance(header, dict) and type(header.get("protocol")) is int:
        check_protocol(header["protocol"], who)


def open_request(data: bytes, coordinator: str) -> tuple[Request, bytes]:
    """A coordinator's request and its body, its signature checked.

    Raises:
        InputError: malformed, unknown or out of bounds.
        IntegrityError: not signed by that key, or a body that does not fit.
        RefusalError: `version-mismatch`: its sender speaks another protocol.
    """
    return _parse(data, coordinator, _REQUEST, "the coordinator")


def open_reply(data: bytes, site_key: str) -> tuple[Reply, bytes]:
    """A site's reply and its body; errors as `open_request`."""
    return _parse(data, site_key, _REPLY, "the site")


def floats_to_bytes(vector: NDArray[np.float32]) -> bytes:
    """A parameter vector, shape (d,), as little-endian float32."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def floats_from_bytes(data: bytes, dimension: int, what: str) -> NDArray[np.float32]:
    """Shape (d,), finite.

    Raises:
        InputError: another length, or a value that is not finite.
    """
    if len(data) != 4 * dimension:
        raise InputError(
            f"{what} has the wrong size", expected=f"{dimension} numbers", got=f"{len(data)} bytes", code="wrong-shape"
        )
    vector = np.frombuffer(data, dtype="<f4")
    if not np.isfinite(vector).all():
        raise InputError(f"{what} holds a number that is not finite", code="not-finite")
    return vector


def counts_to_bytes(counts: NDArray[np.int64]) -> bytes:
    """Histogram counts of any shape as little-endian int64, row by row."""
    return np.ascontiguousarray(counts, dtype="<i8").tobytes()


def counts_from_bytes(data: bytes, shape: tuple[int, ...], least: int = 0) -> NDArray[np.int64]:
    """Counts of that shape, none below `least`: 0, or less where they are noised.

    Raises:
        InputError: another length, or a count below `least`.
    """
    size = int(np.prod(shape))
    if len(data) != 8 * size:
        raise InputError("the histogram has the wrong size", expected=f"{size} counts", code="wrong-shape")
    counts = np.frombuffer(data, dtype="<i8").reshape(shape)
    if (counts < least).any():
        raise InputError(
            "the histogram holds a negative count that no noise explains",
            expected=f"at least {least}",
            code="out-of-bounds",
        )
    return counts
