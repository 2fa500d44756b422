"""The coordinator's record: sites, studies, attempts, every site's status, metrics, models, and the journal.

One SQLite file (WAL, synchronous=FULL): a call that returns has reached the disk. The journal is append-only (triggers
refuse a change) and every step stands in it before it is acted on; a commit writes the model, the round's outcome and
every site's status in one transaction. This is the server's one door to SQLAlchemy.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from fedward.privacy.errors import InputError, IntegrityError, UnreachableError, UsageError
from fedward.server.records import (
    AlarmRow,
    AttemptRow,
    Checkpoint,
    Evaluation,
    JournalEntry,
    MetricRow,
    SiteRow,
    StandingRow,
    State,
    StatusRow,
    StudyRow,
    Wish,
)
from fedward.server.round import Outcome, SiteState
from fedward.study.witness import SignedHead

_META = sa.MetaData()
_SITES = sa.Table(
    "sites",
    _META,
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("identity_key", sa.String, nullable=False, unique=True),
    sa.Column("node_key", sa.String, nullable=False),
    sa.Column("enrolled_at", sa.Integer, nullable=False),
    sa.Column("node_id", sa.String, nullable=True),
)
_STUDIES = sa.Table(
    "studies",
    _META,
    sa.Column("key", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study_id", sa.String, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("invited", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=True),
    sa.Column("signature", sa.LargeBinary, nullable=True),
    sa.Column("digest", sa.String, nullable=True, unique=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("wish", sa.String, nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("changed_at", sa.Integer, nullable=False),
)
_STANDINGS = sa.Table(
    "standings",
    _META,
    sa.Column("study", sa.Integer, sa.ForeignKey("studies.key"), primary_key=True),
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Integer, nullable=False),
    sa.Column("evidence", sa.LargeBinary, nullable=True),
)
_ATTEMPTS = sa.Table(
    "attempts",
    _META,
    sa.Column("study", sa.Integer, sa.ForeignKey("studies.key"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("asked", sa.Integer, nullable=False),
    sa.Column("base", sa.String, nullable=False),
    sa.Column("outcome", sa.String, nullable=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("model", sa.String, nullable=True),
    sa.Column("opened_at", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=True),
)
_STATUSES = sa.Table(
    "statuses",
    _META,
    sa.Column("study", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
_EVALUATIONS = sa.Table(
    "evaluations",
    _META,
    sa.Column("study", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("counts", sa.LargeBinary, nullable=False),
    sa.Column("sites", sa.Text, nullable=False),
)
_METRICS = sa.Table(
    "metrics",
    _META,
    sa.Column("study", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("slice", sa.String, primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Float, nullable=True),
    sa.Column("low", sa.Float, nullable=True),
    sa.Column("high", sa.Float, nullable=True),
    sa.Column("positives", sa.Integer, nullable=False),
    sa.Column("negatives", sa.Integer, nullable=False),
)
_OPTIMISERS = sa.Table(
    "optimisers",
    _META,
    sa.Column("study", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
_JOURNAL = sa.Table(
    "journal",
    _META,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("study", sa.Integer, nullable=False),
    sa.Column("at", sa.Integer, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)
_HEADS = sa.Table(
    "heads",
    _META,
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("signature", sa.String, nullable=False),
    sa.Column("at", sa.Integer, nullable=False),
)
_ALARMS = sa.Table(
    "alarms",
    _META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("site", sa.String, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("at", sa.Integer, nullable=False),
    sa.Column("cleared_by", sa.String, nullable=True),
    sa.Column("cleared_why", sa.Text, nullable=True),
    sa.Column("cleared_at", sa.Integer, nullable=True),
)
_GUARDS = [
    f"CREATE TRIGGER IF NOT EXISTS journal_no_{verb} BEFORE {verb.upper()} ON journal "
    "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
    for verb in ("update", "delete")
] + [
    # INSERT OR REPLACE deletes without firing the trigger on delete.
    "CREATE TRIGGER IF NOT EXISTS journal_no_replace BEFORE INSERT ON journal "
    "WHEN EXISTS (SELECT 1 FROM journal WHERE sequence = NEW.sequence) "
    "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
]


class Store:
    """All reads and writes of the record. Times are unix seconds, given by the caller."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Store:
        """
        Raises:
            IntegrityError: the file is no store, or is damaged.
            InputError: there is none, and read_only.
        """
        if read_only and not path.is_file():
            raise InputError(f"no store at {path}", remedy="give the coordinator's --home")
        # The path as a URI: a "#" or "?" in it would otherwise name another file.
        uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        engine = sa.create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False),
            poolclass=sa.pool.QueuePool,
        )
        sa.event.listen(engine, "connect", _configure_read_only if read_only else _configure)
        store = cls(engine)
        try:
            if not read_only:
                _META.create_all(engine)
                with engine.begin() as connection:
                    for guard in _GUARDS:
                        connection.exec_driver_sql(guard)
                path.chmod(0o600)
            with engine.connect() as connection:
                connection.execute(sa.select(sa.func.count()).select_from(_STUDIES)).scalar_one()
        except sa.exc.DatabaseError as error:
            raise _translated(error, path) from None
        return store

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                # IMMEDIATE: two writers queue here instead of failing at commit.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    connection.exec_driver_sql("ROLLBACK")
                    raise
                connection.exec_driver_sql("COMMIT")
        except sa.exc.DatabaseError as error:
            raise _translated(error, None) from None

    def _rows(self, query: sa.Select[Any]) -> Sequence[Row[Any]]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).all()
        except sa.exc.DatabaseError as error:
            raise _translated(error, None) from None

    # sites

    def add_site(self, site: str, identity_key: str, node_key: str, at: int) -> None:
        """Enrol a site; enrolling the same keys again changes nothing.

        Raises:
            UsageError: the name or the key is taken by another.
        """
        with self._write() as connection:
            clash = connection.execute(
                sa.select(_SITES).where(sa.or_(_SITES.c.site == site, _SITES.c.identity_key == identity_key))
            ).first()
            if clash is not None and (clash.site, clash.identity_key, clash.node_key) == (site, identity_key, node_key):
                return
            if clash is not None:
                raise UsageError(
                    f'the name "{site}" or its key is enrolled already',
                    got=f'site "{clash.site}"',
                    remedy="choose another site name; keys are rotated by revoking and enrolling anew",
                )
            connection.execute(
                _SITES.insert().values(site=site, identity_key=identity_key, node_key=node_key, enrolled_at=at)
            )

    def sites(self) -> list[SiteRow]:
        """Every enrolled site, by name."""
        rows = self._rows(sa.select(_SITES).order_by(_SITES.c.site))
        return [SiteRow(r.site, r.identity_key, r.node_key, int(r.node_id) if r.node_id else None) for r in rows]

    def set_node(self, site: str, node_id: int) -> None:
        """The transport's number of a site: 64 bits unsigned, which SQLite's integers cannot hold."""
        with self._write() as connection:
            connection.execute(_SITES.update().where(_SITES.c.site == site).values(node_id=str(node_id)))

    # heads of the sites' ledgers

    def head(self, site: str) -> SignedHead | None:
        """The newest ledger head that a site said."""
        rows = self._rows(sa.select(_HEADS).where(_HEADS.c.site == site))
        return (
            SignedHead(site=site, sequence=rows[0].sequence, digest=rows[0].digest, signature=rows[0].signature)
            if rows
            else None
        )

    def set_head(self, head: SignedHead, at: int) -> None:
        with self._write() as connection:
            connection.execute(_HEADS.delete().where(_HEADS.c.site == head.site))
            connection.execute(_HEADS.insert().values(**head.model_dump(), at=at))

    def raise_alarm(self, site: str, what: str, at: int) -> None:
        """Record that a site's ledger cannot be; one that is open already says enough."""
        with self._write() as connection:
            open_ = sa.and_(_ALARMS.c.site == site, _ALARMS.c.cleared_at.is_(None))
            if connection.execute(sa.select(_ALARMS.c.number).where(open_)).first() is None:
                connection.execute(_ALARMS.insert().values(site=site, what=what, at=at))

    def alarms(self) -> list[AlarmRow]:
        """The alarms that nobody has cleared, by site."""
        query = sa.select(_ALARMS).where(_ALARMS.c.cleared_at.is_(None)).order_by(_ALARMS.c.site)
        return [AlarmRow(row.site, row.what, row.at) for row in self._rows(query)]

    def clear_alarm(self, site: str, by: str, why: str, at: int) -> None:
        """A named person has looked into it: the site's next head is taken as it comes.

        Raises:
            InputError: the site has no alarm.
        """
        with self._write() as connection:
            open_ = sa.and_(_ALARMS.c.site == site, _ALARMS.c.cleared_at.is_(None))
            done = connection.execute(
                _ALARMS.update().where(open_).values(cleared_by=by, cleared_why=why, cleared_at=at)
            )
            if done.rowcount == 0:
                raise InputError(f'site "{site}" has no alarm', remedy="run `fedward coordinator status` to list them")
            connection.execute(_HEADS.delete().where(_HEADS.c.site == site))

    # studies

    def create_study(self, study_id: str, manifest: str, invited: Sequence[str], at: int) -> int:
        """A draft that waits for its proposal; returns its key."""
        with self._write() as connection:
            result = connection.execute(
                _STUDIES.insert().values(
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
                _STUDIES.update()
                .where(_STUDIES.c.key == study)
                .values(sealed=sealed, signature=signature, digest=digest, changed_at=at)
            )

    def set_state(self, study: int, state: State, reason: str, at: int) -> None:
        """A study's new state; whatever was wished of it is thereby done."""
        with self._write() as connection:
            self._append(connection, study, "state", {"state": state, "reason": reason}, at)
            wish = _STUDIES.c.wish if state == "running" else sa.literal("none")
            connection.execute(
                _STUDIES.update()
                .where(_STUDIES.c.key == study)
                .values(state=state, reason=reason, wish=wish, changed_at=at)
            )

    def wish(self, study: int, wish: Wish, at: int) -> None:
        """Record what a person wants; the service acts on it, now or after a restart."""
        with self._write() as connection:
            self._append(connection, study, "wish", {"wish": wish}, at)
            connection.execute(_STUDIES.update().where(_STUDIES.c.key == study).values(wish=wish, changed_at=at))

    def studies(self) -> list[StudyRow]:
        """Every study, newest first."""
        return [_study(row) for row in self._rows(sa.select(_STUDIES).order_by(_STUDIES.c.key.desc()))]

    def study(self, key: int) -> StudyRow:
        """
        Raises:
            InputError: no such study.
        """
        rows = self._rows(sa.select(_STUDIES).where(_STUDIES.c.key == key))
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
            where = sa.and_(_STANDINGS.c.study == study, _STANDINGS.c.site == site)
            known = connection.execute(sa.select(_STANDINGS.c.state, _STANDINGS.c.reason).where(where)).first()
            if known is not None and (known.state, known.reason) == (state, reason):
                return
            self._append(connection, study, "standing", {"site": site, "state": state, "reason": reason}, at)
            if known is None:
                connection.execute(_STANDINGS.insert().values(study=study, site=site, **values))
            else:
                connection.execute(_STANDINGS.update().where(where).values(**values))

    def standings(self, study: int) -> list[StandingRow]:
        rows = self._rows(sa.select(_STANDINGS).where(_STANDINGS.c.study == study).order_by(_STANDINGS.c.site))
        return [StandingRow(r.site, r.state, r.reason, r.at) for r in rows]

    # attempts

    def open_attempt(self, study: int, round_: int, attempt: int, base: str, cohort: Sequence[str], at: int) -> None:
        """Journal an attempt before anything of it is sent."""
        with self._write() as connection:
            self._append(
                connection,
                study,
                "opened",
                {"round": round_, "attempt": attempt, "base": base, "cohort": list(cohort)},
                at,
            )
            connection.execute(
                _ATTEMPTS.insert().values(
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
    ) -> None:
        """End an attempt in one transaction: outcome, every site's status, and, when committed, the new model."""
        with self._write() as connection:
            self._append(
                connection,
                study,
                "closed",
                {"attempt": attempt, "outcome": outcome, "reason": reason, "model": commit.model if commit else None},
                at,
            )
            connection.execute(
                _ATTEMPTS.update()
                .where(_ATTEMPTS.c.study == study, _ATTEMPTS.c.attempt == attempt)
                .values(outcome=outcome, reason=reason, seconds=seconds, model=commit.model if commit else None)
            )
            for site, state in sites.items():
                connection.execute(
                    _STATUSES.insert().values(
                        study=study, attempt=attempt, site=site, status=state.status, reason=state.reason
                    )
                )
            if commit is not None:
                self._set_checkpoint(connection, study, commit)
            if evaluation is not None:
                self._add_evaluation(connection, study, evaluation)

    def start(self, study: int, checkpoint: Checkpoint, at: int) -> None:
        """Record the initial model (version 0) and that the study runs."""
        with self._write() as connection:
            self._append(connection, study, "started", {"model": checkpoint.model}, at)
            self._set_checkpoint(connection, study, checkpoint)

    def _set_checkpoint(self, connection: Connection, study: int, checkpoint: Checkpoint) -> None:
        connection.execute(_OPTIMISERS.delete().where(_OPTIMISERS.c.study == study))
        connection.execute(
            _OPTIMISERS.insert().values(
                study=study, version=checkpoint.version, model=checkpoint.model, state=checkpoint.optimiser
            )
        )

    def _add_evaluation(self, connection: Connection, study: int, evaluation: Evaluation) -> None:
        where = {"study": study, "version": evaluation.version}
        for table in (_EVALUATIONS, _METRICS):  # a resumed study may evaluate a version again; the newer sum stands
            connection.execute(table.delete().where(table.c.study == study, table.c.version == evaluation.version))
        connection.execute(
            _EVALUATIONS.insert().values(**where, counts=evaluation.counts, sites=json.dumps(evaluation.sites))
        )
        for metric in evaluation.metrics:
            connection.execute(
                _METRICS.insert().values(
                    **where,
                    slice=metric.slice,
                    name=metric.name,
                    value=metric.value,
                    low=metric.low,
                    high=metric.high,
                    positives=metric.positives,
                    negatives=metric.negatives,
                )
            )

    def evaluation(self, study: int, version: int) -> Evaluation | None:
        """The stored sum of a model version's counts, or of an exploration's answers; metrics are read by `metrics`."""
        query = sa.select(_EVALUATIONS).where(_EVALUATIONS.c.study == study, _EVALUATIONS.c.version == version)
        rows = self._rows(query)
        return Evaluation(version, rows[0].counts, tuple(json.loads(rows[0].sites)), ()) if rows else None

    def checkpoint(self, study: int) -> Checkpoint | None:
        """The last committed model; None before the study started."""
        rows = self._rows(sa.select(_OPTIMISERS).where(_OPTIMISERS.c.study == study))
        return Checkpoint(rows[0].version, rows[0].model, rows[0].state) if rows else None

    def attempts(self, study: int) -> list[AttemptRow]:
        """Every attempt, in order."""
        rows = self._rows(sa.select(_ATTEMPTS).where(_ATTEMPTS.c.study == study).order_by(_ATTEMPTS.c.attempt))
        return [
            AttemptRow(r.attempt, r.round, r.base, r.outcome, r.reason, r.model, r.opened_at, r.seconds) for r in rows
        ]

    def attempts_made(self, study: int) -> int:
        """How many attempts were opened; the next one's number is one more."""
        return int(self._rows(sa.select(sa.func.count()).where(_ATTEMPTS.c.study == study))[0][0])

    def attempts_asked(self, study: int, rounds: int) -> int:
        """How many attempts of the training rounds 1 to `rounds` asked any site, and so may have been charged."""
        where = sa.and_(_ATTEMPTS.c.study == study, _ATTEMPTS.c.round <= rounds, _ATTEMPTS.c.asked > 0)
        return int(self._rows(sa.select(sa.func.count()).where(where))[0][0])

    def statuses(self, study: int) -> list[StatusRow]:
        """Every site's status in every attempt."""
        query = sa.select(_STATUSES).where(_STATUSES.c.study == study).order_by(_STATUSES.c.attempt, _STATUSES.c.site)
        return [StatusRow(r.attempt, r.site, r.status, r.reason) for r in self._rows(query)]

    def metrics(self, study: int) -> list[MetricRow]:
        query = sa.select(_METRICS).where(_METRICS.c.study == study).order_by(_METRICS.c.version, _METRICS.c.slice)
        return [
            MetricRow(r.version, r.slice, r.name, r.value, r.low, r.high, r.positives, r.negatives)
            for r in self._rows(query)
        ]

    # journal

    def _append(self, connection: Connection, study: int, kind: str, data: dict[str, Any], at: int) -> None:
        connection.execute(_JOURNAL.insert().values(study=study, at=at, kind=kind, data=json.dumps(data)))

    def note(self, study: int, kind: str, data: dict[str, Any], at: int) -> None:
        """Add a journal entry that changes nothing else."""
        with self._write() as connection:
            self._append(connection, study, kind, data, at)

    def journal(self, study: int, *kinds: str) -> list[JournalEntry]:
        """A study's journal, oldest first; only entries of these kinds, if any is given."""
        query = sa.select(_JOURNAL).where(_JOURNAL.c.study == study).order_by(_JOURNAL.c.sequence)
        if kinds:
            query = query.where(_JOURNAL.c.kind.in_(kinds))
        return [JournalEntry(r.sequence, r.at, r.kind, json.loads(r.data)) for r in self._rows(query)]


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
    )


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun here, by BEGIN IMMEDIATE, not by the driver
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _configure_read_only(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA query_only=ON")


def _translated(error: sa.exc.DatabaseError, path: Path | None) -> Exception:
    text = str(error.orig)
    if "locked" in text or "full" in text or "unable to open" in text or "readonly" in text:
        return UnreachableError(
            "the coordinator's store cannot be used now",
            got=text,
            remedy="free disk space, correct the permissions, or stop the process that holds it",
        )
    return IntegrityError(
        f"the coordinator's store is damaged{f' ({path})' if path else ''}", got=text, remedy="restore it from a backup"
    )
