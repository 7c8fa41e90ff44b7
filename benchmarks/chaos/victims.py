"""Which processes are killed: those of the home, by the ids in its own state file, and a rollout controller.

An id may have gone to another process since it was written down: one is killed only while its record still fits.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Final

from benchmarks.chaos.rollout import Rollout
from millrace.errors import Unavailable
from serving.local.records import Record
from serving.local.state import AGENT, GATEWAY, Place, ProcessState

SUPERVISOR: Final = "supervisor"
ROLLOUT: Final = "rollout"
ORDER: Final = ("envoy", "transformer", "predictor", "prediction-log", "drift-detector", ROLLOUT, SUPERVISOR)
APPEARS_S: Final = 90.0
"""How long a kind's next process is waited for."""
LOOK_S: Final = 0.05


class Victims:
    """The processes of one service's home."""

    def __init__(self, place: Place, model: str, rollout: Rollout) -> None:
        self._place, self._model, self._rollout = place, model, rollout
        self._killed: set[int] = set()

    def kinds(self) -> list[str]:
        """Those that run here, from the outside in; no controller where the registry has no version."""
        found = {self._kind(process) for process in self._processes()} | {SUPERVISOR}
        found |= {ROLLOUT} if self._rollout.versions else set()
        return [*(kind for kind in ORDER if kind in found), *sorted(found - {*ORDER, AGENT})]

    async def kill(self, kind: str, random: Random) -> int:
        """Kill -9 one process of a kind, the next one where none runs now; its id. Raises Unavailable."""
        deadline = time.monotonic() + APPEARS_S
        while True:
            pids = [pid for pid in self._pids(kind) if pid not in self._killed]
            if pids:
                pid = random.choice(pids)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self._killed.add(pid)
                    return pid
            if time.monotonic() > deadline:
                raise Unavailable(f"no {kind} came back within {APPEARS_S:g} s; see the logs in {self._place.logs}")
            await asyncio.sleep(LOOK_S)

    async def settled(self) -> None:
        """Wait until everything is ready again; raises Unavailable."""
        deadline = time.monotonic() + APPEARS_S
        while not self._ready():
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"not everything was ready within {APPEARS_S:g} s; see the logs in {self._place.logs}"
                )
            await asyncio.sleep(LOOK_S)

    def _ready(self) -> bool:
        state = self._place.read()
        if state is None or state.state != "ready" or state.pid not in self._place.pids():
            return False
        return self._killed.isdisjoint([state.pid, *(process.pid for process in state.processes)])

    def _pids(self, kind: str) -> list[int]:
        if kind == ROLLOUT:
            return self._rollout.pids()
        if kind == SUPERVISOR:
            state = self._place.read()
            return [state.pid] if state is not None and state.pid in self._place.pids() else []
        running = {record.pid for record in self._records() if record.runs()}
        return [one.pid for one in self._processes() if self._kind(one) == kind and one.pid in running]

    def _processes(self) -> list[ProcessState]:
        state = self._place.read()
        return [] if state is None else state.processes

    def _records(self) -> Iterator[Record]:
        for path in self._place.running.glob("*.json"):
            record = Record.read(path)
            if record is not None:
                yield record

    def _kind(self, process: ProcessState) -> str:
        """`predictor` of the service itself, `drift-detector` of what watches it, else the program's name."""
        if process.service in (self._model, GATEWAY):
            return process.role
        return "drift-detector" if process.service == f"{self._model}-drift" else process.service
