"""The one door out of the node: nothing leaves but what stands in its tables.

`RULES` names, for every kind of reply, every field that may leave, its form and why it leaves. Almost every field is known to
the coordinator before: it repeats the request, or the study that the hospital was offered. What is left is a rounded count, an
enumeration, a time or a random reference. `BODIES` does the same for the bytes after the header: their exact size, from the
request and the study, and their form. A field without a rule, a value of another form, one byte more: nothing leaves, and the
node sends the refusal `internal-error` instead.

Only this module packs a message with a site's key, and Flower's loop sends nothing that was not packed here: `Released`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NewType, get_args

import numpy as np

from fedward.client.datasets import ROUNDING
from fedward.privacy.checkpoint import parse_note
from fedward.privacy.errors import IntegrityError
from fedward.privacy.secagg import wire
from fedward.privacy.secagg.contexts import Batch
from fedward.privacy.secagg.faults import COORDINATOR
from fedward.privacy.signing import SIGNATURE_BYTES, Identity, from_text
from fedward.study import codes, messages
from fedward.study.kinds import AnySealed
from fedward.study.manifest import MAX_DECLARED_PATIENTS
from fedward.study.messages import (
    Advertise,
    Checkpoint,
    Declare,
    Ended,
    Masked,
    Offer,
    Request,
    StandingState,
    Step,
    Task,
    Work,
)
from fedward.study.sightings import MAX_PROOF
from fedward.study.sums import counts_shape
from fedward.study.versions import PROTOCOL
from fedward.study.witness import SignedHead

Released = NewType("Released", bytes)
"""A signed reply that passed the door. Made by `release` alone."""

LEAK: Final = "not-allowed-out"
"""Stands in the hospital's log. It isn't on the list of codes, so it leaves as `internal-error`."""


@dataclass(frozen=True)
class Asked:
    """What a reply answers, as the node knows it for itself: never as the reply says it.

    Attributes:
        site: this site's name.
        name: the SHA-256 of the request's bytes.
        request: the request, its signature checked; None where the bytes were no valid request.
        study: a study that was offered to this site, by its digest; raises FedwardError where there is none.
        batch: this node's place in secure aggregation, by study and batch; raises FedwardError where there is none.
    """

    site: str
    name: str
    request: Request | None
    study: Callable[[str], AnySealed]
    batch: Callable[[str, str], Batch]


Holds = Callable[[Any, Asked], bool]


@dataclass(frozen=True)
class Rule:
    """One field that may leave: what it can be, in words; why it leaves; and the check."""

    form: str
    why: str
    holds: Holds


def _exactly(value: object, expected: object) -> bool:
    return type(value) is type(expected) and value == expected


def _echo(name: str) -> Holds:
    """The value that the request itself has under that name."""
    return lambda value, asked: asked.request is not None and _exactly(value, getattr(asked.request, name, None))


def _whole(least: int, most: int) -> Holds:
    return lambda value, _asked: type(value) is int and least <= value <= most


def _one_of(*values: str) -> Holds:
    return lambda value, _asked: type(value) is str and value in values


def _rounded(value: object, _asked: Asked) -> bool:
    # One step above the most: the last count is rounded up.
    return type(value) is int and ROUNDING <= value <= MAX_DECLARED_PATIENTS + ROUNDING and value % ROUNDING == 0


def _noise(value: object, _asked: Asked) -> bool:
    return type(value) is float and 0 <= value <= 1e5 and round(value * 1000) / 1000 == value


def _code(value: object, asked: Asked) -> bool:
    """A code of the list; what a study demands of patients is answered where work is asked for, as people approved it."""
    if value == "not-eligible" and not isinstance(asked.request, (Work, Masked, Advertise)):
        return False
    return type(value) is str and value in codes.CODES


def _reference(value: object, _asked: Asked) -> bool:
    return type(value) is str and re.fullmatch(r"[0-9a-f]{12}", value) is not None


def _blamed(value: object, asked: Asked) -> bool:
    if value in ("", COORDINATOR):
        return type(value) is str
    study = getattr(asked.request, "study", None)
    return type(value) is str and study is not None and value in {entry.site for entry in asked.study(study).roster}


def _update_values(value: object, asked: Asked) -> bool:
    task = asked.request
    return isinstance(task, Task) and _exactly(value, task.dimension if task.train else 0)


def _histogram_values(value: object, asked: Asked) -> bool:
    task = asked.request
    return isinstance(task, Task) and _exactly(value, _counts_of(task, asked))


_ANSWERS: Final = "says which request it answers, so that it fits no other"
_KNOWN: Final = "repeats the request; the coordinator knows it"
_PROTOCOL: Final = Rule(
    "the number of the protocol that this program speaks",
    "lets another version be told by name, whichever side is older",
    lambda value, _asked: _exactly(value, PROTOCOL),
)
_SITE: Final = Rule("the site's own name, as enrolled", "says whose reply it is", lambda v, a: _exactly(v, a.site))
_REQUEST: Final = Rule("SHA-256 of the request's bytes", _ANSWERS, lambda v, a: _exactly(v, a.name))
_STUDY: Final = Rule("the study digest that the request names", _KNOWN, _echo("study"))
_BATCH: Final = Rule("the batch that the request names", _KNOWN, _echo("batch"))


def _head(value: object, asked: Asked) -> bool:
    if type(value) is not SignedHead or value.site != asked.site:
        return False
    # Checked again, as a bug could make one without its checks; a signature is 64 bytes and has no room for a text.
    return (
        SignedHead.model_validate(value.model_dump()) == value
        and len(from_text(value.signature, "head")) == SIGNATURE_BYTES
    )


def _note(value: object, asked: Asked) -> bool:
    """One checkpoint of this site's own audit log, with one signature and nothing else."""
    note = parse_note(value) if type(value) is str else None
    if note is None or note.checkpoint.origin.split("/")[1:3] != ["site", asked.site] or len(note.signatures) != 1:
        return False
    (signature,) = note.signatures
    return signature.name == note.checkpoint.origin and len(signature.data) == SIGNATURE_BYTES


def _proof(value: object, _asked: Asked) -> bool:
    whole = type(value) is tuple and len(value) <= MAX_PROOF
    return whole and all(type(one) is str and re.fullmatch("[0-9a-f]{64}", one) for one in value)  # type: ignore[attr-defined]


def _cosignature(value: object, asked: Asked) -> bool:
    """Key id, time and signature under this site's name: 76 bytes in base64."""
    if type(value) is not str or value == "":
        return value == ""
    line = rf"— fedward/site/{re.escape(asked.site)}/[0-9a-f]{{16}} [A-Za-z0-9+/]{{101}}[AQgw]==\n"
    return re.fullmatch(line, value) is not None


_HEAD: Final = Rule(
    "the newest entry's number and SHA-256 in this ledger, signed",
    "kept in a second place, so that a restored older ledger is noticed; tells how many entries the ledger has",
    _head,
)


def _kind(kind: str) -> Rule:
    return Rule(f'"{kind}"', "says how to read the rest", _one_of(kind))


RULES: Final[Mapping[str, Mapping[str, Rule]]] = MappingProxyType(
    {
        "declared": {
            "kind": _kind("declared"),
            "protocol": _PROTOCOL,
            "site": _SITE,
            "request": _REQUEST,
            "head": _HEAD,
            "study_id": Rule("the study id that the request names", _KNOWN, _echo("study_id")),
            "patients": Rule(
                "a count rounded to tens, at least ten",
                "the site's weight and quorum; only if the policy's share_cohort_size allows",
                _rounded,
            ),
            "noise_multiplier": Rule(
                "a noise multiplier in thousandths",
                "the noise that the study needs here, in one of seven steps; it tells how much budget is left, roughly",
                _noise,
            ),
        },
        "standing": {
            "kind": _kind("standing"),
            "protocol": _PROTOCOL,
            "site": _SITE,
            "request": _REQUEST,
            "head": _HEAD,
            "study": _STUDY,
            "state": Rule(
                "pending, approved, refused, revoked, expired or withdrawn",
                "whether people here decided",
                _one_of(*get_args(StandingState)),
            ),
            "at": Rule("a time in whole seconds", "when the person decided, or now", _whole(0, 2**53 - 1)),
        },
        "checkpointed": {
            "kind": _kind("checkpointed"),
            "protocol": _PROTOCOL,
            "site": _SITE,
            "request": _REQUEST,
            "head": _HEAD,
            "checkpoint": Rule(
                "the name, the number of entries and the Merkle root of this site's audit log, signed",
                "cosigned by others, so that a changed or shortened log is noticed; tells how many entries it has",
                _note,
            ),
            "proof": Rule(
                "at most 64 SHA-256 of salted entries of this site's audit log, or of such",
                "proves that the log continues the one that the coordinator saw last",
                _proof,
            ),
            "seen": Rule(
                "how many entries of the coordinator's audit log this site has seen",
                "which proof the coordinator owes",
                _whole(0, 2**53 - 1),
            ),
            "cosignature": Rule(
                "this site's signature of the coordinator's own checkpoint, or empty",
                "shows others what the coordinator showed this site",
                _cosignature,
            ),
        },
        "result": {
            "kind": _kind("result"),
            "protocol": _PROTOCOL,
            "site": _SITE,
            "request": _REQUEST,
            "head": _HEAD,
            "study": _STUDY,
            "round": Rule("the round that the request names", _KNOWN, _echo("round")),
            "attempt": Rule("the attempt that the request names", _KNOWN, _echo("attempt")),
            "base": Rule("the base model's digest that the request names", _KNOWN, _echo("base")),
            "update_values": Rule(
                "the model's number of parameters, or 0", "how to split the body; from the study alone", _update_values
            ),
            "histogram_values": Rule(
                "the histogram's number of cells, or 0", "how to split the body; from the study alone", _histogram_values
            ),
        },
        "secured": {
            "kind": _kind("secured"),
            "protocol": _PROTOCOL,
            "site": _SITE,
            "request": _REQUEST,
            "head": _HEAD,
            "study": _STUDY,
            "batch": _BATCH,
        },
        "refusal": {
            "kind": _kind("refusal"),
            "protocol": _PROTOCOL,
            "site": _SITE,
            "request": _REQUEST,
            "code": Rule(
                "one of the closed list `fedward.study.codes`; `not-eligible` only where work was asked for",
                "why the site refuses",
                _code,
            ),
            "blames": Rule(
                'a site of the study\'s roster, "coordinator", or empty', "whose message was false", _blamed
            ),
            "reference": Rule(
                "12 random hexadecimal digits", "finds the whole story in the hospital's own log", _reference
            ),
        },
    }
)  # fmt: skip
"""Kind of reply → field → rule. `body_sha256` is left out: `messages.pack` makes it of the body."""


@dataclass(frozen=True)
class Body:
    """What follows the header of a kind of reply."""

    form: str
    why: str
    holds: Callable[[bytes, Asked], bool]


def _counts_of(task: Task, asked: Asked) -> int:
    return math.prod(counts_shape(asked.study(task.study))) if task.evaluate else 0


def _empty(body: bytes, _asked: Asked) -> bool:
    return body == b""


def _update_and_counts(body: bytes, asked: Asked) -> bool:
    task = asked.request
    if not isinstance(task, Work) or asked.study(task.study).manifest.privacy.secure_aggregation:
        return False  # an update that is not masked leaves only in a study that the hospital approved as such
    parameters = task.dimension if task.train else 0
    if len(body) != 4 * parameters + 8 * _counts_of(task, asked):
        return False
    return bool(np.isfinite(np.frombuffer(body[: 4 * parameters], dtype="<f4")).all())


_STEPS: Final = {
    "advertise": wire.Kind.ADVERT,
    "share": wire.Kind.ROOTS,
    "open": wire.Kind.OPENED,
    "masked": wire.Kind.MASKED,
    "confirm": wire.Kind.CONFIRM,
    "unmask": wire.Kind.REVEAL,
}


def _step(body: bytes, asked: Asked) -> bool:
    request = asked.request
    if request is None or request.kind not in _STEPS:
        return False
    batch = asked.batch(getattr(request, "study", ""), getattr(request, "batch", ""))
    kind, sender = _STEPS[request.kind], batch.index(asked.site)
    return len(body) == _step_size(request, batch, asked) and wire.is_of(body, kind, sender)


def _step_size(request: Request, batch: Batch, asked: Asked) -> int:
    """The size of this site's message in a step of secure aggregation, from the request and the study alone."""
    if isinstance(request, Masked):
        bits = asked.study(request.study).manifest.privacy.ring_bits
        values = (request.dimension if request.train else 0) + _counts_of(request, asked)
        return wire.masked_size(values * bits // 8)
    return {
        "advertise": wire.advert_size,
        "share": wire.share_size,
        "open": wire.opened_size,
        "confirm": wire.confirm_size,
        "unmask": wire.reveal_size,
    }[request.kind](batch)


ANSWERS: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {
        "declared": (Declare,),
        "standing": (Offer, Ended),
        "checkpointed": (Checkpoint,),
        "result": (Work,),
        "secured": (Advertise, Step, Masked),
        "refusal": (Declare, Offer, Ended, Checkpoint, Work, Advertise, Step, Masked, type(None)),
    }
)
"""Kind of reply → the requests that it may answer; None stands for bytes that are no valid request."""

_NONE: Final = Body("nothing", "the header says all", _empty)
BODIES: Final[Mapping[str, Body]] = MappingProxyType(
    {
        "declared": _NONE,
        "standing": _NONE,
        "checkpointed": _NONE,
        "refusal": _NONE,
        "result": Body(
            "finite float32 of exactly the model's size, then int64 of exactly the histogram's size",
            "the clipped and noised update and the counts, in a study approved without secure aggregation",
            _update_and_counts,
        ),
        "secured": Body(
            "one message of `privacy.secagg.wire`, of the step's kind, this sender, and exactly its size",
            "public keys, encrypted shares, confirmations, the masked vector",
            _step,
        ),
    }
)


def release(reply: messages.Reply, body: bytes, asked: Asked, identity: Identity) -> Released:
    """The reply's signed bytes, once each of its fields and its body kept its rule.

    Raises:
        IntegrityError: code `not-allowed-out`; nothing may leave of this reply. The error names the field, never its value.
    """
    fields = dict(reply)  # as they are: a dump could make a rule's value of another one
    kind = fields.get("kind")
    rules = RULES.get(kind, {}) if isinstance(kind, str) else {}
    if type(reply) is not messages.REPLIES.get(str(kind)) or set(fields) != {"body_sha256", *rules}:
        raise _leak(f"a {type(reply).__name__} has other fields than may leave")
    if not isinstance(asked.request, ANSWERS[str(kind)]):
        raise _leak(f"a {kind} does not answer such a request")
    for name, rule in rules.items():
        if not _kept(lambda name=name, rule=rule: rule.holds(fields[name], asked)):  # type: ignore[misc]
            raise _leak(f'the field "{name}" of a {kind} is not {rule.form}')
    what = BODIES[str(kind)]
    if type(body) is not bytes or not _kept(lambda: what.holds(body, asked)):
        raise _leak(f"the body of a {kind} is not {what.form}")
    return Released(messages.pack(reply, body, identity))


def _kept(holds: Callable[[], bool]) -> bool:
    """Whether a rule is kept; one that cannot be checked is not."""
    try:
        return holds()
    except Exception:  # noqa: BLE001  # the door is shut by whatever goes wrong at it
        return False


def _leak(what: str) -> IntegrityError:
    return IntegrityError(what, remedy="report this as a fault of Fedward; nothing left the hospital", code=LEAK)
