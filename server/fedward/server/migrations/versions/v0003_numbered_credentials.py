"""Credentials are numbered as they were issued, where SQLite's row numbers said it: PostgreSQL has none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("credentials", sa.Column("number", _NUMBER, nullable=True))
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("UPDATE credentials SET number = rowid")
    else:
        connection.exec_driver_sql(
            "UPDATE credentials SET number = numbered.place FROM (SELECT fingerprint, row_number() OVER "
            "(ORDER BY issued_at, fingerprint) AS place FROM credentials) AS numbered "
            "WHERE credentials.fingerprint = numbered.fingerprint"
        )
    with op.batch_alter_table("credentials") as batch:
        batch.alter_column("number", existing_type=_NUMBER, nullable=False)
