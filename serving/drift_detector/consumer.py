"""A thread that reads the stream for one detector: rows are judged, alarms told, the state saved, events acknowledged.

In this order: a killed process finds in the stream what its state does not hold, and an alarm that is told twice has
one id. An event that cannot be read is set aside with its reason, alone.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Final

from millrace.errors import InvalidInput, MillraceError
from millrace.events.stream import PREDICTIONS, Entry, Group, Stream, refuse
from millrace.observe import telemetry
from millrace.observe.progress import log
from millrace.observe.tracing import server_span
from serving.drift_detector.alarms import announce
from serving.drift_detector.events import Events, Scored
from serving.drift_detector.service import DriftService

BATCH_EVENTS: Final = 1000
WAIT_S: Final = 0.5
SAVE_S: Final = 20.0
"""What was taken is saved after so long, however little it was."""
RETRY_S: Final = 1.0


def group_of(model_name: str) -> Group:
    """The group of a model's detector."""
    return Group(PREDICTIONS, f"drift-{model_name}")


class Consumer(threading.Thread):
    """Runs until `stop`; `source` is what alarms name as theirs."""

    def __init__(self, stream: Stream, group: Group, events: Events, service: DriftService, source: str) -> None:
        super().__init__(name="drift-consumer", daemon=True)
        self._stream, self._group, self._source = stream, group, source
        self._events, self._service = events, service
        self._stopping = threading.Event()
        self._held: list[str] = []
        """Positions of what was taken and is not acknowledged."""
        self._bad: list[tuple[Entry, str]] = []
        self._saved_at = time.monotonic()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except (OSError, MillraceError) as error:  # a disk that is full: the stream still has what was taken
                log("drift_consumer_waits", error=str(error), retry_s=RETRY_S)
                self._stopping.wait(RETRY_S)
        with suppress(OSError, MillraceError):
            self._settle()
            self._save()

    def stop(self) -> None:
        """Finish what was read, save, and end."""
        self._stopping.set()
        self.join()

    def waiting(self) -> int:
        """Events on the stream that are not judged; those that wait for the next save of the state are."""
        return max(0, self._stream.lag(self._group).events - len(self._held))

    def _step(self) -> None:
        self._settle()
        entries = self._stream.read(self._group, self._group.name, BATCH_EVENTS, WAIT_S)
        if entries:
            self._take(entries)
            self._settle()
        long_ago = time.monotonic() - self._saved_at >= SAVE_S
        if self._service.unsaved >= self._service.settings.save_every_rows or (self._held and long_ago):
            self._save()

    def _take(self, entries: list[Entry]) -> None:
        rows: list[Scored] = []
        understood: list[str] = []
        others = 0
        for entry in entries:
            try:
                found = self._events.read(entry.body)
                for row in found or ():
                    self._service.require(row)
            except InvalidInput as error:
                self._bad.append((entry, str(error)))
                continue
            understood.append(entry.position)
            others += found is None
            rows += found or ()
        with server_span("drift.judge", {}) as span:
            span.link(row.traceparent for row in rows)
            self._service.take(rows, others)
        self._held += understood

    def _settle(self) -> None:
        """Set aside what could not be read, tell what was found, and save what told it."""
        while self._bad:
            entry, reason = self._bad[0]
            refuse(self._stream, self._group, entry, reason)
            telemetry.DRIFT_EVENTS.labels("refused").inc()
            del self._bad[0]
        told = bool(self._service.untold)
        while self._service.untold:
            announce(self._stream, self._service.untold[0], self._source)
            del self._service.untold[0]
        if told:
            self._save()

    def _save(self) -> None:
        if self._service.unsaved:
            self._service.save()
        self._stream.acknowledge(self._group, self._held)
        self._held.clear()
        self._saved_at = time.monotonic()
