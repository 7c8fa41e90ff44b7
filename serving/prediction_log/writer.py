"""A thread that drains the journal into the database, in batches, for as long as the process lives.

While the database is away the journal grows and the batch is tried again, ever less often. A record that the database
refuses for what it says is set aside in `rejected.jsonl`, so that it cannot hold up those behind it. A batch that was
written and not dropped yet (killed in between) is written again: every insert is idempotent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
import sqlalchemy as sa

from millrace.errors import Unavailable
from millrace.events.log import insert_labels, insert_predictions, migrate, news, transaction
from millrace.observe import telemetry
from millrace.observe.progress import log
from serving.prediction_log.halves import expire, join
from serving.prediction_log.journal import Journal, Position
from serving.prediction_log.retention import Retention

BATCH_BYTES: Final = 2 << 20
"""About 3,000 predictions."""
LINGER_S: Final = 0.2
"""What a batch waits for more: a transaction costs as much as a hundred of its rows."""
BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
EXPIRE_INTERVAL_S: Final = 60.0

Record = dict[str, Any]


class Writer(threading.Thread):
    """Started before the first request, stopped after the last one; `failed` says why the last write did not work."""

    def __init__(
        self, database: sa.Engine, journal: Journal, rejected: Path, retention: Retention | None = None
    ) -> None:
        super().__init__(name="prediction-log-writer", daemon=True)
        self._retention = retention or Retention(database, 0)
        self._database, self._journal, self._rejected = database, journal, rejected
        self._stopping = threading.Event()
        self._oldest: float | None = None
        self._expired = 0.0
        self.failed = ""

    @property
    def lag_s(self) -> float:
        """Age of the oldest record that was read and is not written."""
        oldest = self._oldest
        return 0.0 if oldest is None else max(0.0, time.time() - oldest)

    def run(self) -> None:
        try:
            self._try(lambda: migrate(self._database))
            place = self._journal.start
            while not self._stopping.is_set() or self._journal.read(place, 1)[0]:
                place = self._step(place)
        except _GivenUp:
            log("prediction_log_stopped", unwritten_bytes=self._journal.size_bytes, reason=self.failed)

    def stop(self, timeout_s: float) -> None:
        """Write what is in the journal, unless the database is away; the journal keeps the rest."""
        self._stopping.set()
        self._journal.wake()
        self.join(timeout_s)

    def _step(self, place: Position) -> Position:
        """One batch, or a wait for one; the place after it."""
        lines, end = self._journal.read(place, BATCH_BYTES)
        if not lines:
            self._try(self._expire)
            if not self._retention.look():
                self._journal.wait(1.0)
            return place
        if len(lines) < BATCH_BYTES and not self._stopping.wait(LINGER_S):
            lines, end = self._journal.read(place, BATCH_BYTES)
        records = self._records(lines)
        if records:
            self._oldest = datetime.fromisoformat(records[0]["received"]).timestamp()
        self._write(records)
        self._oldest = None
        self._journal.drop_before(end)
        self._retention.look()
        return end

    def _records(self, lines: bytes) -> list[Record]:
        records = []
        for line in lines.splitlines():
            try:
                records.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:  # a disk that rots
                self._set_aside(line, str(error))
        return records

    def _write(self, records: Sequence[Record]) -> None:
        """All of them; those that the database refuses go aside, found by halving."""
        if not records:
            return
        try:
            with telemetry.LOG_WRITE_SECONDS.time():
                self._try(lambda: self._insert(records))
        except (ValueError, KeyError, TypeError, OverflowError) as error:  # InvalidInput is a ValueError
            if len(records) == 1:
                return self._set_aside(orjson.dumps(records[0]), f"{type(error).__name__}: {error}")
            middle = len(records) // 2
            self._write(records[:middle])
            self._write(records[middle:])

    def _insert(self, records: Sequence[Record]) -> None:
        by_kind: dict[str, list[Record]] = {"prediction": [], "label": [], "request": [], "response": []}
        for record in records:
            by_kind[record["kind"]].append(record)
        with transaction(self._database) as connection:
            rows = [_prediction(record["row"]) for record in by_kind["prediction"]]
            if halves := by_kind["request"] + by_kind["response"]:
                rows += join(connection, halves)
            predictions = insert_predictions(connection, rows)
            labels = _write_labels(connection, by_kind["label"]) if by_kind["label"] else 0
        telemetry.LOG_ROWS.labels("predictions").inc(predictions)
        telemetry.LOG_ROWS.labels("labels").inc(labels)

    def _expire(self) -> None:
        if time.monotonic() - self._expired < EXPIRE_INTERVAL_S:
            return
        with transaction(self._database) as connection:
            rows, given_up = expire(connection, datetime.now(UTC))
            telemetry.LOG_ROWS.labels("predictions").inc(insert_predictions(connection, rows))
        telemetry.LOG_HALVES_EXPIRED.inc(given_up)
        self._expired = time.monotonic()

    def _try(self, work: Any) -> None:
        """Do `work` until the database takes it; raises _GivenUp when it does not and the process is to end."""
        attempt = 0
        while True:
            try:
                work()
            except Unavailable as error:
                telemetry.LOG_WRITE_FAILURES.inc()
                if self.failed != str(error):
                    log("prediction_log_write_failed", error=str(error), journal_bytes=self._journal.size_bytes)
                self.failed = str(error)
                if self._stopping.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]):
                    raise _GivenUp from error
                attempt += 1
            else:
                if self.failed:
                    log("prediction_log_writes_again", failures=attempt)
                self.failed = ""
                return

    def _set_aside(self, line: bytes, reason: str) -> None:
        telemetry.LOG_REJECTED.inc()
        log("prediction_log_record_rejected", reason=reason, kept_in=str(self._rejected))
        with self._rejected.open("ab") as stream:
            stream.write(orjson.dumps({"reason": reason, "record": line.decode(errors="replace")}) + b"\n")


class _GivenUp(Exception):
    """The process ends and the database is away."""


def _prediction(row: Record) -> Record:
    return row | {name: datetime.fromisoformat(row[name]) for name in ("scored_at", "event_timestamp")}


def _write_labels(connection: sa.Connection, records: Sequence[Record]) -> int:
    """Those with a time as they are; those without, dated when they came, where they say something new."""
    rows: dict[bool, list[Record]] = {True: [], False: []}
    for record in records:
        known = datetime.fromisoformat(record["label_timestamp"])
        row = {name: record[name] for name in ("workload", "event_id", "value")} | {"label_timestamp": known}
        rows[record["dated"]].append(row)
    return insert_labels(connection, rows[True]) + insert_labels(connection, news(connection, rows[False]))
