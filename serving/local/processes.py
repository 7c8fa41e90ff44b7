"""One server process: started, watched, started again when it dies, stopped. `services.py` owns these.

A process outlives its supervisor: the next one finds it by its record (`records.py`) and watches it as its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from millrace.lake.atomic import sha256_text
from millrace.observe.progress import log
from serving.local.manifest import LOOPBACK, Command
from serving.local.ports import free_port, taken
from serving.local.records import STOP_TIMEOUT_S, Record
from serving.local.state import ProcessState

BACKOFF_S: Final = (0.05, 0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before the next start: the first for one that was ready, further ones for those that die before they are."""
POLL_S: Final = 0.05
PROBE_TIMEOUT_S: Final = 2.0
MAX_LOG_BYTES: Final = 20 << 20

Probe = Callable[[], Awaitable[bool]]


class Process(Protocol):
    """What is asked of a running process."""

    @property
    def pid(self) -> int: ...
    async def wait(self) -> int: ...
    def send_signal(self, signal: int) -> None: ...


class Adopted:
    """A process that an earlier supervisor started."""

    def __init__(self, record: Record) -> None:
        self.pid = record.pid
        self.record = record

    async def wait(self) -> int:
        """Its end is seen within POLL_S; its status is nobody's."""
        while self.record.runs():
            await asyncio.sleep(POLL_S)
        return 0

    def send_signal(self, signal: int) -> None:
        if not self.record.runs():
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, signal)


class ServerProcess:
    """A command with ports of its own; `watch` keeps it running until `stop`.

    `changed` is called whenever its state has changed; its ports may be others after a restart. `probe` says whether it
    is ready; by default its readiness path does.
    """

    def __init__(
        self,
        command: Command,
        record: Path,
        log_file: Path,
        changed: Callable[[], None],
        *,
        with_ports: bool = True,
        nice: int = 0,
        probe: Probe | None = None,
        **about: Any,
    ) -> None:
        self.command = command
        self.ready = asyncio.Event()
        self.was_ready = False
        self.state = ProcessState(command.role, log=str(log_file), **about)
        before = Record.read(record)
        if with_ports:
            self.state.http_port = before.http_port if before else free_port()
            self.state.grpc_port = before.grpc_port if before else free_port()
        self.record, self._nice, self._changed = record, nice, changed
        self._probe = probe or self._answers
        self._process: Process | None = None
        self._stopping = asyncio.Event()

    async def watch(self, predictor: str = "") -> None:
        """Go on with the one that runs, or start it; wait until it ends; again with growing pauses until stopped."""
        failures = 0
        self._process = await self._adopted(predictor)
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once(predictor, began)
            self._process = None
            was_ready = self.ready.is_set()
            self.ready.clear()
            if self._stopping.is_set():
                break
            failures = 0 if was_ready else failures + 1
            pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            log("process_died", role=self.state.role, exit_code=code, restart_in_s=pause, log=self.state.log)
            self._set("waiting", restarts=self.state.restarts + 1, ended=_how(code))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
        self.record.unlink(missing_ok=True)
        self._set("stopped")

    async def stop(self) -> None:
        """SIGTERM, so that it drains; SIGKILL when that takes too long."""
        self._stopping.set()
        process = self._process
        if process is not None:
            await _ended(process, self.state.role)

    async def _adopted(self, predictor: str) -> Process | None:
        """What an earlier supervisor left running for this command; another program in its place is ended."""
        record = Record.read(self.record)
        if record is None or not record.runs():
            return None
        found = Adopted(record)
        wanted = self.command.with_ports(record.http_port, record.grpc_port, predictor)
        if record.args != wanted or record.environment != self._environment:
            await _ended(found, self.state.role)
            return None
        log("process_adopted", role=self.state.role, pid=record.pid)
        self._set("starting", pid=record.pid, started_at=record.started_at)
        return found

    async def _run_once(self, predictor: str, began: float) -> int:
        if self._process is None:
            self._process = await self._start(predictor)
        if self._stopping.is_set():
            await self.stop()
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(self._until_ready(began))
        await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
        code = await ended
        ready.cancel()
        return code

    async def _start(self, predictor: str) -> Process:
        ports = self.state.http_port, self.state.grpc_port
        if any(ports) and any(map(taken, ports)):  # kept from start to start otherwise
            self.state.http_port, self.state.grpc_port = free_port(), free_port()
        args = self.command.with_ports(self.state.http_port, self.state.grpc_port, predictor)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        log_file = Path(self.state.log)
        self.record.parent.mkdir(parents=True, exist_ok=True)
        if log_file.exists() and log_file.stat().st_size > MAX_LOG_BYTES:
            log_file.replace(log_file.with_suffix(".log.1"))

        def begin() -> None:
            """In the new process, before its program."""
            os.nice(self._nice)
            ports = self.state.http_port, self.state.grpc_port
            Record(os.getpid(), args, self._environment, *ports, now).write(self.record)

        with log_file.open("ab") as stream:
            process = await asyncio.create_subprocess_exec(
                *args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=os.environ | self.command.env,
                start_new_session=True,  # a Ctrl-C in the terminal is the supervisor's business
                preexec_fn=begin,
            )
        _yield_session(process.pid, self._nice)
        self._set("starting", pid=process.pid, started_at=now)
        return process

    @property
    def _environment(self) -> str:
        return sha256_text(json.dumps(dict(self.command.env), sort_keys=True))[:16]

    async def _until_ready(self, began: float) -> None:
        while not await self._probe():
            await asyncio.sleep(POLL_S)
        self.ready.set()
        self.was_ready = True
        self._set("ready", ready_after_s=round(time.monotonic() - began, 2))

    async def _answers(self) -> bool:
        url = f"http://{LOOPBACK}:{self.state.http_port}{self.command.readiness}"
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, session.get(url) as answer:
                return answer.status == 200
        return False

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


async def _ended(process: Process, role: str) -> None:
    """Wait for the end of a process that is asked to end, and after STOP_TIMEOUT_S made to."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        log("process_killed", role=role, after_s=STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


def _how(code: int) -> str:
    """How a process ended, in words; empty where nobody was told, as of one that was adopted."""
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with status {code}" if code else ""


def _yield_session(pid: int, nice: int) -> None:
    """Linux with autogroups, as on most desktops: there `nice` counts within a session, and each server has its own."""
    if nice:
        with suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="utf-8")
