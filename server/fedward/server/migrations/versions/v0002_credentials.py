"""Everything up to format 2, credentials among it: which certificate may carry which node's messages.

Makes what is missing: all, in an empty database; in a store of format 1, the credentials. Whose was not kept then, so a node's
number at the transport is learnt anew when its hospital has been enrolled again, with the request and the keys that it has.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_META = sa.MetaData()
sa.Table(
    "sites",
    _META,
    sa.Column("site", _NAME, primary_key=True),
    sa.Column("identity_key", _NAME, nullable=False, unique=True),
    sa.Column("node_key", _NAME, nullable=False),
    sa.Column("enrolled_at", _NUMBER, nullable=False),
    sa.Column("node_id", _NAME, nullable=True),
)
sa.Table(
    "studies",
    _META,
    sa.Column("key", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("study_id", _NAME, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("invited", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=True),
    sa.Column("signature", sa.LargeBinary, nullable=True),
    sa.Column("digest", _NAME, nullable=True, unique=True),
    sa.Column("state", _NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("wish", _NAME, nullable=False),
    sa.Column("created_at", _NUMBER, nullable=False),
    sa.Column("changed_at", _NUMBER, nullable=False),
)
sa.Table(
    "standings",
    _META,
    sa.Column("study", _NUMBER, sa.ForeignKey("studies.key"), primary_key=True),
    sa.Column("site", _NAME, primary_key=True),
    sa.Column("state", _NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", _NUMBER, nullable=False),
    sa.Column("evidence", sa.LargeBinary, nullable=True),
)
sa.Table(
    "attempts",
    _META,
    sa.Column("study", _NUMBER, sa.ForeignKey("studies.key"), primary_key=True),
    sa.Column("attempt", _NUMBER, primary_key=True),
    sa.Column("round", _NUMBER, nullable=False),
    sa.Column("asked", _NUMBER, nullable=False),
    sa.Column("base", _NAME, nullable=False),
    sa.Column("outcome", _NAME, nullable=True),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("model", _NAME, nullable=True),
    sa.Column("opened_at", _NUMBER, nullable=False),
    sa.Column("seconds", sa.Float, nullable=True),
)
sa.Table(
    "statuses",
    _META,
    sa.Column("study", _NUMBER, primary_key=True),
    sa.Column("attempt", _NUMBER, primary_key=True),
    sa.Column("site", _NAME, primary_key=True),
    sa.Column("status", _NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
sa.Table(
    "evaluations",
    _META,
    sa.Column("study", _NUMBER, primary_key=True),
    sa.Column("version", _NUMBER, primary_key=True),
    sa.Column("counts", sa.LargeBinary, nullable=False),
    sa.Column("sites", sa.Text, nullable=False),
)
sa.Table(
    "metrics",
    _META,
    sa.Column("study", _NUMBER, primary_key=True),
    sa.Column("version", _NUMBER, primary_key=True),
    sa.Column("slice", _NAME, primary_key=True),
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("value", sa.Float, nullable=True),
    sa.Column("low", sa.Float, nullable=True),
    sa.Column("high", sa.Float, nullable=True),
    sa.Column("positives", _NUMBER, nullable=False),
    sa.Column("negatives", _NUMBER, nullable=False),
)
sa.Table(
    "optimisers",
    _META,
    sa.Column("study", _NUMBER, primary_key=True, autoincrement=False),
    sa.Column("version", _NUMBER, nullable=False),
    sa.Column("model", _NAME, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
sa.Table(
    "journal",
    _META,
    sa.Column("sequence", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("study", _NUMBER, nullable=False),
    sa.Column("at", _NUMBER, nullable=False),
    sa.Column("kind", _NAME, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)
sa.Table(
    "heads",
    _META,
    sa.Column("site", _NAME, primary_key=True),
    sa.Column("sequence", _NUMBER, nullable=False),
    sa.Column("digest", _NAME, nullable=False),
    sa.Column("signature", _NAME, nullable=False),
    sa.Column("at", _NUMBER, nullable=False),
)
sa.Table(
    "alarms",
    _META,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("site", _NAME, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("at", _NUMBER, nullable=False),
    sa.Column("cleared_by", _NAME, nullable=True),
    sa.Column("cleared_why", sa.Text, nullable=True),
    sa.Column("cleared_at", _NUMBER, nullable=True),
)
sa.Table(
    "credentials",
    _META,
    sa.Column("fingerprint", _NAME, primary_key=True),
    sa.Column("site", _NAME, nullable=False, index=True),
    sa.Column("identity_key", _NAME, nullable=False),
    sa.Column("node_key", sa.Text, nullable=False),
    sa.Column("tls_key", _NAME, nullable=False),
    sa.Column("issued_at", _NUMBER, nullable=False),
    sa.Column("expires_at", _NUMBER, nullable=False),
    sa.Column("state", _NAME, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("changed_at", _NUMBER, nullable=False),
)
_GUARDS = {
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
}  # fmt: skip


def upgrade() -> None:
    connection = op.get_bind()
    there = set(sa.inspect(connection).get_table_names())
    _META.create_all(connection)
    for guard in _GUARDS[connection.dialect.name]:
        connection.exec_driver_sql(guard)
    if "sites" in there and "credentials" not in there:
        connection.exec_driver_sql("UPDATE sites SET node_id = NULL")
