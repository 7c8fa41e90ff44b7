"""Whether a prediction was a trial, which no figure counts."""

import sqlalchemy as sa
from alembic import op

revision = "events_0002"
down_revision = "events_0001"


def upgrade() -> None:
    op.add_column("predictions", sa.Column("dry_run", sa.Boolean))
