"""Traffic and metrics of the local runtime: its manifest file, what its servers say under /metrics, its processes.

The file is written aside and renamed; the runtime follows it. What counters have grown by is `growth.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import yaml

from millrace.direct import open_directly
from millrace.errors import NotFound, Unavailable
from millrace.lake.atomic import exclusive, write_text
from millrace.rollout.canary import Document, Rollout
from millrace.rollout.observations import Observations, Observed
from serving.local.records import resident_mb
from serving.local.state import AGENT, LocalState, Place, ProcessState, RevisionState
from serving.rollout.core import Change, RevisionNames
from serving.rollout.growth import Growth
from serving.rollout.labels import LabelSource
from serving.rollout.samples import DEATHS, Samples, observed, parsed, told_apart

TIMEOUT_S: Final = 3.0
FAILED_STARTS: Final = 3
MAX_LINE: Final = 300
"""Characters of a log's last line that a reason quotes."""


class LocalTarget:
    """The InferenceService file in `<home>/serving`."""

    def __init__(self, place: Place, name: str) -> None:
        self._place = place
        self._name = name
        self._path = place.manifest(name)

    def read(self) -> Document:
        try:
            document: Document = yaml.safe_load(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise NotFound(f"no manifest at {self._path}. Promote a model first: make run") from error
        return document

    def change(self, change: Change) -> Document:
        with exclusive(self._place.folder / "rollout.lock", f"a change to {self._path}"):
            before = self.read()
            after = change(before)
            if after != before:
                write_text(self._path, yaml.safe_dump(after, sort_keys=False, width=120))
        return after

    def revisions(self, rollout: Rollout) -> RevisionNames:
        service = _running(self._place).find(self._name)
        by_version = {item.model_version: item for item in service.revisions} if service else {}
        stable = by_version.get(rollout.stable_version)
        newest = by_version.get(rollout.canary_version)
        if stable is None or newest is None:
            return RevisionNames("", "", canary_ready=False)  # the runtime has not looked at the file yet
        failed = _failed_start(newest, self._place) if newest.failed_starts >= FAILED_STARTS else ""
        return RevisionNames(stable.name, newest.name, canary_ready=newest.percent > 0, failed=failed)


class LocalMetrics:
    """Scrapes the agent, the transformers and the predictors, and looks at the predictors' processes."""

    def __init__(self, place: Place, name: str, labels: LabelSource | None = None, *, decides: bool = True) -> None:
        self._place = place
        self._name = name
        self._labels, self._decides = labels, decides
        folder = place.folder / "rollout"
        self._in_step, self._in_rollout = Growth(folder / f"{name}.json"), Growth(folder / f"{name}-deaths.json")

    def observe(self, rollout: Rollout, names: RevisionNames, now: float) -> Observations:
        running = _running(self._place)
        of_rollout = f"{rollout.began} {rollout.canary_version}"
        grown = self._in_step.since(f"{of_rollout} {rollout.step_began}", self._scrape(running))
        deaths = self._in_rollout.since(of_rollout, dict(self._deaths(running)))

        def side(revision: str, version: str) -> Observed:
            found = observed(grown | deaths, revision, version, decides=self._decides)
            processes = [process for process in self._processes(running) if process.revision == revision]
            labels = self._labels.known(version, rollout.state.began, now) if self._labels else None
            return replace(found, labels=labels, last_death=_last_death(processes), memory_mb=_memory(processes))

        return Observations(side(names.stable, rollout.stable_version), side(names.canary, rollout.canary_version))

    def _processes(self, running: LocalState) -> Iterator[ProcessState]:
        return (process for process in running.processes if process.service == self._name)

    def _scrape(self, running: LocalState) -> Samples:
        """The watched samples as they are now; raises Unavailable where agent or transformer do not say theirs.

        A predictor may be silent: that a canary hangs or is being started again must not keep it from being judged.
        """
        needed = [process for process in running.processes if process.role == AGENT]
        needed += [one for one in self._processes(running) if one.role == "transformer" and one.state == "ready"]
        samples: Samples = {}
        for process in needed:
            samples |= _samples(process)
        for process in self._processes(running):
            if process.role == "predictor" and process.state == "ready":
                with suppress(Unavailable):
                    samples |= _samples(process)
        return samples

    def _deaths(self, running: LocalState) -> Iterator[tuple[str, float]]:
        for process in self._processes(running):
            if process.revision:
                yield f'{DEATHS}{{revision_name="{process.revision}",replica="{process.replica}"}}', process.restarts


def _running(place: Place) -> LocalState:
    state = place.read() if place.alive() else None
    if state is None:
        raise Unavailable(f"nothing is running for {place.home}. Start it with: make up")
    return state


def _get(url: str) -> str:
    try:
        with open_directly(url, TIMEOUT_S) as answer:
            text: str = answer.read().decode()
            return text
    except OSError as error:
        raise Unavailable(f"{url} cannot be read: {error}") from error


def _samples(process: ProcessState) -> Samples:
    found = parsed(_get(f"http://127.0.0.1:{process.http_port}/metrics"))
    said_by = f"{process.role}-{process.revision}-{process.replica}"
    return {told_apart(key, said_by): value for key, value in found.items()}


def _last_death(processes: Sequence[ProcessState]) -> str:
    return next((process.ended for process in processes if process.ended), "")


def _memory(processes: Sequence[ProcessState]) -> float | None:
    """Most that one of them has in memory."""
    known = [memory for process in processes if (memory := resident_mb(process.pid)) is not None]
    return max(known, default=None)


def _failed_start(revision: RevisionState, place: Place) -> str:
    """Why it does not start: how its process ended, and the last that it said."""
    said = f"its server ended {revision.failed_starts} times before it was ready"
    running = place.read()
    processes = [] if running is None else [one for one in running.processes if one.revision == revision.name]
    how = _last_death(processes)
    last = next((line for one in processes if (line := _last_line(Path(one.log)))), "")
    return said + (f", {how}" if how else "") + (f": {last}" if last else "")


def _last_line(log: Path) -> str:
    with suppress(OSError):
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]]
        return next((line for line in reversed(lines) if line), "")[:MAX_LINE]
    return ""
