"""A rollout controller to be killed, with canaries that begin and are aborted while it runs.

The home's runtime has no controller of its own, so this one is a child of the run, started again when it is killed.
Without a second version in the registry there is no canary, and the controller only looks.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from typing import Final

from millrace.registry.models import served
from millrace.settings import Settings

EVERY_S: Final = 0.5
"""How often the controller looks."""
CANARY_S: Final = 3.0
"""How long a canary is left to it."""


class Rollout:
    """`async with` it: the controller runs, and from `move` on there are canaries."""

    def __init__(self, here: Settings) -> None:
        self._here = here
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._moving = asyncio.Event()
        folder = here.home / "serving" / "models" / here.model_name
        self.versions = sorted(int(path.stem) for path in folder.glob("*.yaml") if path.stem.isdigit())
        """Registered ones."""

    def pids(self) -> list[int]:
        """Of the controller, and of the program that is just starting or aborting a canary."""
        return [process.pid for process in self._running.values() if process.returncode is None]

    async def __aenter__(self) -> Rollout:
        if self.versions:
            self._tasks.append(asyncio.create_task(self._control()))
        if len(self.versions) > 1:
            self._tasks.append(asyncio.create_task(self._move()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if len(self.versions) > 1:
            await self._run("end", "--abort", "--reason=the kills are over")

    def move(self, *, wanted: bool) -> None:
        """Whether canaries begin and are aborted from now on."""
        if wanted:
            self._moving.set()
        else:
            self._moving.clear()

    async def _control(self) -> None:
        while True:
            await self._run("controller", f"--every={EVERY_S}")
            await asyncio.sleep(EVERY_S)

    async def _move(self) -> None:
        while True:
            await self._moving.wait()
            now = served(self._here)
            other = next(number for number in self.versions if now is None or number != now.version)
            await self._run("by hand", "--start", f"--version={other}")
            await asyncio.sleep(CANARY_S)
            await self._run("by hand", "--abort", "--reason=a canary between kills")

    async def _run(self, name: str, *arguments: str) -> None:
        """`python -m serving.rollout` until it ends."""
        self._running[name] = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serving.rollout", f"--workload={self._here.workload}", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"MILLRACE_HOME": str(self._here.home)},
        )
        await process.wait()
