"""The optimiser's states of earlier models are kept too, so that a run can go back to one. What was there is the newest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("study", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("version", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("model", _NAME, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.execute(
        "INSERT INTO checkpoints (study, version, model, state) SELECT study, version, model, state FROM optimisers"
    )
    op.drop_table("optimisers")
