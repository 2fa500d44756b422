"""The coordinator's record: sites, studies, attempts, every site's status, metrics, models, and the journal.

In a SQLite file or a PostgreSQL database (`storeplace`): a call that returns has reached the disk, and writers follow one another.
The journal is append-only (`tables`) and every step stands in it before it is acted on; a commit writes the model, the round's
outcome and every site's status in one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from fedward.privacy.canonical import digest
from fedward.privacy.errors import InputError, IntegrityError, RefusalError
from fedward.server import credentials, leases
from fedward.server.credentials import LiveCredentials
from fedward.server.database import Database
from fedward.server.leases import Holder, Lease
from fedward.server.lifecycle import Began, Event, Life, PersonsEvent, after, order
from fedward.server.records import (
    AlarmRow,
    AttemptRow,
    Checkpoint,
    Contribution,
    CredentialRow,
    Evaluation,
    JournalEntry,
    LostModel,
    Membership,
    MetricRow,
    ReleaseRow,
    SharedMetrics,
    SiteRow,
    StandingRow,
    StatusRow,
    StudyRow,
    in_force,
)
from fedward.server.round import Outcome, SiteState
from fedward.server.storeformat import check_format
from fedward.server.storeplace import at_place
from fedward.server.tables import (
    ALARMS,
    ATTEMPTS,
    CHECKPOINTS,
    EVALUATIONS,
    HEADS,
    JOURNAL,
    METRICS,
    RELEASES,
    SHARED,
    SITES,
    STANDINGS,
    STATUSES,
    STUDIES,
)
from fedward.study.witness import SignedHead

RESTORED_JUMP = 10_000
"""How much higher attempts go on after a restore: more than any study makes; a request's may be 1 000 000 at most."""
KEPT_BYTES, KEPT_LEAST, KEPT_MOST = 2**28, 2, 20
"""A run can go back to a model whose optimiser's state is kept: so many of the newest, as fit into so many bytes."""
R = TypeVar("R")


class Store:
    """All reads and writes of the record. Times are unix seconds, given by the caller."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._token: int | None = None

    @classmethod
    def open(cls, place: Path | str, *, read_only: bool = False) -> Store:
        """The store in a SQLite file, or by the URL of a PostgreSQL database; made there if there is none.

        Raises:
            IntegrityError: the file is no store, or is damaged.
            InputError: there is none, and read_only; `newer-store`, `older-store`: its format is not this version's; the URL names
                no PostgreSQL database.
            UnreachableError: `store-unreachable`, `store-locked`.
            RefusalError: `store-not-durable`: the database's server says a commit is done before it is on the disk.
        """
        database = at_place(place, read_only=read_only)
        try:
            with database.translating():
                found = database.format()
                if found is None and read_only:
                    raise InputError(f"no store at {database.shown}", remedy="give the coordinator's --home")
                check_format(found, database.shown)
                if found is None:
                    database.make()
                store = cls(database)
                store._rows(sa.select(sa.func.count()).select_from(STUDIES))
        except BaseException:
            database.close()
            raise
        return store

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._database.writing() as connection:
            if self._token is not None:
                leases.require(connection, self._token)
            yield connection

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._database.reading() as connection:
            yield connection

    def _rows(self, query: sa.Select[Any]) -> Sequence[Row[Any]]:
        with self._read() as connection:
            return connection.execute(query).all()

    # the service's lease

    def take_lease(self, holder: Holder) -> int:
        """Serve this store from now on; the token. Whoever wrote under an earlier one can write no more.

        Raises:
            UnreachableError: `lease-held`: another service does.
        """
        with self._database.writing() as connection:
            token = leases.take(connection, holder, self._database.now(connection))
        self._token = token
        return token

    def write_under(self, token: int) -> None:
        """Write only while the lease of this token is the newest: else every write raises UnreachableError, `lease-lost`."""
        self._token = token

    def renew_lease(self) -> None:
        """Hold what `take_lease` took for longer. Raises: UnreachableError, `lease-lost`."""
        if self._token is not None:
            with self._database.writing() as connection:
                leases.renew(connection, self._token, self._database.now(connection))

    def release_lease(self) -> None:
        """Let another service take over at once; this store writes no more. Raises: UnreachableError, `lease-lost`."""
        if self._token is not None:
            with self._database.writing() as connection:
                leases.release(connection, self._token, self._database.now(connection))
            self._token = 0

    @contextmanager
    def under_lease(self) -> Iterator[None]:
        """A block that changes something beside the store: no service takes over within it, and only this one's lease allows it.

        Raises:
            UnreachableError: `lease-lost`.
        """
        with self._write() if self._token is not None else nullcontext():
            yield

    def lease(self) -> Lease | None:
        """Who serves this store, or did last."""
        with self._read() as connection:
            return leases.held(connection)

    def _records(self, record: Callable[..., R], query: sa.Select[Any]) -> list[R]:
        """Rows whose columns are a record's fields, as `_select` orders them."""
        return [record(*row) for row in self._rows(query)]

    # sites

    def sites(self) -> list[SiteRow]:
        """Every enrolled site, by name; those that were revoked too, and marked so."""
        with self._read() as connection:
            rows = connection.execute(sa.select(SITES).order_by(SITES.c.site)).all()
            revoked = credentials.revoked_sites(connection)
        return [
            SiteRow(r.site, r.identity_key, r.node_key, int(r.node_id) if r.node_id else None, r.site in revoked)
            for r in rows
        ]

    def set_node(self, site: str, node_id: int) -> None:
        """The transport's number of a site: 64 bits unsigned, which SQLite's integers cannot hold."""
        with self._write() as connection:
            connection.execute(SITES.update().where(SITES.c.site == site).values(node_id=str(node_id)))

    # credentials

    def enrol(self, made: CredentialRow, *, by_rotation: bool = False) -> None:
        """Enter a site's fresh certificate, and the site if it is new or joins anew after it was revoked.

        Raises:
            UsageError: the name or the identity is taken, and no rotation asks to change it.
            RefusalError: a key was replaced or revoked before, or is another site's.
        """
        with self._write() as connection:
            row = connection.execute(sa.select(SITES).where(SITES.c.site == made.site)).first()
            revoked = made.site in credentials.revoked_sites(connection)
            known = None if row is None else SiteRow(row.site, row.identity_key, row.node_key, None, revoked)
            credentials.check_enrolment(known, made, by_rotation=by_rotation)
            credentials.issue(connection, made)
            keys = {"identity_key": made.identity_key, "node_key": made.node_key, "enrolled_at": made.issued_at}
            if known is None:
                connection.execute(SITES.insert().values(site=made.site, **keys))
            elif known.revoked:
                connection.execute(SITES.update().where(SITES.c.site == made.site).values(node_id=None, **keys))

    def connected(self, fingerprint: str, at: int) -> CredentialRow | None:
        """A node is connected over this certificate: it and its keys are the site's now. None if they were already."""
        with self._write() as connection:
            found = credentials.connected(connection, fingerprint, at)
            if found is not None:
                keys = {"identity_key": found.identity_key, "node_key": found.node_key}
                connection.execute(SITES.update().where(SITES.c.site == found.site).values(**keys))
            return found

    def revoke(self, site: str, reason: str, at: int) -> None:
        """End every credential of a site, at once and for good.

        Raises:
            InputError: it has none.
        """
        with self._write() as connection:
            credentials.revoke(connection, site, reason, at)

    def credentials(self, site: str | None = None) -> list[CredentialRow]:
        """Every credential, or a site's, oldest first."""
        with self._read() as connection:
            return credentials.all_of(connection, site)

    def memberships(self) -> list[Membership]:
        """Every site with the state of its certificate."""
        sites = self.sites()
        with self._read() as connection:
            return credentials.memberships(connection, sites)

    def live_credentials(self) -> LiveCredentials:
        """The table of credentials for who must see every change at once."""
        return LiveCredentials(self._database)

    # heads of the sites' ledgers

    def head(self, site: str) -> SignedHead | None:
        """The newest ledger head that a site said."""
        rows = self._rows(sa.select(HEADS).where(HEADS.c.site == site))
        return (
            SignedHead(site=site, sequence=rows[0].sequence, digest=rows[0].digest, signature=rows[0].signature)
            if rows
            else None
        )

    def set_head(self, head: SignedHead, at: int) -> None:
        with self._write() as connection:
            connection.execute(HEADS.delete().where(HEADS.c.site == head.site))
            connection.execute(HEADS.insert().values(**head.model_dump(), at=at))

    def raise_alarm(self, site: str, what: str, at: int) -> None:
        """Record that a site's ledger cannot be; one that is open already says enough."""
        with self._write() as connection:
            open_ = sa.and_(ALARMS.c.site == site, ALARMS.c.cleared_at.is_(None))
            if connection.execute(sa.select(ALARMS.c.number).where(open_)).first() is None:
                connection.execute(ALARMS.insert().values(site=site, what=what, at=at))

    def alarms(self) -> list[AlarmRow]:
        """The alarms that nobody has cleared, by site."""
        query = sa.select(ALARMS).where(ALARMS.c.cleared_at.is_(None)).order_by(ALARMS.c.site)
        return [AlarmRow(row.site, row.what, row.at) for row in self._rows(query)]

    def clear_alarm(self, site: str, by: str, why: str, at: int) -> None:
        """A named person has looked into it: the site's next head is taken as it comes.

        Raises:
            InputError: the site has no alarm.
        """
        with self._write() as connection:
            open_ = sa.and_(ALARMS.c.site == site, ALARMS.c.cleared_at.is_(None))
            done = connection.execute(
                ALARMS.update().where(open_).values(cleared_by=by, cleared_why=why, cleared_at=at)
            )
            if done.rowcount == 0:
                raise InputError(f'site "{site}" has no alarm', remedy="run `fedward coordinator status` to list them")
            connection.execute(HEADS.delete().where(HEADS.c.site == site))

    def stamp(self) -> tuple[int, ...]:
        """Changes with all that a reader sees of studies and alarms; two look-ups, however long the record is."""
        with self._read() as connection:
            newest = connection.execute(sa.select(sa.func.coalesce(sa.func.max(JOURNAL.c.sequence), 0))).scalar_one()
            open_ = sa.func.coalesce(sa.func.sum(sa.case((ALARMS.c.cleared_at.is_(None), 1), else_=0)), 0)
            count, still = connection.execute(sa.select(sa.func.count(), open_).select_from(ALARMS)).one()
        return int(newest), int(count), int(still)

    # studies

    def create_study(self, study_id: str, manifest: str, invited: Sequence[str], at: int) -> int:
        """A draft that waits for its proposal; returns its key."""
        with self._write() as connection:
            result = connection.execute(
                STUDIES.insert().values(
                    study_id=study_id,
                    manifest=manifest,
                    invited=json.dumps(list(invited)),
                    state="draft",
                    reason="",
                    wish="propose",
                    created_at=at,
                    changed_at=at,
                )
            )
            key = result.inserted_primary_key
            if key is None:
                raise IntegrityError("the store did not number a study")
            self._append(connection, int(key[0]), "drafted", {"study_id": study_id}, at)
            return int(key[0])

    def seal(self, study: int, sealed: bytes, signature: bytes, digest: str, at: int) -> None:
        with self._write() as connection:
            self._append(connection, study, "sealed", {"digest": digest}, at)
            connection.execute(
                STUDIES.update()
                .where(STUDIES.c.key == study)
                .values(sealed=sealed, signature=signature, digest=digest, changed_at=at)
            )

    def happened(self, study: int, event: Event, at: int) -> Life:
        """Take an event into a study's life, as `lifecycle` decides; the service acts on a wish, now or after a restart.

        Returns:
            its life after the event; as it was where the event changes nothing.

        Raises:
            RefusalError: as `lifecycle.after`.
            InputError: no such study.
        """
        with self._write() as connection:
            row = connection.execute(sa.select(STUDIES).where(STUDIES.c.key == study)).first()
            if row is None:
                raise InputError(f"no study number {study}")
            before = _study(row).life
            now = after(before, event)
            if now.state == before.state and isinstance(event, PersonsEvent):
                if now.wish != before.wish:
                    self._append(connection, study, "wish", {"wish": now.wish}, at)
            elif now != before or (isinstance(event, Began) and order(now) == "go"):
                data = {"state": now.state, "reason": now.reason} | ({} if now.code is None else {"code": now.code})
                self._append(connection, study, "state", data, at)
            values = {"state": now.state, "reason": now.reason, "code": now.code, "wish": now.wish}
            if now != before:
                connection.execute(STUDIES.update().where(STUDIES.c.key == study).values(**values, changed_at=at))
            return now

    def studies(self) -> list[StudyRow]:
        """Every study, newest first."""
        return [_study(row) for row in self._rows(sa.select(STUDIES).order_by(STUDIES.c.key.desc()))]

    def study(self, key: int) -> StudyRow:
        """
        Raises:
            InputError: no such study.
        """
        rows = self._rows(sa.select(STUDIES).where(STUDIES.c.key == key))
        if not rows:
            raise InputError(f"no study number {key}")
        return _study(rows[0])

    def find(self, reference: str) -> StudyRow:
        """The newest study of that id, or the one whose digest begins so.

        Raises:
            InputError: none, or several digests begin so.
        """
        studies = self.studies()
        named = [study for study in studies if study.study_id == reference]
        if named:
            return named[0]
        found = [study for study in studies if study.digest is not None and study.digest.startswith(reference)]
        if len(found) != 1 or len(reference) < 6:
            known = ", ".join(sorted({study.study_id for study in studies})) or "none yet"
            raise InputError(
                f'no single study is meant by "{reference}"',
                expected=f"a study id ({known}), or 6 or more digits of its digest",
                remedy="run `fedward coordinator status` to list them",
            )
        return found[0]

    def set_standing(self, study: int, site: str, state: str, reason: str, evidence: bytes | None, at: int) -> None:
        """What a site last said of a proposal; `evidence` is its signed reply."""
        values = {"state": state, "reason": reason, "evidence": evidence, "at": at}
        with self._write() as connection:
            where = sa.and_(STANDINGS.c.study == study, STANDINGS.c.site == site)
            known = connection.execute(sa.select(STANDINGS.c.state, STANDINGS.c.reason).where(where)).first()
            if known is not None and (known.state, known.reason) == (state, reason):
                return
            self._append(connection, study, "standing", {"site": site, "state": state, "reason": reason}, at)
            if known is None:
                connection.execute(STANDINGS.insert().values(study=study, site=site, **values))
            else:
                connection.execute(STANDINGS.update().where(where).values(**values))

    def standings(self, study: int) -> list[StandingRow]:
        rows = self._rows(sa.select(STANDINGS).where(STANDINGS.c.study == study).order_by(STANDINGS.c.site))
        return [StandingRow(r.site, r.state, r.reason, r.at) for r in rows]

    def evidence(self, study: int) -> dict[str, bytes]:
        """Each site's newest signed word on a proposal, of the sites that gave one."""
        rows = self._rows(sa.select(STANDINGS).where(STANDINGS.c.study == study).order_by(STANDINGS.c.site))
        return {row.site: row.evidence for row in rows if row.evidence is not None}

    # attempts

    def open_attempt(
        self, study: int, round_: int, attempt: int, base: str, cohort: Sequence[str], at: int, *, run: int = 1
    ) -> None:
        """Journal an attempt before anything of it is sent. `run` counts the processes that have run the study."""
        with self._write() as connection:
            self._append(
                connection,
                study,
                "opened",
                {"run": run, "round": round_, "attempt": attempt, "base": base, "cohort": list(cohort)},
                at,
            )
            connection.execute(
                ATTEMPTS.insert().values(
                    study=study, attempt=attempt, round=round_, asked=len(cohort), base=base, reason="", opened_at=at
                )
            )

    def close_attempt(
        self,
        study: int,
        attempt: int,
        outcome: Outcome,
        reason: str,
        sites: Mapping[str, SiteState],
        seconds: float | None,
        at: int,
        *,
        commit: Checkpoint | None = None,
        evaluation: Evaluation | None = None,
        updates: Mapping[str, str] | None = None,
    ) -> None:
        """End an attempt in one transaction: outcome, every site's status, and, when committed, the new model.

        Args:
            updates: by site, the digest of the signed reply whose numbers are in the sum; the journal keeps them, and that of the
                optimiser's state.
        """
        ended = {"attempt": attempt, "outcome": outcome, "reason": reason, "model": commit.model if commit else None}
        summed = {"updates": dict(updates or {}), "optimiser": digest(commit.optimiser) if commit else None}
        with self._write() as connection:
            self._append(connection, study, "closed", ended | summed if updates or commit else ended, at)
            connection.execute(
                ATTEMPTS.update()
                .where(ATTEMPTS.c.study == study, ATTEMPTS.c.attempt == attempt)
                .values(outcome=outcome, reason=reason, seconds=seconds, model=commit.model if commit else None)
            )
            if sites:
                connection.execute(
                    STATUSES.insert(),
                    [
                        {
                            "study": study,
                            "attempt": attempt,
                            "site": site,
                            "status": state.status,
                            "reason": state.reason,
                            "seconds": state.took,
                        }
                        for site, state in sites.items()
                    ],
                )
            if commit is not None:
                self._set_checkpoint(connection, study, commit)
            if evaluation is not None:
                self._add_evaluation(connection, study, evaluation)

    def start(self, study: int, checkpoint: Checkpoint, at: int) -> None:
        """Record the initial model (version 0) and that the study runs."""
        with self._write() as connection:
            data = {"model": checkpoint.model, "optimiser": digest(checkpoint.optimiser)}
            self._append(connection, study, "started", data, at)
            self._set_checkpoint(connection, study, checkpoint)

    def _set_checkpoint(self, connection: Connection, study: int, checkpoint: Checkpoint) -> None:
        """The newest one; a test of the last model commits that model again."""
        kept = min(max(KEPT_BYTES // max(len(checkpoint.optimiser), 1), KEPT_LEAST), KEPT_MOST)
        version, of = CHECKPOINTS.c.version, CHECKPOINTS.c.study == study
        gone = sa.or_(version >= checkpoint.version, version <= checkpoint.version - kept)
        connection.execute(CHECKPOINTS.delete().where(of, gone))
        connection.execute(
            CHECKPOINTS.insert().values(
                study=study, version=checkpoint.version, model=checkpoint.model, state=checkpoint.optimiser
            )
        )

    def lose(self, study: int, kept: int, lost: Sequence[LostModel], at: int) -> None:
        """Go back to an earlier version, in one transaction: the rounds after it are marked as lost, and what was measured of
        their models is taken out. What they cost, and their numbers, stay."""
        with self._write() as connection:
            why = f"committed, and lost: {lost[0].why}"
            data = {
                "kept": kept,
                "lost": [{"version": one.version, "model": one.model, "why": one.why} for one in lost],
            }
            self._append(connection, study, "lost", data, at)
            connection.execute(
                ATTEMPTS.update()
                .where(ATTEMPTS.c.study == study, ATTEMPTS.c.round > kept, ATTEMPTS.c.outcome == Outcome.COMMITTED)
                .values(outcome=Outcome.LOST, reason=why)
            )
            for table in (CHECKPOINTS, EVALUATIONS, METRICS):
                connection.execute(table.delete().where(table.c.study == study, table.c.version > kept))

    def _add_evaluation(self, connection: Connection, study: int, evaluation: Evaluation) -> None:
        where = {"study": study, "version": evaluation.version}
        for table in (EVALUATIONS, METRICS):  # a resumed study may evaluate a version again; the newer sum stands
            connection.execute(table.delete().where(table.c.study == study, table.c.version == evaluation.version))
        connection.execute(
            EVALUATIONS.insert().values(**where, counts=evaluation.counts, sites=json.dumps(evaluation.sites))
        )
        if evaluation.metrics:
            connection.execute(METRICS.insert(), [asdict(metric) | where for metric in evaluation.metrics])

    def evaluation(self, study: int, version: int) -> Evaluation | None:
        """The stored sum of a model version's counts, or of an exploration's answers; metrics are read by `metrics`."""
        query = sa.select(EVALUATIONS).where(EVALUATIONS.c.study == study, EVALUATIONS.c.version == version)
        rows = self._rows(query)
        return Evaluation(version, rows[0].counts, tuple(json.loads(rows[0].sites)), ()) if rows else None

    def checkpoint(self, study: int, version: int | None = None) -> Checkpoint | None:
        """The last committed model, or the one of this version; None before the study started, or where it is not kept."""
        query = sa.select(CHECKPOINTS).where(CHECKPOINTS.c.study == study)
        if version is not None:
            query = query.where(CHECKPOINTS.c.version == version)
        rows = self._rows(query.order_by(CHECKPOINTS.c.version.desc()).limit(1))
        return Checkpoint(rows[0].version, rows[0].model, rows[0].state) if rows else None

    def kept_versions(self, study: int) -> list[int]:
        """The versions that a run can go on from, newest first."""
        of = CHECKPOINTS.c.study == study
        query = sa.select(CHECKPOINTS.c.version).where(of).order_by(CHECKPOINTS.c.version.desc())
        return [row.version for row in self._rows(query)]

    def newest_model(self, study: int) -> tuple[int, str] | None:
        """The last committed model's version and digest, without the optimiser's state, which may be large."""
        query = sa.select(CHECKPOINTS.c.version, CHECKPOINTS.c.model).where(CHECKPOINTS.c.study == study)
        rows = self._rows(query.order_by(CHECKPOINTS.c.version.desc()).limit(1))
        return (int(rows[0].version), str(rows[0].model)) if rows else None

    def attempts(self, study: int, since: int = 1) -> list[AttemptRow]:
        """Every attempt from `since` on, in order."""
        query = _select(ATTEMPTS, AttemptRow).where(ATTEMPTS.c.study == study, ATTEMPTS.c.attempt >= since)
        return self._records(AttemptRow, query.order_by(ATTEMPTS.c.attempt))

    def restored(self, made_at: int, by: str, reason: str, mark: str, at: int) -> tuple[str, ...]:
        """Journal that this record is a backup's, made at `made_at`, whose file's digest is `mark`; attempts of every sealed study
        go on above all that can have been made since. The last entry is of no study. The studies' ids."""
        data = {"made_at": made_at, "by": by, "reason": reason, "backup": mark}
        told = []
        with self._write() as connection:
            for row in connection.execute(sa.select(STUDIES).where(STUDIES.c.sealed.is_not(None))).all():
                above = self._next_attempt(connection, row.key) + RESTORED_JUMP
                self._append(connection, row.key, "restored", data | {"attempts_from": above}, at)
                told.append(str(row.study_id))
            self._append(connection, 0, "restored", data, at)
        return tuple(told)

    def next_attempt(self, study: int) -> int:
        """The next attempt's number: above every one that was ever used, also where this record was restored since."""
        with self._read() as connection:
            return self._next_attempt(connection, study)

    def _next_attempt(self, connection: Connection, study: int) -> int:
        newest = connection.execute(
            sa.select(sa.func.max(ATTEMPTS.c.attempt)).where(ATTEMPTS.c.study == study)
        ).scalar_one()
        query = sa.select(JOURNAL.c.data).where(JOURNAL.c.study == study, JOURNAL.c.kind == "restored")
        from_ = (int(json.loads(row.data)["attempts_from"]) for row in connection.execute(query))
        return max((newest or 0) + 1, *from_, 1)

    def attempts_made(self, study: int) -> int:
        """How many attempts were opened."""
        return int(self._rows(sa.select(sa.func.count()).where(ATTEMPTS.c.study == study))[0][0])

    def attempts_asked(self, study: int, rounds: int) -> int:
        """How many attempts of the training rounds 1 to `rounds` asked any site, and so may have been charged."""
        where = sa.and_(ATTEMPTS.c.study == study, ATTEMPTS.c.round <= rounds, ATTEMPTS.c.asked > 0)
        return int(self._rows(sa.select(sa.func.count()).where(where))[0][0])

    def statuses(self, study: int, since: int = 1) -> list[StatusRow]:
        """Every site's status in every attempt from `since` on."""
        query = _select(STATUSES, StatusRow).where(STATUSES.c.study == study, STATUSES.c.attempt >= since)
        return self._records(StatusRow, query.order_by(STATUSES.c.attempt, STATUSES.c.site))

    def times_asked(self, study: int) -> dict[str, int]:
        """In how many attempts each site was asked, and contributed, refused or was dropped; sites that never were are left out."""
        of = sa.and_(STATUSES.c.study == study, STATUSES.c.status.in_(("contributed", "refused", "dropped")))
        query = sa.select(STATUSES.c.site, sa.func.count().label("times")).where(of).group_by(STATUSES.c.site)
        return {row.site: int(row.times) for row in self._rows(query)}

    def contributions(self, study: int, rounds: int) -> list[Contribution]:
        """How many of the committed rounds up to `rounds` each site contributed to, by name; 0 for a site that was only asked."""
        counts = sa.and_(
            STATUSES.c.status == "contributed", ATTEMPTS.c.outcome == "committed", ATTEMPTS.c.round <= rounds
        )
        query = (
            sa.select(STATUSES.c.site, sa.func.sum(sa.case((counts, 1), else_=0)).label("rounds"))
            .join(ATTEMPTS, sa.and_(ATTEMPTS.c.study == STATUSES.c.study, ATTEMPTS.c.attempt == STATUSES.c.attempt))
            .where(STATUSES.c.study == study)
            .group_by(STATUSES.c.site)
        )
        asked = {row.site: int(row.rounds) for row in self._rows(query)}
        sites = {row.site for row in self.standings(study)} | set(asked)
        return [Contribution(site, asked.get(site, 0)) for site in sorted(sites)]

    def metrics(
        self, study: int, *, newest: bool = False, since: int = 0, slices: Sequence[str] | None = None
    ) -> list[MetricRow]:
        """The metrics of every version that was evaluated from `since` on, or of the newest one alone; of all slices, or these."""
        query = _select(METRICS, MetricRow).where(METRICS.c.study == study, METRICS.c.version >= since)
        if slices is not None:
            query = query.where(METRICS.c.slice.in_(slices))
        if newest:
            last = sa.select(sa.func.max(METRICS.c.version)).where(METRICS.c.study == study).scalar_subquery()
            query = query.where(METRICS.c.version == last)
        return self._records(MetricRow, query.order_by(METRICS.c.version, METRICS.c.slice))

    # releases

    def add_release(self, study_id: str, made: Callable[[int], ReleaseRow], at: int) -> ReleaseRow:
        """Enter the next release of a study's id, which `made` makes for its number; nobody else gets that number meanwhile.

        Raises:
            RefusalError: `already-released`: the model is the one that is in force.
        """
        with self._write() as connection:
            known = self._releases(connection, study_id)
            row = made(len(known) + 1)
            current = in_force(known)
            if current is not None and current.model == row.model:
                raise RefusalError(
                    f'this model of "{study_id}" is released already',
                    got=f"release {current.number}",
                    code="already-released",
                )
            data = {"study_id": study_id, "number": row.number, "model": row.model, "by": row.by}
            self._append(connection, row.study, "released", data, at)
            connection.execute(RELEASES.insert().values(**asdict(row)))
            return row

    def withdraw_release(self, study_id: str, by: str, why: str, at: int) -> tuple[ReleaseRow, ReleaseRow | None]:
        """End the release that is in force; it, and the earlier one that is in force again.

        Raises:
            RefusalError: `nothing-released`: none is.
        """
        with self._write() as connection:
            current = in_force(self._releases(connection, study_id))
            if current is None:
                raise RefusalError(
                    f'no release of "{study_id}" is in force', remedy="see `fedward coordinator releases`",
                    code="nothing-released",
                )  # fmt: skip
            data = {"study_id": study_id, "number": current.number, "model": current.model, "by": by}
            self._append(connection, current.study, "rolled-back", data, at)
            of = sa.and_(RELEASES.c.study_id == study_id, RELEASES.c.number == current.number)
            made = replace(current, withdrawn_at=at, withdrawn_by=by, withdrawn_why=why)
            connection.execute(RELEASES.update().where(of).values(**asdict(made)))
            return made, in_force(self._releases(connection, study_id))

    def releases(self, study_id: str | None = None) -> list[ReleaseRow]:
        """Every release, of a study's id or of all, oldest first."""
        with self._read() as connection:
            return self._releases(connection, study_id)

    def _releases(self, connection: Connection, study_id: str | None) -> list[ReleaseRow]:
        query = _select(RELEASES, ReleaseRow).order_by(RELEASES.c.released_at, RELEASES.c.study_id, RELEASES.c.number)
        if study_id is not None:
            query = query.where(RELEASES.c.study_id == study_id).order_by(None).order_by(RELEASES.c.number)
        return [ReleaseRow(*row) for row in connection.execute(query)]

    def share(self, study: int, made: SharedMetrics, digest: str) -> None:
        """Keep what a hospital gave of its own metrics, in place of what it gave before."""
        with self._write() as connection:
            data = {"site": made.site, "version": made.version, "digest": digest}
            self._append(connection, study, "metrics-shared", data, made.at)
            of = sa.and_(SHARED.c.study == study, SHARED.c.site == made.site)
            connection.execute(SHARED.delete().where(of))
            connection.execute(SHARED.insert().values(study=study, **asdict(made)))

    def shared(self, study: int) -> list[SharedMetrics]:
        """What hospitals gave of their own metrics, by site."""
        query = _select(SHARED, SharedMetrics).where(SHARED.c.study == study).order_by(SHARED.c.site)
        return self._records(SharedMetrics, query)

    # journal

    def _append(self, connection: Connection, study: int, kind: str, data: dict[str, Any], at: int) -> None:
        connection.execute(JOURNAL.insert().values(study=study, at=at, kind=kind, data=json.dumps(data)))

    def note(self, study: int, kind: str, data: dict[str, Any], at: int) -> None:
        """Add a journal entry that changes nothing else."""
        with self._write() as connection:
            self._append(connection, study, kind, data, at)

    def journal(self, study: int, *kinds: str, without: Sequence[str] = (), after: int = 0) -> list[JournalEntry]:
        """A study's journal, oldest first; only entries of these kinds, if any is given, and none of those; only later than entry
        number `after`."""
        of = sa.and_(JOURNAL.c.study == study, JOURNAL.c.sequence > after)
        query = sa.select(JOURNAL).where(of).order_by(JOURNAL.c.sequence)
        if kinds:
            query = query.where(JOURNAL.c.kind.in_(kinds))
        if without:
            query = query.where(JOURNAL.c.kind.not_in(without))
        return [JournalEntry(r.sequence, r.at, r.kind, json.loads(r.data)) for r in self._rows(query)]

    def journal_length(self, study: int) -> int:
        """How many characters of JSON a study's journal holds."""
        query = sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(JOURNAL.c.data)), 0)).where(
            JOURNAL.c.study == study
        )
        return int(self._rows(query)[0][0])


def _select(table: sa.Table, record: type[Any]) -> sa.Select[Any]:
    """The columns of a record, in its fields' order: a study of a thousand rounds has tens of thousands of such rows."""
    return sa.select(*(table.c[field.name] for field in fields(record)))


def _study(row: Row[Any]) -> StudyRow:
    return StudyRow(
        row.key,
        row.study_id,
        row.manifest,
        tuple(json.loads(row.invited)),
        row.sealed,
        row.signature,
        row.digest,
        row.state,
        row.reason,
        row.wish,
        row.created_at,
        row.changed_at,
        row.code,
    )
