"""A thread that takes the drift detectors' alarms from the stream: each is acknowledged when its trigger has it."""

from __future__ import annotations

import threading
from typing import Final

from millrace.errors import InvalidInput, MillraceError
from millrace.events.kinds import read_alarm
from millrace.events.stream import ALARMS, Entry, Group, Stream, refuse
from millrace.observe.progress import log
from millrace.observe.tracing import work_span
from serving.retraining_trigger.events import request_of
from serving.retraining_trigger.service import Triggers

GROUP: Final = Group(ALARMS, "retraining-trigger")
BATCH_EVENTS: Final = 100
WAIT_S: Final = 1.0
RETRY_S: Final = 2.0


class Listener(threading.Thread):
    """Runs until `stop`."""

    def __init__(self, stream: Stream, triggers: Triggers) -> None:
        super().__init__(name="trigger-listener", daemon=True)
        self._stream, self._triggers = stream, triggers
        self._waiting: list[Entry] = []
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except (OSError, MillraceError) as error:  # what was read is taken in the next step
                log("alarms_wait", error=str(error), retry_s=RETRY_S)
                self._stopping.wait(RETRY_S)

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)

    def _step(self) -> None:
        self._waiting = self._waiting or self._stream.read(GROUP, GROUP.name, BATCH_EVENTS, WAIT_S)
        while self._waiting:
            self._take(self._waiting[0])
            del self._waiting[0]

    def _take(self, entry: Entry) -> None:
        try:
            event = read_alarm(entry.body)
            workload, request = request_of(event, self._triggers.models, self._triggers.default)
        except InvalidInput as error:
            refuse(self._stream, GROUP, entry, str(error))
            return

        with work_span("retraining.alarm", request.traceparent):
            self._triggers.of(workload).take([request])
        self._stream.acknowledge(GROUP, [entry.position])
