"""What parties tell each other of their audit logs, so that none can show different people different logs. Pure.

Coordinator and site exchange signed checkpoints. Each checks with a proof that the other's log continues the one that it saw
last, cosigns it, and logs it in its own. The coordinator brings each site the cosignatures of the others; two sites that were
shown different logs hold checkpoints that do not agree, and their exports betray it (`privacy.auditcompare`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, ValidationError

from fedward.privacy.auditexport import Trailer
from fedward.privacy.canonical import canonical_json
from fedward.privacy.checkpoint import Checkpoint, Note, Signature, check_signed, cosigners, parse_note, sign_checkpoint
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.log import AuditLog
from fedward.privacy.merkle import EMPTY_ROOT, check_consistency
from fedward.privacy.signing import Identity
from fedward.study.fields import Part
from fedward.study.manifest import HEX_KEY, explain

MOST_KEPT = 64
"""Cosigned checkpoints of the own log that are kept, the newest."""

MAX_PROOF = 64
NoteText = Annotated[str, Field(max_length=40_000)]
Hash = Annotated[str, Field(pattern=HEX_KEY)]
Proof = Annotated[tuple[Hash, ...], Field(max_length=MAX_PROOF)]
Size = Annotated[int, Field(ge=0, lt=2**53)]


class Sightings(Part):
    """What one party keeps of the exchange."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    own: Annotated[tuple[NoteText, ...], Field(max_length=MOST_KEPT)] = ()
    """Checkpoints of the own log with the cosignatures of others, the newest last."""
    others: dict[str, NoteText] = Field(default_factory=dict)
    """Log → its newest checkpoint that was verified here."""
    shown: dict[str, NoteText] = Field(default_factory=dict)
    """Log → its newest checkpoint that came with cosignatures of others."""
    conflicts: Annotated[tuple[NoteText, ...], Field(max_length=8)] = ()
    """Checkpoints, truly signed, that do not continue what was seen before."""
    keys: dict[str, Hash] = Field(default_factory=dict)
    """Log or cosigner → public key."""
    seen: dict[str, Size] = Field(default_factory=dict)
    """Site → how many entries of the coordinator's log it has seen; the coordinator's alone."""
    stale: Annotated[int, Field(ge=0)] = 0
    """How often in a row an older checkpoint came than one that was seen."""

    def newest_own(self) -> str:
        return self.own[-1] if self.own else ""

    def with_own(self, note: Note) -> Sightings:
        """With one more cosigned checkpoint of the own log; one of the same size is replaced."""
        rest = [text for text in self.own if parse_note(text).checkpoint.size != note.checkpoint.size]
        rest = sorted([*rest, note.text], key=lambda text: parse_note(text).checkpoint.size)
        return self.model_copy(update={"own": tuple(rest[-MOST_KEPT:])})

    def with_other(self, note: Note, key: str) -> Sightings:
        origin = note.checkpoint.origin
        return self.model_copy(
            update={"others": self.others | {origin: note.text}, "keys": self.keys | {origin: key}, "stale": 0}
        )

    def with_conflict(self, note: Note) -> Sightings:
        kept = [text for text in self.conflicts if text != note.text]
        return self.model_copy(update={"conflicts": (*kept, note.text)[-8:]})

    def other(self, origin: str) -> Note | None:
        """The newest verified checkpoint of a log."""
        text = self.others.get(origin)
        return None if text is None else parse_note(text)

    def of_site(self, site: str) -> Note | None:
        """The newest verified checkpoint of a site's log, by the site's name."""
        found = [text for origin, text in self.others.items() if origin.split("/")[1:3] == ["site", site]]
        return parse_note(found[0]) if found else None

    def without_site(self, site: str) -> Sightings:
        """As if nothing had been seen of a site."""
        others = {origin: text for origin, text in self.others.items() if origin.split("/")[1:3] != ["site", site]}
        seen = {name: size for name, size in self.seen.items() if name != site}
        return self.model_copy(update={"others": others, "seen": seen})

    def trailer(self, log: AuditLog, identity: Identity) -> Trailer:
        """What an export of the log says beside its entries. A note by a key that was replaced since is left out."""
        known = [parse_note(text) for text in (*self.others.values(), *self.shown.values(), *self.conflicts)]
        holding = {note.text: note for note in known if _holds(note, self.keys)}
        own = [parse_note(text) for text in self.own]
        checkpoint = sign_checkpoint(log.checkpoint(), identity)
        return Trailer(checkpoint, tuple(own), tuple(holding.values()), dict(self.keys))


class Brought(Part):
    """What the coordinator brings a site: the body of its request."""

    checkpoint: NoteText
    """Of its own log, signed."""
    since: Size
    """How many entries of it the site has seen, as the coordinator believes."""
    proof: Proof
    """That the checkpoint continues those."""
    cosigned: NoteText = ""
    """The newest of its checkpoints that others have cosigned."""
    yours: NoteText = ""
    """The newest checkpoint of the site's log that it knows, with its cosignature."""

    @property
    def canonical(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))


def parse_brought(body: bytes) -> Brought:
    """
    Raises:
        InputError: the body is of another form; code `malformed`.
    """
    try:
        brought = Brought.model_validate_json(body)
    except ValidationError as error:
        raise InputError("the checkpoint's body is not valid", got=explain(error), code="malformed") from None
    if brought.canonical != body:
        raise InputError("the checkpoint's body is not canonical", code="malformed")
    return brought


def check_continues(kept: Checkpoint | None, new: Checkpoint, proof: Sequence[str]) -> None:
    """That a log continues the one that was seen; nothing was seen where `kept` is None.

    Raises:
        IntegrityError: that is not shown.
    """
    old, root = (0, EMPTY_ROOT) if kept is None else (kept.size, kept.root)
    check_consistency(old, new.size, root, new.root, [bytes.fromhex(text) for text in proof])


def check_own(log: AuditLog, checkpoint: Checkpoint) -> None:
    """That a checkpoint which others have seen of the own log is of this log as it stands.

    Raises:
        IntegrityError: the own log is an older or another one than others have seen.
    """
    if checkpoint.origin != log.origin or checkpoint.size > log.size:
        raise IntegrityError(
            "the audit log is older than others have seen it",
            expected=f"{checkpoint.size} entries of {checkpoint.origin}",
            got=f"{log.size} of {log.origin}",
            remedy="restore the folder `audit` from the newest backup; what happened since is known to others in part only",
            code="audit-truncated",
        )
    if log.checkpoint(checkpoint.size).root != checkpoint.root:
        raise IntegrityError(
            "the audit log is another than others have seen",
            expected=f"the root that was signed at {checkpoint.size} entries",
            remedy="restore the folder `audit` from a backup; an export that somebody holds shows where it differs",
            code="audit-forked",
        )


def proof_text(proof: Sequence[bytes]) -> tuple[str, ...]:
    """A proof as messages carry it."""
    return tuple(one.hex() for one in proof)


def parse_signature(line: str, checkpoint: Checkpoint) -> Signature:
    """One signature line of a checkpoint.

    Raises:
        InputError: it is none.
    """
    note = parse_note(f"{checkpoint.text}\n{line}")
    if len(note.signatures) != 1:
        raise InputError("this is no signature line", code="malformed")
    return note.signatures[0]


def _holds(note: Note, keys: Mapping[str, str]) -> bool:
    try:
        check_signed(note, keys.get(note.checkpoint.origin, ""))
        cosigners(note, keys)
    except FedwardError:
        return False
    return True
