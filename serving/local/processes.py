"""One server process: started, watched, started again when it dies, stopped. `services.py` owns these."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from millrace.errors import Unavailable
from millrace.observe.progress import log
from serving.connections import Connections
from serving.local.manifest import LOOPBACK, Command
from serving.local.state import ProcessState

BACKOFF_S: Final = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_S: Final = 60.0
"""A process that lived this long begins again with the first wait."""
STOP_TIMEOUT_S: Final = 35.0
"""A server drains for up to 30 s."""
POLL_S: Final = 0.05
MAX_LOG_BYTES: Final = 20 << 20


class ServerProcess:
    """A command with ports of its own; `watch` keeps it running until `stop`.

    `changed` is called whenever its state has changed; its port may be another after a restart.
    """

    def __init__(
        self,
        command: Command,
        log_file: Path,
        changed: Callable[[], None],
        http_port: int = 0,
        nice: int = 0,
        **about: str,
    ) -> None:
        self.command = command
        self._nice = nice
        self._changed = changed
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self.state = ProcessState(command.role, log=str(log_file), **about)  # type: ignore[arg-type]
        self.state.http_port, self.state.grpc_port = http_port or free_port(), free_port()
        self.connections = Connections(LOOPBACK, self.state.http_port, limit=256)
        self.ready = asyncio.Event()
        self.was_ready = False
        self._pause: asyncio.Event = asyncio.Event()

    def _take_ports(self) -> None:
        """Ports of its own, kept from start to start unless somebody has taken them meanwhile."""
        state = self.state
        if not taken(state.http_port) and not taken(state.grpc_port):
            return
        state.http_port, state.grpc_port = free_port(), free_port()
        self.connections = Connections(LOOPBACK, state.http_port, limit=256)

    async def watch(self, predictor: str) -> None:
        """Start, wait until ready, wait until it ends; again with growing pauses until stopped."""
        failures = 0
        while not self._stopping:
            began = time.monotonic()
            code = await self._run_once(predictor, began)
            self.ready.clear()
            self.connections.close()
            if self._stopping:
                break
            failures = 0 if time.monotonic() - began > HEALTHY_S else failures + 1
            pause = BACKOFF_S[min(max(failures - 1, 0), len(BACKOFF_S) - 1)]
            log("process_died", role=self.state.role, exit_code=code, restart_in_s=pause, log=self.state.log)
            self._set("waiting", restarts=self.state.restarts + 1)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._pause.wait(), pause)
        self._set("stopped")

    async def stop(self) -> None:
        """SIGTERM, so that it drains; SIGKILL when that takes too long."""
        self._stopping = True
        self._pause.set()
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            log("process_killed", role=self.state.role, after_s=STOP_TIMEOUT_S)
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _run_once(self, predictor: str, began: float) -> int:
        self._take_ports()
        args = self.command.with_ports(self.state.http_port, self.state.grpc_port, predictor)
        log_file = Path(self.state.log)
        if log_file.exists() and log_file.stat().st_size > MAX_LOG_BYTES:
            log_file.replace(log_file.with_suffix(".log.1"))
        with log_file.open("ab") as stream:
            self._process = await asyncio.create_subprocess_exec(
                *args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=os.environ | self.command.env,
                start_new_session=True,  # a Ctrl-C in the terminal is the supervisor's business
                preexec_fn=self._begin,
            )
        _yield_session(self._process.pid, self._nice)
        self._set("starting", pid=self._process.pid, started_at=datetime.now(UTC).isoformat(timespec="seconds"))
        if self._stopping:
            await self.stop()
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(self._until_ready(began))
        await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
        code = await ended
        ready.cancel()
        return code

    def _begin(self) -> None:
        """In the new process, before its program."""
        os.nice(self._nice)
        if sys.platform == "linux":
            _die_with_parent()

    async def _until_ready(self, began: float) -> None:
        while True:
            with suppress(Unavailable):
                answer = await self.connections.request(b"GET", self.command.readiness.encode(), timeout_s=2)
                if answer.status == 200:
                    break
            await asyncio.sleep(POLL_S)
        self.ready.set()
        self.was_ready = True
        self._set("ready", ready_after_s=round(time.monotonic() - began, 2))

    def _set(self, state: str, **values: object) -> None:
        self.state.state = state
        for name, value in values.items():
            setattr(self.state, name, value)
        self._changed()


class Watched:
    """A process and the task that watches it."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self._task: asyncio.Task[None] | None = None

    def begin(self, predictor: str = "") -> None:
        self._task = asyncio.create_task(self.process.watch(predictor))

    async def stop(self) -> None:
        await self.process.stop()
        if self._task is not None:
            await self._task


def _yield_session(pid: int, nice: int) -> None:
    """Linux with autogroups, as on most desktops: there `nice` counts within a session, and each server has its own."""
    if nice:
        with suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def taken(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Linux: SIGTERM when the supervisor ends, even by SIGKILL (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
