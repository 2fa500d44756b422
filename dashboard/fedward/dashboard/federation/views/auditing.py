"""The Audit page: can I trust this record?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from fedward.dashboard import words
from fedward.dashboard.federation.views.overview import when
from fedward.privacy.auditentries import LogEntry
from fedward.privacy.checkpoint import check_signed, cosigners, parse_note
from fedward.privacy.errors import FedwardError, IntegrityError
from fedward.privacy.log import AuditLog
from fedward.study.audit import coordinator_origin
from fedward.study.sightings import Sightings, check_own

_DIGEST: Final = 64


@dataclass(frozen=True)
class Check:
    """One check of the record. `holds` is None where there is nothing to check yet; `found` says what was seen."""

    name: str
    holds: bool | None
    found: str


@dataclass(frozen=True)
class Countersigned:
    """The newest checkpoint of the log that a hospital vouches for: how many entries, and when (Unix seconds)."""

    site: str
    size: int
    at: int


def checks(
    log: AuditLog, federation: str, key: str | None, sightings: Sightings, sites: Mapping[str, str]
) -> Iterator[Check]:
    """Every check of a coordinator's log, one after the other; what fails says so, and the next is made all the same.

    Args:
        log: a copy of the log.
        federation: the federation's id, which names the log.
        key: the coordinator's public key as its sealed studies name it; None before there is one.
        sightings: what hospitals have signed.
        sites: by site, the identity key that it enrolled with.
    """
    yield _made("Every entry and every hash", lambda: _whole(log))
    yield _made("It is this federation's log", lambda: _named(log, federation))
    yield _made("The coordinator's own signature", lambda: _signed(log, key))
    yield _made("It is the log that hospitals have seen", lambda: _seen(log, sightings))
    yield _made("The hospitals' countersignatures", lambda: _countersigned(log, sightings, sites))
    yield _made("No hospital was shown another log", lambda: _one(sightings))


def _made(name: str, check: Callable[[], str | None]) -> Check:
    try:
        found = check()
    except FedwardError as error:
        return Check(name, False, error.what)
    return Check(name, None, "nothing to check yet") if found is None else Check(name, True, found)


def _whole(log: AuditLog) -> str:
    size = log.verify()
    return f"{words.counted(size, 'entry', 'entries')}, root {log.checkpoint(size).root.hex()[:16]}…"


def _named(log: AuditLog, federation: str) -> str:
    wanted = coordinator_origin(federation)
    if log.origin != wanted:
        raise IntegrityError(f"it is called {log.origin}, and this federation's is {wanted}", code="audit-changed")
    return log.origin


def _signed(log: AuditLog, key: str | None) -> str | None:
    note = log.kept_checkpoint()
    if note is None or key is None:
        return None
    kept = check_signed(parse_note(note), key)
    return f"signed at {words.counted(kept.size, 'entry', 'entries')}"


def _seen(log: AuditLog, sightings: Sightings) -> str | None:
    for text in sightings.own:
        check_own(log, parse_note(text).checkpoint)
    if not sightings.own:
        return None
    newest = parse_note(sightings.newest_own()).checkpoint
    return f"{words.counted(len(sightings.own), 'checkpoint', 'checkpoints')} of it, up to entry {newest.size}"


def _countersigned(log: AuditLog, sightings: Sightings, sites: Mapping[str, str]) -> str | None:
    found = countersigned(sightings, sites)
    for one in found:
        if one.size > log.size:
            raise IntegrityError(
                f"{one.site} countersigned {one.size} entries, and the log has {log.size}", code="audit-truncated"
            )
    return f"by {len(found)} of {words.counted(len(sites), 'hospital', 'hospitals')}" if found else None


def _one(sightings: Sightings) -> str | None:
    if sightings.conflicts:
        names = [parse_note(text).checkpoint.origin for text in sightings.conflicts]
        raise IntegrityError(f"checkpoints do not fit together: {words.listed(names)}", code="split-view")
    return "no conflicting checkpoint is known" if sightings.own or sightings.others else None


def countersigned(sightings: Sightings, sites: Mapping[str, str]) -> list[Countersigned]:
    """By site, the newest checkpoint of the coordinator's log with its countersignature, by the key that it enrolled with.

    Raises:
        IntegrityError: a countersignature that says to be by such a key is not.
    """
    found: dict[str, Countersigned] = {}
    named = {name: name.split("/")[2] for name in sightings.keys if name.startswith("fedward/site/")}
    keys = {name: sites[site] for name, site in named.items() if site in sites}
    for text in sightings.own:
        note = parse_note(text)
        for name, at in cosigners(note, keys).items():
            site = named[name]
            if site not in found or found[site].size <= note.checkpoint.size:
                found[site] = Countersigned(site, note.checkpoint.size, at)
    return [found[site] for site in sorted(found)]


def sentence(size: int, made: Sequence[Check] | None, signed: Sequence[Countersigned], sites: int) -> str:
    """Can I trust this record?"""
    said = f"countersigned by {len(signed)} of {words.counted(sites, 'hospital', 'hospitals')}"
    if made is None:
        return f"{words.counted(size, 'entry', 'entries')}, {said}; not verified on this page yet."
    failed = [check for check in made if check.holds is False]
    if failed:
        return f"The record does NOT hold: {failed[0].name}: {failed[0].found}."
    whole = next((check.found for check in made if check.name == "Every entry and every hash"), "")
    return f"Verified: {whole}, {said}."


def table(entries: Sequence[LogEntry], wanted: str = "") -> pd.DataFrame:
    """number, when (UTC), kind, what: newest first; those in which every word that is looked for stands."""
    terms = wanted.casefold().split()
    rows = []
    for entry in reversed(entries):
        text = "  ".join(f"{name}: {value}" for name, value in sorted(entry.fields.items()))
        row = (entry.number, when(entry.at), entry.kind, _short(text, entry))
        if all(term in f"{row[0]} {row[1]} {row[2]} {text}".casefold() for term in terms):
            rows.append(row)
    return pd.DataFrame(rows, columns=["number", "when (UTC)", "kind", "what"])


def _short(text: str, entry: LogEntry) -> str:
    """Digests shortened: their beginning names them."""
    for value in entry.fields.values():
        if isinstance(value, str) and len(value) == _DIGEST:
            text = text.replace(value, f"{value[:12]}…")
    return words.one_line(text, 300)


def signatures(found: Sequence[Countersigned], sites: Sequence[str], size: int) -> pd.DataFrame:
    """hospital, entries, of all, signed (UTC): up to where each hospital vouches for the log."""
    known = {one.site: one for one in found}
    rows = [
        (site, known[site].size, f"{known[site].size} of {size}", when(known[site].at))
        if site in known
        else (site, 0, "not yet", "")
        for site in sites
    ]
    return pd.DataFrame(rows, columns=["hospital", "entries", "of all", "signed (UTC)"])
