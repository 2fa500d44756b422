"""Patients who opted out: a list that every read of a hospital's data honours, from the next request on.

The list holds keyed hashes, as `cohort.patient_hash` makes them with the hospital's patient key; nobody without it
can tell who is on the list. An addition needs no approval: the cohort shrinks, and everything else stays. In
particular the privacy ledger does: what was spent on a patient is spent, an exclusion neither frees budget nor
opens one, and the registered digest, the reservation and the declared count remain those of the registration, which
are public constants.

Taking a patient off the list only lets a *new* registration read them again. So the list counts its changes, and
remembers for each entry when it was taken off; a registration knows the number of changes that it was made at, and
an entry holds for it unless it was taken off before then. Removals are part of what an approval is given for
(`Dataset.digest`), so that it must be given again.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError

from fedward.client.cohort import identifier, patient_hash
from fedward.privacy.canonical import canonical_json, digest
from fedward.privacy.errors import InputError, IntegrityError, UnreachableError
from fedward.study.fields import Part
from fedward.study.lock import hold
from fedward.study.manifest import HEX_KEY

if TYPE_CHECKING:
    from fedward.client.home import SiteHome

_PATIENCE_S = 10.0
Change = Annotated[int, Field(ge=0)]


class Entry(Part):
    """A patient's keyed hash, and the numbers of the changes by which it came on the list and was taken off."""

    patient: Annotated[str, Field(pattern=HEX_KEY)]
    added: Change
    removed: Change | None = None


class Exclusions(Part):
    """The list. `changes` counts every change, `removals` those that took somebody off."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    changes: Change = 0
    removals: Change = 0
    entries: tuple[Entry, ...] = ()

    def __len__(self) -> int:
        """How many patients are on the list now."""
        return sum(entry.removed is None for entry in self.entries)

    def held(self, since: int) -> frozenset[bytes]:
        """The hashes that a registration made at that change must leave out.

        Raises:
            IntegrityError: the list is older than the registration: it was put back, or is gone.
        """
        if since > self.changes:
            raise IntegrityError(
                "the exclusion list is older than the registration: patients who opted out may be missing from it",
                remedy="put back the newest list, or add the patients again and register the data again",
            )
        return frozenset(
            bytes.fromhex(entry.patient) for entry in self.entries if entry.removed is None or entry.removed > since
        )


_seen: dict[Path, int] = {}
"""Home → number of the newest change that this process knows of, by the audit log or by the list itself."""


def listed(home: SiteHome) -> Exclusions:
    """The list; empty where nobody ever opted out.

    Raises:
        IntegrityError: code `exclusions-rolled-back`: the audit log, or this process, knows of a later change.
    """
    found = Exclusions()
    if home.exclusions_file.is_file():
        found = home.read_part(home.exclusions_file, Exclusions, "exclusion list")
    place = home.path.resolve()
    newest = _seen[place] if place in _seen else _logged(home)
    if found.changes < newest:
        raise IntegrityError(
            "an older exclusion list was put back, or the list is gone: patients who opted out may be missing from it",
            expected=f"the list after change {newest}",
            got=f"change {found.changes}",
            remedy="put the newest list back from a backup; nothing is read until then",
            code="exclusions-rolled-back",
        )
    _seen[place] = found.changes
    return found


def forget(home: Path) -> None:
    """Another home lies at that path now."""
    _seen.pop(home.resolve(), None)


def _logged(home: SiteHome) -> int:
    """The newest change in the audit log since the home was last restored from a backup, which may put an older list in place."""
    newest = 0
    for entry in home.audit.entries():
        if entry.kind == "exclusions-changed":
            newest = int(entry.fields["count"])
        elif entry.kind == "restored":
            newest = 0
    return newest


def add(home: SiteHome, patients: Collection[str]) -> int:
    """Put patients on the list, durably; how many were not on it. It binds from the next request on."""
    wanted = _hashes(home, patients)
    with _changing(home):
        old = listed(home)
        fresh = wanted - {entry.patient for entry in old.entries if entry.removed is None}
        if fresh:
            change = old.changes + 1
            entries = (*old.entries, *(Entry(patient=patient, added=change) for patient in sorted(fresh)))
            _write(home, old.model_copy(update={"changes": change, "entries": entries}))
    return len(fresh)


def remove(home: SiteHome, patients: Collection[str]) -> int:
    """Take patients off the list; how many were on it. They return with a new registration and its approval, never before."""
    wanted = _hashes(home, patients)
    with _changing(home):
        old = listed(home)
        gone = {entry.patient for entry in old.entries if entry.removed is None and entry.patient in wanted}
        if gone:
            change = old.changes + 1
            entries = tuple(
                entry.model_copy(update={"removed": change})
                if entry.removed is None and entry.patient in gone
                else entry
                for entry in old.entries
            )
            _write(home, Exclusions(changes=change, removals=old.removals + 1, entries=entries))
    return len(gone)


def take_over(home: SiteHome, sealed: bytes) -> None:
    """Go on with a list as it lay encrypted in another copy of this home, if it is no older than the one here.

    Raises:
        IntegrityError: it is not this home's.
    """
    data = home.unseal(home.exclusions_file, sealed)
    try:
        found = Exclusions.model_validate_json(data)
    except ValidationError:
        raise IntegrityError(
            "the exclusion list is damaged", remedy="restore it from a backup", code="damaged"
        ) from None
    with _changing(home):
        old = listed(home)
        if found != old and found.changes >= old.changes:
            _write(home, found)


def note_restored(home: SiteHome) -> None:
    """Enter the list in the audit log as a restore left it: `_logged` begins anew there, and the list must not go unmissed.

    The restored home is nobody else's yet, so there is no lock.
    """
    found = listed(home)
    if found.changes:
        data = canonical_json(found.model_dump(mode="json"))
        home.record("exclusions-changed", digest=digest(data), count=found.changes)


def judge(home: SiteHome, since: int) -> Callable[[str], bool] | None:
    """Whether a patient is left out of a registration made at that change; None where nobody is.

    Raises:
        IntegrityError: as `Exclusions.held`.
    """
    held = listed(home).held(since)
    if not held:
        return None
    key = home.patient_key()
    # Also as written, and taken apart: earlier versions listed identifiers as they came.
    return lambda patient: any(
        patient_hash(name, key) in held
        for name in {patient, identifier(patient), unicodedata.normalize("NFD", patient.strip())}
    )


def read_ids(path: Path) -> list[str]:
    """Patients' identifiers from a text file, one a line, as the data has them; blank lines are skipped.

    Raises:
        InputError: the file is missing, or is no text.
    """
    if not path.is_file():
        raise InputError(f"no list of identifiers at {path}", remedy="give a text file with one identifier a line")
    flaw, text = "", ""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        flaw = type(error).__name__
    if flaw:
        raise InputError(f"{path.name} cannot be read as UTF-8 text", got=flaw, remedy="save it as UTF-8")
    return [identifier(line) for line in text.splitlines() if line.strip()]


def _hashes(home: SiteHome, patients: Collection[str]) -> set[str]:
    key = home.patient_key()
    return {patient_hash(identifier(patient), key).hex() for patient in patients}


def _write(home: SiteHome, exclusions: Exclusions) -> None:
    """The list first: a crash then leaves one that is newer than the log knows, which binds all the same."""
    data = canonical_json(exclusions.model_dump(mode="json"))
    home.write(home.exclusions_file, data)
    # The digest is of keyed hashes: it tells that the list changed, and nobody's name.
    home.record("exclusions-changed", digest=digest(data), count=exclusions.changes)


@contextmanager
def _changing(home: SiteHome) -> Iterator[None]:
    busy = UnreachableError("another command is changing the exclusion list", remedy="wait for it and try again")
    with hold(home.path / "exclusions.lock", _PATIENCE_S, lambda: busy):
        yield
