"""Evidence of a lie, kept at the hospital that was lied to: what happened, and the signed bytes that prove it.

The evidence is the coordinator's request as it came (`FWD1`, see `fedward.study.messages`), so that whoever has the
coordinator's public key can verify it without trusting this hospital. In the folder (0700, its files 0600) lie

NNNNNN-REFERENCE.json   one incident, with its own SHA-256; the numbers rise in the order of recording
SHA256.fwd1             evidence, named by its content; written before the incident that names it
not-recorded.json       how many incidents came after the folder was full

Only the node writes here, and it runs alone under its lock; everyone else reads.
"""

from __future__ import annotations

import builtins
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from fedward.privacy.canonical import canonical_json, digest, digest_of
from fedward.privacy.durable import disk_error, sync_folder
from fedward.privacy.errors import FedwardError, InputError, IntegrityError
from fedward.privacy.signing import SIGNATURE_BYTES, verify
from fedward.study.fields import NAME, Part
from fedward.study.files import read_model, write_secret
from fedward.study.manifest import HEX_KEY, explain
from fedward.study.messages import Code, Count, open_request

MAX_INCIDENTS = 1_000
MAX_EVIDENCE_BYTES = 64 * 1024 * 1024
"""Of all evidence together: a coordinator that lies without end must not fill the hospital's disk."""
MAX_ONE_EVIDENCE_BYTES = 16 * 1024 * 1024
MAX_TEXT = 2_000
DAMAGED = "damaged-record"

_LAST_SECOND = 253_402_300_799
"""31 December 9999: the last day that a calendar can show."""
_COUNTER = "not-recorded.json"
_DAMAGED_COUNTER = "not-recorded.damaged.json"


@dataclass(frozen=True)
class Incident:
    """One lie that this site was told."""

    reference: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    """The same as in the site's log and in the refusal that left."""
    at: Annotated[int, Field(ge=0, le=_LAST_SECOND)]
    code: Code
    what: Annotated[str, Field(max_length=MAX_TEXT)]
    """For this hospital only."""
    study: Annotated[str, Field(pattern=rf"{HEX_KEY}|^$")]
    stage: Annotated[str, Field(pattern=r"^[a-z0-9 -]{0,48}$")]
    blamed: Annotated[str, Field(pattern=rf"{NAME}|^$")]
    evidence_sha256: Annotated[str, Field(pattern=rf"{HEX_KEY}|^$")]
    evidence_bytes: Count
    kept: bool
    """Whether the evidence's bytes are here; otherwise they were too many, or there were none."""
    times: Count = 1
    """How often the same evidence came with the same code; 0 if the folder was full and this was not recorded."""


class _Record(Part):
    """An incident as its file holds it. The digest tells a damaged text from a true one."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    incident: Incident
    sha256: Annotated[str, Field(pattern=HEX_KEY)]


class _NotRecorded(Part):
    count: Count


_INCIDENT = TypeAdapter(Incident)


class Incidents:
    """The incidents in a folder, which need not exist before the first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(
        self,
        *,
        reference: str,
        at: int,
        code: str,
        what: str,
        study: str = "",
        stage: str = "",
        blamed: str = "",
        evidence: bytes = b"",
    ) -> Incident:
        """Keep an incident and its evidence, durably; what is returned is what stands in the folder.

        The same evidence with the same code is counted in the incident that is there, whose (first) reference returns.
        Evidence that is too large, or for which the folder has no room, is kept as its SHA-256 and size.

        Args:
            what: cut at 2 000 characters; what could steer a terminal is replaced.

        Raises:
            InputError: a field is not what it must be.
            UnreachableError: the disk is full or the folder cannot be used; the incident may not be recorded.
        """
        fields = {
            "reference": reference,
            "at": at,
            "code": code,
            "what": _plain(what),
            "study": study,
            "stage": stage,
            "blamed": blamed,
            "evidence_sha256": digest(evidence) if evidence else "",
            "evidence_bytes": len(evidence),
            "kept": False,
        }
        try:
            return self._record(_INCIDENT.validate_json(canonical_json(fields)), evidence)
        except ValidationError as error:
            raise InputError("an incident cannot be recorded so", got=explain(error)) from None
        except OSError as error:
            raise self._unusable(error) from None

    def _record(self, new: Incident, evidence: bytes) -> Incident:
        self._prepare()
        entries = self._entries()
        number = 1 + max((_number(path) for path, _ in entries), default=0)
        path = self._folder / f"{number:06d}-{new.reference}.json"
        earlier = [(place, known) for place, known in entries if _same(known, new)]
        if earlier:
            path, known = earlier[0]
            new = replace(known, times=known.times + 1)
        elif len(entries) >= MAX_INCIDENTS:
            self._count_one()
            return replace(new, times=0)
        new = replace(new, kept=self._keep(evidence, new.evidence_sha256))
        write_secret(path, _packed(new))
        return new

    def _prepare(self) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(self._folder.parent)
        for half in (*self._folder.glob(".*.json.*"), *self._folder.glob(".*.fwd1.*")):
            half.unlink()  # what a crash left of a file that was being written

    def _keep(self, evidence: bytes, name: str) -> bool:
        """Whether the evidence lies in the folder now."""
        if not 0 < len(evidence) <= MAX_ONE_EVIDENCE_BYTES:
            return False
        path = self._evidence_file(name)
        if path.is_file() and path.stat().st_size == len(evidence) and digest(path.read_bytes()) == name:
            return True
        others = sum(file.stat().st_size for file in self._folder.glob("*.fwd1") if file != path)
        if others + len(evidence) > MAX_EVIDENCE_BYTES:
            return False
        write_secret(path, evidence)
        return True

    def _count_one(self) -> None:
        path = self._folder / _COUNTER
        count = self._counted()
        if count is None:  # moved, not replaced, so that the list goes on to show that something was lost
            path.replace(self._folder / _DAMAGED_COUNTER)
        write_secret(path, canonical_json({"count": (count or 0) + 1}))

    def _counted(self) -> int | None:
        """How many were not recorded; None if the file that says so is damaged."""
        path = self._folder / _COUNTER
        try:
            return read_model(path, _NotRecorded, "counter").count if os.path.lexists(path) else 0
        except (FedwardError, OSError):
            return None

    def not_recorded(self) -> int:
        """How many incidents came after the folder was full; 0 if that file is damaged, which `list` tells."""
        return self._counted() or 0

    def _entries(self) -> builtins.list[tuple[Path, Incident]]:
        """Every incident's file and what it says, or that it is damaged. Raises OSError if the folder has no list."""
        paths = sorted(path for path in self._folder.iterdir() if path.suffix == ".json" and path.name != _COUNTER)
        return [(path, _read(path)) for path in paths]

    def list(self) -> builtins.list[Incident]:
        """All incidents, newest last. One whose file is damaged has the code `damaged-record`.

        Raises:
            UnreachableError: the folder cannot be read.
        """
        try:
            found = [incident for _, incident in self._entries()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(error) from None
        return found if self._counted() is not None else [*found, _damaged(self._folder / _COUNTER)]

    def evidence(self, reference: str) -> bytes:
        """The bytes that prove an incident, checked against their SHA-256.

        Raises:
            InputError: no such incident, or its evidence was not kept.
            IntegrityError: the bytes are damaged or gone.
            UnreachableError: the folder cannot be read.
        """
        incident = self._with_evidence(reference)
        path = self._evidence_file(incident.evidence_sha256)
        try:
            data = path.read_bytes() if path.stat().st_size == incident.evidence_bytes else b""
        except OSError as error:
            raise _bad_evidence(incident, path, os.strerror(error.errno or 0)) from None
        if digest(data) != incident.evidence_sha256:
            raise _bad_evidence(incident, path, "other bytes")
        return data

    def _with_evidence(self, reference: str) -> Incident:
        incidents = self.list()
        named = [incident for incident in incidents if incident.reference == reference]
        for incident in reversed(named):
            if incident.kept:
                return incident
        kept = [incident.reference for incident in reversed(incidents) if incident.kept]
        more = f" and {len(kept) - 10} more" if len(kept) > 10 else ""
        raise InputError(
            f'the evidence of incident "{reference}" was not kept' if named else f'no incident "{_plain(reference)}"',
            expected=f"one of {', '.join(kept[:10])}{more}" if kept else "an incident with evidence; there is none",
            got=f"{named[-1].evidence_bytes} bytes, SHA-256 {named[-1].evidence_sha256 or 'none'}" if named else None,
            remedy="run `fedward site incidents` to list them",
            code="no-evidence",
        )

    def _evidence_file(self, name: str) -> Path:
        return self._folder / f"{name}.fwd1"

    def _unusable(self, error: OSError) -> FedwardError:
        return disk_error(error, f"the incidents in {self._folder} cannot be used")


def _same(known: Incident, new: Incident) -> bool:
    """Whether the very same evidence came for the same reason. Without evidence nothing says that it is the same."""
    return bool(new.evidence_sha256) and (known.evidence_sha256, known.code) == (new.evidence_sha256, new.code)


def _plain(text: str) -> str:
    """One line that cannot steer a terminal and that UTF-8 can hold."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:MAX_TEXT])


def _number(path: Path) -> int:
    found = re.match(r"[0-9]{6,12}(?=-)", path.name)
    return int(found[0]) if found else 0


def _packed(incident: Incident) -> bytes:
    fields = asdict(incident)
    return canonical_json({"format": 1, "incident": fields, "sha256": digest_of(fields)})


def _read(path: Path) -> Incident:
    """An incident's file; a damaged one is an incident too, for whoever damaged it must not hide it."""
    try:
        incident = read_model(path, _Record, "incident").incident
        whole = path.read_bytes() == _packed(incident)
    except (FedwardError, OSError):
        return _damaged(path)
    return incident if whole else _damaged(path)


def _damaged(path: Path) -> Incident:
    named = re.fullmatch(r"[0-9]+-([0-9a-f]{12})\.json", path.name)
    try:
        at = int(path.lstat().st_mtime)
    except OSError:
        at = 0
    return Incident(
        reference=named[1] if named else "",
        at=min(max(at, 0), _LAST_SECOND),
        code=DAMAGED,
        what=_plain(f"{path.name} is damaged; the evidence that it named, if any, is still in {path.parent}"),
        study="",
        stage="",
        blamed="",
        evidence_sha256="",
        evidence_bytes=0,
        kept=False,
    )


def _bad_evidence(incident: Incident, path: Path, got: str) -> IntegrityError:
    return IntegrityError(
        f"the evidence of incident {incident.reference} is damaged",
        expected=f"{incident.evidence_bytes} bytes with the SHA-256 {incident.evidence_sha256}",
        got=got,
        remedy=f"restore {path} from a backup",
        code="damaged-evidence",
    )


def signed_by(evidence: bytes, coordinator: str) -> bool:
    """Whether the bytes are a message signed by that key. A signed message that is no valid request is signed, too."""
    try:
        open_request(evidence, coordinator)
    except FedwardError as error:
        return error.code != "bad-signature" and _signature_holds(evidence, coordinator)
    return True


def _signature_holds(evidence: bytes, coordinator: str) -> bool:
    try:
        verify(coordinator, "message", evidence[:-SIGNATURE_BYTES], evidence[-SIGNATURE_BYTES:], "the evidence")
    except IntegrityError:
        return False
    return True
