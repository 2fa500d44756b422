"""Which certificate may carry which node's messages: the coordinator's table of credentials, and its rules.

1. A certificate is `issued` at enrolment, and `current` from the first connection over it; what the site had before is
   then `replaced`. So a site that has not fetched its kit yet, or whose switch failed, goes on with the old.
2. Keys that were replaced or revoked never come back, and no key serves two sites.
3. Revocation ends every credential of a site at once. Nothing undoes it; a site joins anew, with other keys.

A part of the store: these functions run within its transactions. `LiveCredentials` reads the same table for the guard.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fedward.privacy.errors import InputError, RefusalError, UsageError
from fedward.server.database import Database
from fedward.server.records import CredentialRow, Membership, SiteRow
from fedward.server.tables import CREDENTIALS

_LIVING = ("issued", "current")


def _row(row: Row[Any]) -> CredentialRow:
    return CredentialRow(**{name: value for name, value in row._mapping.items() if name != "number"})


def all_of(connection: Connection, site: str | None = None) -> list[CredentialRow]:
    """Every credential, or a site's, oldest first."""
    query = sa.select(CREDENTIALS).order_by(CREDENTIALS.c.issued_at, CREDENTIALS.c.number)
    if site is not None:
        query = query.where(CREDENTIALS.c.site == site)
    return [_row(row) for row in connection.execute(query)]


def issue(connection: Connection, made: CredentialRow) -> None:
    """Enter a fresh certificate.

    Raises:
        RefusalError: a key of it was replaced or revoked, or is another site's.
    """
    known = all_of(connection)
    for credential in known:
        shared = [
            name
            for name, ours, theirs in (
                ("identity key", made.identity_key, credential.identity_key),
                ("node key", made.node_key, credential.node_key),
                ("TLS key", made.tls_key, credential.tls_key),
            )
            if ours == theirs
        ]
        if not shared:
            continue
        if credential.site != made.site:
            raise RefusalError(
                f"the {shared[0]} of this request is another site's",
                got=f'site "{credential.site}"',
                remedy="ask the hospital to make keys of its own: fedward site init",
                code="key-in-use",
            )
        retired = [name for name in shared if credential.state == "revoked" or not _lives_on(name, made, known)]
        if not credential.lives and retired:
            raise RefusalError(
                f"the {retired[0]} of this request was {credential.state} before",
                expected="keys that were never replaced or revoked",
                remedy="ask the hospital for new keys: fedward site rotate"
                + (" --identity" if credential.state == "revoked" else ""),
                code="key-retired",
            )
    newest = connection.execute(sa.select(sa.func.max(CREDENTIALS.c.number))).scalar_one() or 0
    connection.execute(CREDENTIALS.insert().values(number=newest + 1, **asdict(made)))


def _lives_on(key: str, made: CredentialRow, known: Iterable[CredentialRow]) -> bool:
    """Whether a key is in use still: then only the certificate was replaced, or another of its keys."""
    field = {"identity key": "identity_key", "node key": "node_key", "TLS key": "tls_key"}[key]
    return any(
        other.lives and other.site == made.site and getattr(other, field) == getattr(made, field) for other in known
    )


def connected(connection: Connection, fingerprint: str, at: int) -> CredentialRow | None:
    """A site's node is connected over this certificate: it is current, and what was issued before is replaced.

    None if there is nothing to change.
    """
    found = next((row for row in all_of(connection) if row.fingerprint == fingerprint), None)
    if found is None or found.state != "issued":
        return None
    older = [row.fingerprint for row in all_of(connection, found.site) if row.lives]
    older = older[: older.index(fingerprint)]
    connection.execute(
        CREDENTIALS.update().where(CREDENTIALS.c.fingerprint.in_(older)).values(state="replaced", changed_at=at)
    )
    connection.execute(
        CREDENTIALS.update().where(CREDENTIALS.c.fingerprint == fingerprint).values(state="current", changed_at=at)
    )
    return found


def revoke(connection: Connection, site: str, reason: str, at: int) -> None:
    """End every credential of a site.

    Raises:
        InputError: it has none that lives.
    """
    living = sa.and_(CREDENTIALS.c.site == site, CREDENTIALS.c.state != "revoked")
    if not any(row.lives for row in all_of(connection, site)):
        raise InputError(
            f'site "{site}" has no certificate to revoke',
            expected="an enrolled site",
            remedy="run `fedward coordinator sites` to list them",
            code="not-enrolled",
        )
    connection.execute(CREDENTIALS.update().where(living).values(state="revoked", reason=reason, changed_at=at))


def is_revoked(credentials: Iterable[CredentialRow]) -> bool:
    """Whether a site with these credentials was revoked and has not joined anew."""
    rows = list(credentials)
    return any(row.state == "revoked" for row in rows) and not any(row.lives for row in rows)


def revoked_sites(connection: Connection) -> set[str]:
    """The sites that were revoked and have not joined anew."""
    by_site: dict[str, list[CredentialRow]] = {}
    for row in all_of(connection):
        by_site.setdefault(row.site, []).append(row)
    return {site for site, rows in by_site.items() if is_revoked(rows)}


def memberships(connection: Connection, sites: Iterable[SiteRow]) -> list[Membership]:
    """Every site as the coordinator lists it."""
    rows = all_of(connection)
    return [_membership(site, [row for row in rows if row.site == site.site]) for site in sites]


def _membership(site: SiteRow, rows: list[CredentialRow]) -> Membership:
    if site.revoked:
        last = max((row for row in rows if row.state == "revoked"), key=lambda row: row.changed_at)
        return Membership(site.site, site.identity_key, "revoked", None, last.reason, last.changed_at)
    living = [row for row in rows if row.lives]
    current = [row for row in living if row.state == "current"] or living
    rotating = len(living) > 1 and living[-1].state == "issued"
    return Membership(
        site.site,
        site.identity_key,
        "rotating" if rotating else "enrolled",
        current[-1].expires_at if current else None,
        changed_at=current[-1].changed_at if current else 0,
    )


def check_enrolment(known: SiteRow | None, made: CredentialRow, *, by_rotation: bool) -> None:
    """Whether these keys may be the site's.

    Raises:
        UsageError: the name is enrolled with another identity or other keys, and nothing but a rotation changes them.
    """
    if known is None or known.revoked or by_rotation:
        return
    if (known.identity_key, known.node_key) != (made.identity_key, made.node_key):
        raise UsageError(
            f'the name "{made.site}" is enrolled already, with other keys',
            remedy="choose another site name; an enrolled site changes its keys by `fedward site rotate`",
        )


class LiveCredentials:
    """The table as it is now, for every request of the guard: microseconds on SQLite while nothing changes, one query else.

    Where the database counts what others commit, what was read is forgotten only then. Thread-safe.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = database.watching()
        self._lock = threading.Lock()
        self._version: int | None = None
        self._rows: dict[str, CredentialRow | None] = {}

    def find(self, fingerprint: str) -> CredentialRow | None:
        """The credential of a certificate, by the SHA-256 of its DER.

        Raises:
            UnreachableError: the database cannot be asked now.
        """
        with self._lock, self._database.translating():
            try:
                return self._find(fingerprint)
            except sa.exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            self.close()  # the server was restarted
            return self._find(fingerprint)

    def _find(self, fingerprint: str) -> CredentialRow | None:
        if self._connection is None:
            self._connection = self._database.watching()
        version = self._database.changes(self._connection)
        if version is None or version != self._version:
            self._rows, self._version = {}, version
        if fingerprint not in self._rows:
            query = sa.select(CREDENTIALS).where(CREDENTIALS.c.fingerprint == fingerprint)
            found = self._connection.execute(query).first()
            self._rows[fingerprint] = None if found is None else _row(found)
        return self._rows[fingerprint]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
