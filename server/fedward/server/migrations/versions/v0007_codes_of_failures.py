"""A study's failure has a code beside its words. What failed before keeps its words alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    name = sa.String().with_variant(sa.String(collation="C"), "postgresql")
    op.add_column("studies", sa.Column("code", name, nullable=True))
