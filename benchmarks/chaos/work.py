"""Kills, one kind after the other and then all at random, while clients ask."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

from rich.progress import Progress

from benchmarks.chaos.load import Load
from benchmarks.chaos.rollout import Rollout
from benchmarks.chaos.victims import ROLLOUT, Victims

ANY: Final = "any"
"""The phase in which everything is killed at random."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is killed, and when."""

    kinds: list[str]
    kills: int
    """Of each kind."""
    minutes: float
    """How long everything is killed at random afterwards."""
    apart: tuple[float, float]
    """Seconds between two kills: at least, at most."""
    seed: int
    alone: bool = False
    """Each kill waits until everything that answers is there again."""


@dataclass
class Kills:
    """Carries out a plan; what it came to is in `kills` and `seconds`, by phase."""

    plan: Plan
    load: Load
    victims: Victims
    rollout: Rollout
    kills: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Raises Unavailable when something does not come back."""
        plan = self.plan
        usual_s = plan.kills * sum(plan.apart) / 2
        with _bar(len(plan.kinds) * usual_s + plan.minutes * 60) as tell:
            for kind in plan.kinds:
                await self._phase(kind, [kind], lambda kind=kind: self.kills[kind] < plan.kills, tell)
            if plan.minutes:
                ends = time.monotonic() + plan.minutes * 60
                await self._phase(ANY, plan.kinds, lambda: time.monotonic() < ends, tell)

    async def _phase(
        self, name: str, kinds: list[str], goes_on: Callable[[], bool], tell: Callable[[str], None]
    ) -> None:
        """Kill until it is enough, and wait until all is well again."""
        random = Random(f"{self.plan.seed}/{name}")
        began = time.monotonic()
        self.load.phase = name
        self.rollout.move(wanted=ROLLOUT in kinds)
        self.kills[name] += 0
        while goes_on():
            if self.plan.alone:
                await self.victims.settled()
            await asyncio.sleep(random.uniform(*self.plan.apart))
            await self.victims.kill(random.choice(kinds), random)
            self.kills[name] += 1
            tell(name)
        self.rollout.move(wanted=False)
        await self.victims.settled()
        self.seconds[name] = time.monotonic() - began


@contextmanager
def _bar(total_s: float) -> Iterator[Callable[[str], None]]:
    """A progress bar by the seconds that have gone by, where somebody looks."""
    began = time.monotonic()
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("chaos", total=total_s)

        def tell(name: str) -> None:
            progress.update(task, completed=time.monotonic() - began, description=f"chaos: {name}")

        yield tell
