"""The coordinator's half of comparing audit logs: its checkpoint to every site, theirs back, each checked and cosigned.

It is no condition of a study: a site that cannot be reached is asked another time. A site whose log does not continue the one that
was seen here raises an alarm, as one whose ledger does not: it is asked nothing more until a named person has cleared it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedward.privacy.checkpoint import Note, check_signed, cosign, cosigned_at, parse_note, sign_checkpoint
from fedward.privacy.errors import FedwardError, IntegrityError, UnreachableError
from fedward.server import alarms
from fedward.server.home import CoordinatorHome
from fedward.server.proposal import exchange
from fedward.server.store import Store
from fedward.server.transport import Clock, Transport
from fedward.study import messages
from fedward.study.audit import FOLDER
from fedward.study.files import read_model, write_atomic
from fedward.study.lock import hold
from fedward.study.messages import Checkpoint, Checkpointed
from fedward.study.sightings import Brought, Sightings, check_continues, check_own, parse_signature, proof_text

EXCHANGE_S = 3.0
NO_STUDY = 0
"""The key of a run that only compares audit logs: the store counts studies from 1."""
_WENT_BACK = ("refused: audit-truncated", "refused: audit-forked")
"""What an honest site says whose log is older, or another, than the coordinator has seen: after a restore, perhaps."""

_ROUTINE = frozenset({"checkpoint-received", "exported"})


def sightings_file(home: CoordinatorHome) -> Path:
    return home.path / FOLDER / "sightings.json"


def load_sightings(home: CoordinatorHome) -> Sightings:
    """
    Raises:
        InputError: the file is damaged.
    """
    path = sightings_file(home)
    return read_model(path, Sightings, "file of checkpoints") if path.is_file() else Sightings()


def save_sightings(home: CoordinatorHome, sightings: Sightings) -> None:
    write_atomic(sightings_file(home), sightings.model_dump_json().encode(), 0o600)


def forget_site(home: CoordinatorHome, site: str) -> None:
    """A named person has looked into it: the site's next checkpoint is taken as it comes."""
    save_sightings(home, load_sightings(home).without_site(site))


def has_news(home: CoordinatorHome) -> bool:
    """Whether anything was logged since checkpoints were exchanged last, beside the exchange itself."""
    newest = load_sightings(home).newest_own()
    seen = parse_note(newest).checkpoint.size if newest else 0
    return any(entry.kind not in _ROUTINE for entry in home.audit.entries(seen))


def exchange_checkpoints(
    home: CoordinatorHome, store: Store, transport: Transport, clock: Clock, report: Callable[[str], None]
) -> None:
    """Exchange checkpoints with every site that can be reached. What goes wrong is reported, and never raised.

    Raises:
        UnreachableError: the own audit log cannot be written.
    """
    busy = UnreachableError("audit logs are being compared already", remedy="wait for it")
    try:
        with hold(home.path / FOLDER / "exchange.lock", 0.0, lambda: busy):
            _Exchange(home, store, transport, clock, report).run()
    except FedwardError as error:
        if error.code == "audit-unwritable":
            raise
        if error is not busy:
            report(f"audit logs were not compared: {error.text()}")


@dataclass
class _Exchange:
    home: CoordinatorHome
    store: Store
    transport: Transport
    clock: Clock
    report: Callable[[str], None]

    def run(self) -> None:
        self._identity = self.home.identity()
        self._origin = self.home.audit.origin
        self._sightings = load_sightings(self.home)
        for text in self._sightings.own[-1:]:  # others hold it: the log must still contain it
            check_own(self.home.audit, parse_note(text).checkpoint)
        self._note = sign_checkpoint(self.home.audit.checkpoint(), self._identity)
        self.home.audit.keep_checkpoint(self._note.text)
        online = self.transport.online()
        keys = {row.site: row.identity_key for row in self.store.sites() if row.site in online and not row.revoked}
        again = self._ask(keys)
        self._ask({site: keys[site] for site in again})
        save_sightings(self.home, self._sightings)

    def _ask(self, keys: dict[str, str]) -> list[str]:
        """Ask these sites; those that had seen something else of this log than was believed."""
        known = {site: self._known(site) for site in keys}
        requests = {
            site: messages.pack(
                Checkpoint(nonce=secrets.token_hex(32), known=0 if note is None else note.checkpoint.size),
                self._brought(site, note).canonical,
                self._identity,
            )
            for site, note in known.items()
        }
        again = []
        for site, answer in exchange(self.transport, self.clock, requests, keys, EXCHANGE_S).items() if keys else ():
            if answer.reason.startswith(_WENT_BACK):
                self._alarm(site, IntegrityError(f"the site says so itself ({answer.reason})"))
            elif not isinstance(answer.reply, Checkpointed):
                self.report(f"{site}'s audit log was not compared: {answer.reason or 'no usable answer'}")
            elif self._heard(site, keys[site], known[site], answer.reply):
                again.append(site)
        return again

    def _known(self, site: str) -> Note | None:
        return self._sightings.of_site(site)

    def _brought(self, site: str, note: Note | None) -> Brought:
        log, since = self.home.audit, self._sightings.seen.get(site, 0)
        return Brought(
            checkpoint=self._note.text,
            since=since,
            proof=proof_text(log.consistency(since, self._note.checkpoint.size)),
            cosigned=self._sightings.newest_own(),
            yours="" if note is None else note.text,
        )

    def _heard(self, site: str, key: str, known: Note | None, reply: Checkpointed) -> bool:
        """Take a site's answer; whether it is to be asked again, with the proof that it needs."""
        try:
            note = self._checked(site, key, known, reply)
        except FedwardError as error:
            self._alarm(site, error)
            return False
        if known is None or note.checkpoint.size > known.checkpoint.size:
            own = note.checkpoint
            self.home.record(
                "checkpoint-received", at=self.clock.unix(), origin=own.origin, size=own.size, root=own.root.hex()
            )
        cosigned = note.with_signatures([cosign(note.checkpoint, self._origin, self._identity, self.clock.unix())])
        self._sightings = self._sightings.with_other(cosigned, key)
        return self._cosigned(site, note.checkpoint.origin, key, reply)

    @staticmethod
    def _checked(site: str, key: str, known: Note | None, reply: Checkpointed) -> Note:
        note = parse_note(reply.checkpoint)
        check_signed(note, key)
        origin = note.checkpoint.origin
        if origin.split("/")[1:3] != ["site", site] or (known is not None and known.checkpoint.origin != origin):
            raise IntegrityError("it says to be another log than before", got=origin, code="audit-forked")
        check_continues(None if known is None else known.checkpoint, note.checkpoint, reply.proof)
        return note

    def _cosigned(self, site: str, origin: str, key: str, reply: Checkpointed) -> bool:
        """Keep the site's cosignature. Without one, it has seen another size than was believed."""
        believed, own = self._sightings.seen.get(site, 0), self._note.checkpoint
        seen = self._sightings.seen | {site: reply.seen}
        self._sightings = self._sightings.model_copy(update={"seen": seen})
        if reply.seen > own.size:
            self.home.record("split-view", at=self.clock.unix(), site=site, **_fields(self._note))
            self.report(
                f"{site} has seen {reply.seen} entries of this coordinator's audit log, and it has {own.size}: "
                "an older copy was put back; restore the folder `audit` from the newest backup"
            )
            self._sightings = self._sightings.model_copy(update={"seen": seen | {site: believed}})
            return False
        if not reply.cosignature:
            return reply.seen != believed
        try:
            line = parse_signature(reply.cosignature, own)
            if cosigned_at(Note(own, (line,)), origin, key) is None:
                raise IntegrityError("it is by another key")
        except FedwardError as error:
            self.report(f"{site}'s cosignature was not kept: {error.what}")
            return False
        self._note = self._note.with_signatures([line])
        self._sightings = self._sightings.with_own(self._note)
        return False

    def _alarm(self, site: str, error: FedwardError) -> None:
        what = alarms.audit_log_forked(error.what)
        self.home.record("alarm-raised", at=self.clock.unix(), site=site, code="split-view")
        self.store.raise_alarm(site, what, self.clock.unix())
        self.report(f"{site}: {what}")


def _fields(note: Note) -> dict[str, str | int | None]:
    checkpoint = note.checkpoint
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}
