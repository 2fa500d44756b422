"""The tables of the coordinator's store as this version declares them, the same for SQLite and PostgreSQL.

The journal is append-only: triggers refuse whatever would change an entry. A change here is a new format: it needs a step in
`migrations/versions`, and a test holds what the steps make against what is declared here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import sqlalchemy as sa

FORMAT: Final = 8
"""The number of the newest step in `migrations/versions`."""

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""64 bits, signed: SQLite numbers rows by itself in a column of type INTEGER alone, which holds as much."""
NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
"""Ordered by its bytes, as SQLite does, whatever the locale of the database is."""

META = sa.MetaData()
SITES = sa.Table(
    "sites",
    META,
    sa.Column("site", NAME, primary_key=True),
    sa.Column("identity_key", NAME, nullable=False, unique=True),
    sa.Column("node_key", NAME, nullable=False),
    sa.Column("enrolled_at", NUMBER, nullable=False),
    sa.Column("node_id", NAME, nullable=True),
)
STUDIES = sa.Table(
    "studies",
    META,
    sa.Column("key", NUMBER, primary_key=True, autoincrement=True),
    sa.Column("study_id", NAME, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("invited", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=True),
    sa.Column("signature", sa.LargeBinary, nullable=True),
    sa.Column("digest", NAME, nullable=True, unique=True),
    sa.Column("state", NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("wish", NAME, nullable=False),
    sa.Column("created_at", NUMBER, nullable=False),
    sa.Column("changed_at", NUMBER, nullable=False),
    sa.Column("code", NAME, nullable=True),
)
STANDINGS = sa.Table(
    "standings",
    META,
    sa.Column("study", NUMBER, sa.ForeignKey("studies.key"), primary_key=True),
    sa.Column("site", NAME, primary_key=True),
    sa.Column("state", NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", NUMBER, nullable=False),
    sa.Column("evidence", sa.LargeBinary, nullable=True),
)
ATTEMPTS = sa.Table(
    "attempts",
    META,
    sa.Column("study", NUMBER, sa.ForeignKey("studies.key"), primary_key=True),
    sa.Column("attempt", NUMBER, primary_key=True),
    sa.Column("round", NUMBER, nullable=False),
    sa.Column("asked", NUMBER, nullable=False),
    sa.Column("base", NAME, nullable=False),
    sa.Column("outcome", NAME, nullable=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("model", NAME, nullable=True),
    sa.Column("opened_at", NUMBER, nullable=False),
    sa.Column("seconds", sa.Float, nullable=True),
)
STATUSES = sa.Table(
    "statuses",
    META,
    sa.Column("study", NUMBER, primary_key=True),
    sa.Column("attempt", NUMBER, primary_key=True),
    sa.Column("site", NAME, primary_key=True),
    sa.Column("status", NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float, nullable=True),
)
EVALUATIONS = sa.Table(
    "evaluations",
    META,
    sa.Column("study", NUMBER, primary_key=True),
    sa.Column("version", NUMBER, primary_key=True),
    sa.Column("counts", sa.LargeBinary, nullable=False),
    sa.Column("sites", sa.Text, nullable=False),
)
METRICS = sa.Table(
    "metrics",
    META,
    sa.Column("study", NUMBER, primary_key=True),
    sa.Column("version", NUMBER, primary_key=True),
    sa.Column("slice", NAME, primary_key=True),
    sa.Column("name", NAME, primary_key=True),
    sa.Column("value", sa.Float, nullable=True),
    sa.Column("low", sa.Float, nullable=True),
    sa.Column("high", sa.Float, nullable=True),
    sa.Column("positives", NUMBER, nullable=False),
    sa.Column("negatives", NUMBER, nullable=False),
)
CHECKPOINTS = sa.Table(
    "checkpoints",
    META,
    sa.Column("study", NUMBER, primary_key=True, autoincrement=False),
    sa.Column("version", NUMBER, primary_key=True, autoincrement=False),
    sa.Column("model", NAME, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
JOURNAL = sa.Table(
    "journal",
    META,
    sa.Column("sequence", NUMBER, primary_key=True, autoincrement=True),
    sa.Column("study", NUMBER, nullable=False),
    sa.Column("at", NUMBER, nullable=False),
    sa.Column("kind", NAME, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)
HEADS = sa.Table(
    "heads",
    META,
    sa.Column("site", NAME, primary_key=True),
    sa.Column("sequence", NUMBER, nullable=False),
    sa.Column("digest", NAME, nullable=False),
    sa.Column("signature", NAME, nullable=False),
    sa.Column("at", NUMBER, nullable=False),
)
ALARMS = sa.Table(
    "alarms",
    META,
    sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
    sa.Column("site", NAME, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("at", NUMBER, nullable=False),
    sa.Column("cleared_by", NAME, nullable=True),
    sa.Column("cleared_why", sa.Text, nullable=True),
    sa.Column("cleared_at", NUMBER, nullable=True),
)
CREDENTIALS = sa.Table(
    "credentials",
    META,
    sa.Column("fingerprint", NAME, primary_key=True),
    sa.Column("number", NUMBER, nullable=False),
    sa.Column("site", NAME, nullable=False, index=True),
    sa.Column("identity_key", NAME, nullable=False),
    sa.Column("node_key", sa.Text, nullable=False),
    sa.Column("tls_key", NAME, nullable=False),
    sa.Column("issued_at", NUMBER, nullable=False),
    sa.Column("expires_at", NUMBER, nullable=False),
    sa.Column("state", NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("changed_at", NUMBER, nullable=False),
)
RELEASES = sa.Table(
    "releases",
    META,
    sa.Column("study_id", NAME, primary_key=True),
    sa.Column("number", NUMBER, primary_key=True, autoincrement=False),
    sa.Column("study", NUMBER, sa.ForeignKey("studies.key"), nullable=False),
    sa.Column("model", NAME, nullable=False),
    sa.Column("version", NUMBER, nullable=False),
    sa.Column("statement", sa.LargeBinary, nullable=False),
    sa.Column("signature", NAME, nullable=False),
    sa.Column("released_at", NUMBER, nullable=False),
    sa.Column("by", NAME, nullable=False),
    sa.Column("withdrawn_at", NUMBER, nullable=True),
    sa.Column("withdrawn_by", NAME, nullable=True),
    sa.Column("withdrawn_why", sa.Text, nullable=True),
)
SHARED = sa.Table(
    "shared_metrics",
    META,
    sa.Column("study", NUMBER, sa.ForeignKey("studies.key"), primary_key=True),
    sa.Column("site", NAME, primary_key=True),
    sa.Column("version", NUMBER, nullable=False),
    sa.Column("auroc", sa.Float, nullable=True),
    sa.Column("alone", sa.Float, nullable=True),
    sa.Column("figures", sa.LargeBinary, nullable=False),
    sa.Column("signature", NAME, nullable=False),
    sa.Column("at", NUMBER, nullable=False),
)
LEASES = sa.Table(
    "leases",
    META,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("token", NUMBER, nullable=False),
    sa.Column("home", NAME, nullable=False),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Column("taken_at", NUMBER, nullable=False),
    sa.Column("until", NUMBER, nullable=False),
)

FORMATS = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table: the format, four digits in one row."""

GUARDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "sqlite": (
        *(
            f"CREATE TRIGGER IF NOT EXISTS journal_no_{verb} BEFORE {verb.upper()} ON journal "
            "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
            for verb in ("update", "delete")
        ),
        # INSERT OR REPLACE deletes without firing the trigger on delete.
        "CREATE TRIGGER IF NOT EXISTS journal_no_replace BEFORE INSERT ON journal "
        "WHEN EXISTS (SELECT 1 FROM journal WHERE sequence = NEW.sequence) "
        "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION journal_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the journal is append-only'; END $$",
        "CREATE OR REPLACE TRIGGER journal_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON journal "
        "FOR EACH STATEMENT EXECUTE FUNCTION journal_is_append_only()",
    ),
})  # fmt: skip
"""By the database's name, what keeps the journal append-only."""


def create(connection: sa.Connection) -> None:
    """Make a new store, within the caller's transaction."""
    META.create_all(connection)
    for guard in GUARDS[connection.dialect.name]:
        connection.exec_driver_sql(guard)
    FORMATS.create(connection)
    connection.execute(FORMATS.insert().values(version_num=f"{FORMAT:04d}"))
    if connection.dialect.name == "sqlite":  # where versions of Fedward before format 3 look for it
        connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT}")
