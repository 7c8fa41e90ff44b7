"""Generations of state that nobody reads any more are dropped, a day after they were last written.

The day is for runs that fill one and are not promoted yet, and for answers on their way while traffic moves. What a
version with an alias or a revision reads (`millrace.registry.generations`) is never touched.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from millrace.errors import AlreadyRunning
from millrace.installed import load
from millrace.lake.atomic import exclusive
from millrace.lake.feast_home import generations, repository
from millrace.observe.progress import log
from millrace.registry.generations import generations_in_use
from millrace.settings import Settings

IDLE_S: Final = 86_400.0


def drop_unused(settings: Settings, *, idle_s: float = IDLE_S) -> list[str]:
    """Drop the generations of the workload that nobody reads and nobody wrote for `idle_s`; returns their names.

    Where another store serves (`Settings.feature_store`), theirs is dropped there too.
    """
    used = generations_in_use(settings)
    dropped = []
    for name in generations(settings.home, settings.workload):
        repo = repository(settings.home, settings.workload, name)
        if name in used or time.time() - _last_written(repo) < idle_s:
            continue
        with suppress(AlreadyRunning), exclusive(repo / ".lock", f"dropping generation {name}"):
            _drop(settings, repo)
            dropped.append(name)
    return dropped


def _drop(settings: Settings, repo: Path) -> None:
    if settings.feature_store is not None:
        from components.materialize import serving_store

        serving_store.drop(settings.feature_store, load(settings.workload), repo.name)
    shutil.rmtree(repo)
    log("generation dropped", workload=settings.workload, generation=repo.name)


def _last_written(repo: Path) -> float:
    """Seconds since 1970."""
    return max((path.lstat().st_mtime for path in repo.iterdir()), default=repo.stat().st_mtime)
