"""What each site's answer took: how long a round waits for it follows from that. Of earlier attempts nobody measured it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("statuses", sa.Column("seconds", sa.Float, nullable=True))
