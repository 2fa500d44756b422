"""Releases: models that held their gates, or that two persons released all the same; and metrics that hospitals gave."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    name = sa.String().with_variant(sa.String(collation="C"), "postgresql")
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "releases",
        sa.Column("study_id", name, nullable=False),
        sa.Column("number", number, autoincrement=False, nullable=False),
        sa.Column("study", number, sa.ForeignKey("studies.key"), nullable=False),
        sa.Column("model", name, nullable=False),
        sa.Column("version", number, nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("signature", name, nullable=False),
        sa.Column("released_at", number, nullable=False),
        sa.Column("by", name, nullable=False),
        sa.Column("withdrawn_at", number, nullable=True),
        sa.Column("withdrawn_by", name, nullable=True),
        sa.Column("withdrawn_why", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("study_id", "number"),
    )
    op.create_table(
        "shared_metrics",
        sa.Column("study", number, sa.ForeignKey("studies.key"), nullable=False),
        sa.Column("site", name, nullable=False),
        sa.Column("version", number, nullable=False),
        sa.Column("auroc", sa.Float, nullable=True),
        sa.Column("alone", sa.Float, nullable=True),
        sa.Column("figures", sa.LargeBinary, nullable=False),
        sa.Column("signature", name, nullable=False),
        sa.Column("at", number, nullable=False),
        sa.PrimaryKeyConstraint("study", "site"),
    )
