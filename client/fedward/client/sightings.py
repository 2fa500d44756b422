"""A site's half of comparing audit logs: it checks the coordinator's, cosigns it, and says what its own has come to.

A coordinator's log that does not continue the one that this site saw is refused (`split-view`): an incident, whose evidence is the
request, signed by the coordinator; both checkpoints go into the site's next export.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedward.client import approvals
from fedward.client.home import SiteHome
from fedward.privacy.checkpoint import (
    Checkpoint,
    Note,
    Signature,
    check_signed,
    cosign,
    cosigned_at,
    parse_note,
    sign_checkpoint,
)
from fedward.privacy.errors import FedwardError, IntegrityError
from fedward.privacy.secagg.faults import COORDINATOR, ProtocolError
from fedward.privacy.signing import SIGNATURE_BYTES, Identity
from fedward.study.audit import FOLDER, coordinator_origin
from fedward.study.enrolment import JoinKit
from fedward.study.sightings import Brought, Sightings, check_continues, check_own, parse_brought, proof_text

MOST_STALE = 3
"""So many older checkpoints in a row are no request that was overtaken by a newer one."""


@dataclass(frozen=True)
class Said:
    """What the site answers."""

    own: Note
    proof: tuple[str, ...]
    seen: int
    cosignature: str


def sightings_file(home: SiteHome) -> Path:
    return home.path / FOLDER / "sightings.json"


def load_sightings(home: SiteHome) -> Sightings:
    """
    Raises:
        IntegrityError: the file was changed.
    """
    path = sightings_file(home)
    return home.read_part(path, Sightings, "file of checkpoints") if path.is_file() else _from_log(home)


def save_sightings(home: SiteHome, sightings: Sightings) -> None:
    home.write(sightings_file(home), sightings.model_dump_json().encode())


def answer_checkpoint(home: SiteHome, known: int, body: bytes, *, at: int) -> Said:
    """Check what the coordinator brings, and answer it.

    Args:
        home: the site.
        known: how many entries of this site's log the coordinator has seen.
        body: of its request.
        at: now, in Unix seconds.

    Raises:
        ProtocolError: `malformed`, or `split-view`: its log does not continue the one that was seen here.
        IntegrityError: this site's own log is older than, or another than, the coordinator has seen.
    """
    kit, identity, log = home.kit(), home.identity(), home.audit
    try:
        brought = parse_brought(body)
        note = parse_note(brought.checkpoint)
        if note.checkpoint.origin != coordinator_origin(kit.federation_id):
            raise IntegrityError("a checkpoint is of another log than this federation's")
        check_signed(note, kit.coordinator_key)
    except FedwardError as error:
        raise ProtocolError(error.what, code="malformed", blamed=COORDINATOR) from None
    sightings = _take_own(home, load_sightings(home), brought, kit, known)
    before = sightings.other(note.checkpoint.origin)
    cosignature, sightings = _take_other(home, sightings, brought, note, kit, identity, at)
    sightings = _take_cosigned(home, sightings, brought, before, kit, at)
    save_sightings(home, sightings)
    own = sign_checkpoint(log.checkpoint(), identity)
    log.keep_checkpoint(own.text)
    kept = sightings.other(note.checkpoint.origin)
    return Said(
        own,
        proof_text(log.consistency(known, own.checkpoint.size)),
        0 if kept is None else kept.checkpoint.size,
        cosignature,
    )


def _take_own(home: SiteHome, sightings: Sightings, brought: Brought, kit: JoinKit, known: int) -> Sightings:
    """What the coordinator has seen and cosigned of this site's log must be of the log as it stands."""
    log = home.audit
    if known > log.size:
        check_own(log, Checkpoint(log.origin, known, b""))
    if not brought.yours:
        return sightings
    try:
        note = parse_note(brought.yours)
        cosigned = cosigned_at(note, coordinator_origin(kit.federation_id), kit.coordinator_key)
    except FedwardError as error:
        raise ProtocolError(error.what, code="malformed", blamed=COORDINATOR) from None
    try:
        check_signed(note, home.identity().public)
    except IntegrityError:
        return sightings  # by a key that this site had before: nothing to hold against the log
    check_own(log, note.checkpoint)
    if cosigned is None:
        return sightings
    keys = sightings.keys | {coordinator_origin(kit.federation_id): kit.coordinator_key}
    return sightings.with_own(note).model_copy(update={"keys": keys})


def _take_other(
    home: SiteHome,
    sightings: Sightings,
    brought: Brought,
    note: Note,
    kit: JoinKit,
    identity: Identity,
    at: int,
) -> tuple[str, Sightings]:
    """The cosignature of the coordinator's checkpoint, if it continues what was seen; empty where that is not shown."""
    new, log = note.checkpoint, home.audit
    known = sightings.other(new.origin)
    kept = None if known is None else known.checkpoint
    if kept is not None and new.size <= kept.size:
        if new.size == kept.size and new.root != kept.root:
            raise _split(home, sightings, note, at)
        if new.size == kept.size:
            return cosign(new, log.origin, identity, at).line, sightings
        if sightings.stale + 1 >= MOST_STALE:
            raise _split(home, sightings, note, at)
        return "", sightings.model_copy(update={"stale": sightings.stale + 1})
    if brought.since != (0 if kept is None else kept.size):
        return "", sightings  # it has lost what this site saw, and learns it from the answer
    try:
        check_continues(kept, new, brought.proof)
    except IntegrityError:
        raise _split(home, sightings, note, at) from None
    home.record("checkpoint-received", at=at, origin=new.origin, size=new.size, root=new.root.hex())
    return cosign(new, log.origin, identity, at).line, sightings.with_other(note, kit.coordinator_key)


def _take_cosigned(
    home: SiteHome, sightings: Sightings, brought: Brought, before: Note | None, kit: JoinKit, at: int
) -> Sightings:
    """An earlier checkpoint of the coordinator with other sites' cosignatures: kept for the export, where it can be compared."""
    if not brought.cosigned:
        return sightings
    try:
        note = parse_note(brought.cosigned)
        check_signed(note, kit.coordinator_key)
    except FedwardError as error:
        raise ProtocolError(error.what, code="malformed", blamed=COORDINATOR) from None
    if note.checkpoint.origin != coordinator_origin(kit.federation_id):
        raise ProtocolError("a checkpoint is of another log", code="malformed", blamed=COORDINATOR)
    same = before is not None and before.checkpoint.size == note.checkpoint.size
    if same and before is not None and before.checkpoint.root != note.checkpoint.root:
        raise _split(home, sightings, note, at)
    keys = _site_keys(home)
    named = {
        one.name: keys.get(one.name.split("/")[2]) for one in note.signatures if one.name.startswith("fedward/site/")
    }
    known = {name: key for name, key in named.items() if key is not None}
    return sightings.model_copy(
        update={"shown": sightings.shown | {note.checkpoint.origin: note.text}, "keys": sightings.keys | known}
    )


def _split(home: SiteHome, sightings: Sightings, note: Note, at: int) -> ProtocolError:
    shown = note.checkpoint
    save_sightings(home, sightings.with_conflict(note))
    home.record("split-view", at=at, origin=shown.origin, size=shown.size, root=shown.root.hex())
    return ProtocolError(
        "the coordinator's audit log does not continue the one that this site was shown before",
        code="split-view",
        blamed=COORDINATOR,
        got=f"another log at {shown.size} entries",
        remedy="export this site's audit log and compare it with other exports: fedward audit verify FILE FILE",
    )


def _site_keys(home: SiteHome) -> dict[str, str]:
    """Site → public key, from the studies that were proposed here."""
    return {entry.site: entry.identity_key for sealed in approvals.proposals(home) for entry in sealed.roster}


def _from_log(home: SiteHome) -> Sightings:
    """Where the file is gone, the log still tells what was seen last: an unsigned stand-in for that checkpoint."""
    seen = {
        str(entry.fields["origin"]): Checkpoint(
            str(entry.fields["origin"]), int(entry.fields["size"]), bytes.fromhex(str(entry.fields["root"]))
        )
        for entry in home.audit.entries()
        if entry.kind == "checkpoint-received"
    }
    return Sightings(others={origin: _stand_in(checkpoint) for origin, checkpoint in seen.items()})


def _stand_in(checkpoint: Checkpoint) -> str:
    """It passes for nobody's signature, so it never gets into an export."""
    return Note(checkpoint, (Signature(checkpoint.origin, bytes(4), bytes(SIGNATURE_BYTES)),)).text
