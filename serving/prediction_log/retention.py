"""What is older than the log keeps goes, a batch at a time, between two writes and in the writer's own thread.

A batch is small enough that the next write hardly waits for it, and as large as what one write brings, so that a busy
log does not fall behind. A label goes with the last prediction of its event.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa

from millrace.errors import MillraceError
from millrace.events.log import prune, transaction
from millrace.observe import telemetry
from millrace.observe.progress import log

BATCH_ROWS: Final = 5_000
LOOK_EVERY_S: Final = 60.0
"""Between two looks when nothing more was too old, or the database would not."""


class Retention:
    """Keeps `days` of predictions by `scored_at`; 0 keeps all. One thread."""

    def __init__(self, database: sa.Engine, days: int, *, clock: Callable[[], datetime] | None = None) -> None:
        self._database, self._days = database, days
        self._clock = clock or (lambda: datetime.now(UTC))
        self._due = 0.0

    def look(self) -> bool:
        """Let one batch go, when it is time to look; True when there is more. Never raises: it can be done later."""
        if not self._days or time.monotonic() < self._due:
            return False
        before = self._clock() - timedelta(days=self._days)
        try:
            with transaction(self._database) as connection:
                predictions, labels = prune(connection, before, BATCH_ROWS)
        except MillraceError as error:
            log("prediction_log_not_pruned", error=str(error))
            predictions, labels = 0, 0
        telemetry.LOG_PRUNED.labels("predictions").inc(predictions)
        telemetry.LOG_PRUNED.labels("labels").inc(labels)
        more = predictions == BATCH_ROWS
        self._due = 0.0 if more else time.monotonic() + LOOK_EVERY_S
        return more
