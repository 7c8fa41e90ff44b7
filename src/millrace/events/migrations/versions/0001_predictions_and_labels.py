"""Predictions and labels of any workload, and the halves of KServe's logger that wait for each other.

A migration says what the schema was then, so it repeats the columns instead of importing today's tables.
"""

import sqlalchemy as sa
from alembic import op

from millrace.events.log import Instant

revision = "events_0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("prediction_id", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text),
        sa.Column("scored_at", Instant, nullable=False),
        sa.Column("workload", sa.Text, nullable=False),
        sa.Column("event_id", sa.BigInteger),
        sa.Column("event_timestamp", Instant),
        sa.Column("keys", sa.Text),
        sa.Column("fields", sa.Text),
        sa.Column("feed_key", sa.Text),
        sa.Column("model_name", sa.Text),
        sa.Column("model_version", sa.Text),
        sa.Column("score", sa.Double),
        sa.Column("low", sa.Double),
        sa.Column("high", sa.Double),
        sa.Column("decision", sa.Text),
        sa.Column("degraded", sa.Boolean),
        sa.Column("stage", sa.Text),
        sa.Column("arm", sa.Text),
        sa.Column("latency_ms", sa.Double),
        sa.Column("features", sa.Text),
        sa.Column("feature_service", sa.Text),
        sa.Column("traceparent", sa.Text),
    )
    op.create_index("ix_predictions_scored_at", "predictions", ["scored_at"])
    op.create_index("ix_predictions_event", "predictions", ["workload", "event_id"])
    op.create_table(
        "labels",
        sa.Column("workload", sa.Text, primary_key=True),
        sa.Column("event_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("label_timestamp", Instant, primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
    )
    op.create_table(
        "inference_halves",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("received_at", Instant, nullable=False),
        sa.Column("rows", sa.Text, nullable=False),
    )
    op.create_index("ix_inference_halves_received_at", "inference_halves", ["received_at"])


def downgrade() -> None:
    for table in ("inference_halves", "labels", "predictions"):
        op.drop_table(table)
