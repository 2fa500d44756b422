"""A store serves one service at a time: the lease, and its fencing token."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("token", _NUMBER, nullable=False),
        sa.Column("home", _NAME, nullable=False),
        sa.Column("shown", sa.Text, nullable=False),
        sa.Column("taken_at", _NUMBER, nullable=False),
        sa.Column("until", _NUMBER, nullable=False),
    )
