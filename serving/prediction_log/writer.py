"""A thread that reads the stream and writes it into the database, in batches, for as long as the process lives.

While the database is away the stream keeps what comes, and the batch is tried again, ever less often. An event that
cannot be read, or that the database refuses for what it says, is set aside in the stream with its reason, alone. A
batch that was written and not acknowledged yet (killed in between) is written again: every insert is idempotent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from millrace.errors import InvalidInput, Unavailable
from millrace.events.kinds import LOGGED, read_label, read_scored
from millrace.events.log import insert_labels, insert_predictions, migrate, news, transaction
from millrace.events.stream import LABELS, PREDICTIONS, Entry, Group, Stream, refuse
from millrace.observe import telemetry
from millrace.observe.progress import log
from millrace.observe.tracing import server_span
from serving.prediction_log.core import row_of
from serving.prediction_log.halves import expire, join
from serving.prediction_log.retention import Retention

T = TypeVar("T")

GROUPS: Final = (Group(LABELS, "prediction-log"), Group(PREDICTIONS, "prediction-log"))
BATCH_EVENTS: Final = 2000
WAIT_S: Final = 0.5
LINGER_S: Final = 0.2
"""What a batch waits for more: a transaction costs as much as a hundred of its rows."""
BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
EXPIRE_INTERVAL_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Taken:
    """An entry of the stream, and what it says."""

    entry: Entry
    said: Mapping[str, Any]


class Writer(threading.Thread):
    """Started before the first request, stopped after the last one; `failed` says why the last write did not work."""

    def __init__(self, database: sa.Engine, stream: Stream, consumer: str, retention: Retention | None = None) -> None:
        super().__init__(name="prediction-log-writer", daemon=True)
        self._retention = retention or Retention(database, 0)
        self._database, self._stream, self._consumer = database, stream, consumer
        self._stopping = threading.Event()
        self._expired = 0.0
        self.failed = ""

    def run(self) -> None:
        try:
            self._try(lambda: migrate(self._database))
            took = True
            while took or not self._stopping.is_set():
                took = self._step()
        except _GivenUp:
            log("prediction_log_stopped", reason=self.failed)

    def stop(self, timeout_s: float) -> None:
        """Write what is in the stream, unless the database is away; the stream keeps the rest."""
        self._stopping.set()
        self.join(timeout_s)

    def _step(self) -> bool:
        """One batch of each topic, or a wait for one; whether there was any."""
        took = False
        for group in GROUPS:
            entries = self._try(lambda group=group: self._read(group))
            if entries:
                took = True
                self._write(group, self._understood(group, entries))
                self._try(lambda group=group, entries=entries: self._acknowledge(group, entries))
        if not took:
            self._try(self._expire)
        self._retention.look()
        return took

    def _read(self, group: Group) -> list[Entry]:
        wait_s = 0.0 if group.topic == LABELS or self._stopping.is_set() else WAIT_S
        entries = self._stream.read(group, self._consumer, BATCH_EVENTS, wait_s)
        if entries and len(entries) < BATCH_EVENTS and not self._stopping.wait(LINGER_S):
            entries += self._stream.read(group, self._consumer, BATCH_EVENTS - len(entries), 0.0)
        return entries

    def _acknowledge(self, group: Group, entries: Sequence[Entry]) -> None:
        self._stream.acknowledge(group, [entry.position for entry in entries])

    def _understood(self, group: Group, entries: Sequence[Entry]) -> list[Taken]:
        """What the entries say; those that cannot be read go aside."""
        read: Callable[[bytes], Any] = read_label if group.topic == LABELS else read_scored
        taken = []
        for entry in entries:
            try:
                taken.append(Taken(entry, read(entry.body)))
            except InvalidInput as error:
                self._set_aside(group, entry, str(error))
        return taken

    def _write(self, group: Group, taken: Sequence[Taken]) -> None:
        """All of them; those that the database refuses go aside, found by halving."""
        if not taken:
            return
        insert = self._insert_labels if group.topic == LABELS else self._insert_scored
        said = [one.said for one in taken]
        try:
            with server_span("prediction_log.write", {}) as span, telemetry.LOG_WRITE_SECONDS.time():
                span.link(one.get("traceparent") or "" for one in said)
                self._try(lambda: insert(said))
        except (ValueError, KeyError, TypeError, OverflowError) as error:  # InvalidInput is a ValueError
            if len(taken) == 1:
                return self._set_aside(group, taken[0].entry, f"{type(error).__name__}: {error}")
            middle = len(taken) // 2
            self._write(group, taken[:middle])
            self._write(group, taken[middle:])

    def _insert_scored(self, events: Sequence[Mapping[str, Any]]) -> None:
        rows = [row_of(event) for event in events if event["type"] != LOGGED]
        halves = [event["data"] for event in events if event["type"] == LOGGED]
        with transaction(self._database) as connection:
            if halves:
                rows += join(connection, halves)
            predictions = insert_predictions(connection, rows)
        telemetry.LOG_ROWS.labels("predictions").inc(predictions)

    def _insert_labels(self, said: Sequence[Mapping[str, Any]]) -> None:
        """Those with a time as they are; those without, dated when they came, where they say something new."""
        rows: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
        for label in said:
            rows[label["dated"]].append({name: label[name] for name in label if name != "dated"})
        with transaction(self._database) as connection:
            labels = insert_labels(connection, rows[True]) + insert_labels(connection, news(connection, rows[False]))
        telemetry.LOG_ROWS.labels("labels").inc(labels)

    def _expire(self) -> None:
        if time.monotonic() - self._expired < EXPIRE_INTERVAL_S:
            return
        with transaction(self._database) as connection:
            rows, given_up = expire(connection, datetime.now(UTC))
            telemetry.LOG_ROWS.labels("predictions").inc(insert_predictions(connection, rows))
        telemetry.LOG_HALVES_EXPIRED.inc(given_up)
        self._expired = time.monotonic()

    def _try(self, work: Callable[[], T]) -> T:
        """Do `work` until database and stream take it; raises _GivenUp when they do not and the process is to end."""
        attempt = 0
        while True:
            try:
                done = work()
            except Unavailable as error:
                telemetry.LOG_WRITE_FAILURES.inc()
                if self.failed != str(error):
                    log("prediction_log_write_failed", error=str(error))
                self.failed = str(error)
                if self._stopping.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]):
                    raise _GivenUp from error
                attempt += 1
            else:
                if self.failed:
                    log("prediction_log_writes_again", failures=attempt)
                self.failed = ""
                return done

    def _set_aside(self, group: Group, entry: Entry, reason: str) -> None:
        self._try(lambda: refuse(self._stream, group, entry, reason))


class _GivenUp(Exception):
    """The process ends and the database, or the stream, is away."""
