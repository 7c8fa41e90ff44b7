"""Send a day's events through the live endpoint and compare what is answered with the offline side (`offline.py`).

Events of one entity of the recent view go in time order, one after another; others at the same time. Equal figures
mean that store, state updates, feature code and model agree from end to end.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import orjson
from numpy.typing import NDArray

from millrace import gateway
from millrace.errors import Unavailable
from millrace.installed import Workload
from millrace.instants import DAY_US, microseconds, start_of
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest
from millrace.observe.progress import log, track
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import settings
from serving.local.commands import require_running
from serving.local.offline import Day, load_day
from serving.local.state import Place

TOLERANCE: Final = 1e-4
"""Absolute difference of two figures that are the same but for rounding."""
HEADERS: Final = {"content-type": "application/json", "x-millrace-keys": "pseudonyms"}
TIMEOUT_S: Final = 30.0
SHOWN: Final = 10


@dataclass(slots=True)
class Answers:
    """What came back, by row; NaN where no answer came."""

    figures: dict[str, NDArray[np.float64]]
    """Name of an answer's figure → [B]; the score's is first."""
    seconds: NDArray[np.float64]
    degraded: int = 0
    flagged: int = 0
    versions: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """What the file of a replay holds."""

    day: str
    feature_set: str
    model: str
    model_version: str
    rows: int
    unequal: int
    max_difference: float
    tolerance: float
    degraded: int
    flagged: int
    errors: list[str]
    p50_ms: float | None
    """None, as p99_ms, when no answer came."""
    p99_ms: float | None
    requests_per_s: float
    seconds: float
    examples: list[dict[str, Any]]
    """The worst rows: the event's id, the score as served (None without an answer) and offline."""
    events: str = "events"
    """What they are called."""

    @property
    def equal(self) -> bool:
        """Every row answered, none degraded, every figure within the tolerance."""
        return self.rows > 0 and not (self.unequal or self.degraded or self.errors)

    def summary(self) -> str:
        verdict = "equal" if self.equal else "NOT EQUAL"
        lines = [
            f"replayed {self.rows} {self.events} of {self.day} against model version {self.model_version}: {verdict}",
            f"  largest difference {self.max_difference:.2e} (tolerance {self.tolerance:.0e}), "
            f"{self.unequal} unequal, {self.degraded} degraded, {len(self.errors)} errors, {self.flagged} flagged",
            f"  p50 {_ms(self.p50_ms)}, p99 {_ms(self.p99_ms)}, {self.requests_per_s:.0f} requests/s",
        ]
        return "\n".join(
            lines + [f"  {example}" for example in self.examples] + [f"  {e}" for e in self.errors[:SHOWN]]
        )


def replay(
    place: Place,
    feature_set: Path,
    model: Path,
    day: date,
    limit: int | None = None,
    concurrency: int = 8,
    refresh: Sequence[str] = (),
) -> Report:
    """Replay and compare; writes `<home>/serving/replay/<model name>.json`. Raises Unavailable when nothing is running.

    `refresh` is a command that reads instants, one a line, and answers a line when the online store is as of it: told
    each refresh of the day as a schedule would, and at the end its start again. Without it the day ends at its first.
    """
    running = require_running(place)
    artifact = ModelArtifact.open(model)
    manifest = Manifest.read(feature_set, "feature_set")
    workload = artifact.workload
    batch = load_day(workload, manifest, day, limit, artifact.spec.sequence_length)
    every_us = DAY_US // workload.features.REFRESHES_PER_DAY
    if not refresh:
        batch = batch.until(microseconds(start_of(day)) + every_us)
    log("replaying", rows=len(batch.ids), day=day, url=running.url)
    with _refreshing(refresh) as move:
        served, seconds = asyncio.run(_send(batch, workload, running.url, concurrency, every_us, move))
        if refresh:
            move(start_of(day))
    report = compare(batch, served, artifact, seconds, day=str(day), feature_set=manifest.id)
    document = asdict(report) | {"equal": report.equal}
    write_text(place.replay(settings(workload.name).model_name), json.dumps(document, indent=2, allow_nan=False) + "\n")
    return report


def compare(
    batch: Day, served: Answers, artifact: ModelArtifact, seconds: float, *, day: str, feature_set: str
) -> Report:
    """Served figures against the artifact's own on the batch inputs."""
    workload = artifact.workload
    made = artifact.predict(batch.features, batch.history)
    offline = {shown: made[name].astype(np.float64) for name, shown in workload.exchange.ANSWER.items()}
    difference = np.max([np.abs(served.figures[name] - values) for name, values in offline.items()], axis=0)
    unequal = ~(difference <= TOLERANCE)  # a missing answer is unequal
    worst = np.argsort(-np.nan_to_num(difference, nan=np.inf))[: min(SHOWN, int(unequal.sum()))]
    milliseconds = served.seconds[np.isfinite(served.seconds)] * 1000
    score = workload.exchange.ANSWER["score"]
    return Report(
        day=day,
        feature_set=feature_set,
        model=artifact.id,
        model_version=", ".join(sorted(served.versions)),
        rows=len(difference),
        unequal=int(unequal.sum()),
        max_difference=float(np.nanmax(difference, initial=0.0)),
        tolerance=TOLERANCE,
        degraded=served.degraded,
        flagged=served.flagged,
        errors=served.errors,
        p50_ms=_percentile(milliseconds, 50),
        p99_ms=_percentile(milliseconds, 99),
        requests_per_s=len(milliseconds) / seconds,
        seconds=seconds,
        examples=[
            {
                workload.schema.EVENT_ID: int(batch.ids[row]),
                "served": _finite(served.figures[score][row]),
                "offline": float(offline[score][row]),
            }
            for row in worst
        ],
        events=workload.event[1],
    )


def _percentile(milliseconds: NDArray[np.float64], q: int) -> float | None:
    return float(np.percentile(milliseconds, q)) if len(milliseconds) else None


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _finite(score: float) -> float | None:
    """NaN is not JSON."""
    return float(score) if np.isfinite(score) else None


async def _send(
    batch: Day,
    workload: Workload,
    address: str,
    concurrency: int,
    every_us: int,
    refresh: Callable[[datetime], None],
) -> tuple[Answers, float]:
    """One request per row, `refresh` between those of two refreshes; the answers, and the seconds of sending."""
    rows = len(batch.ids)
    answers = Answers(
        {name: np.full(rows, np.nan) for name in workload.exchange.ANSWER.values()}, np.full(rows, np.nan)
    )
    connector = aiohttp.TCPConnector(limit=concurrency, ssl=gateway.tls() or True)
    async with aiohttp.ClientSession(
        connector=connector,
        headers=HEADERS | settings().gateway_headers,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        trust_env=False,
    ) as session:
        ask = _Ask(session, f"{address}/v1/models/{workload.model_name}:predict", answers)
        seconds = 0.0
        for place, (as_of, part) in enumerate(track(list(_by_refresh(batch.event_us, every_us)), "replay")):
            if place:
                await asyncio.to_thread(refresh, as_of)
            start = time.perf_counter()
            await _play(ask, batch, part, concurrency)
            seconds += time.perf_counter() - start
    return answers, seconds


def _by_refresh(event_us: NDArray[np.int64], every_us: int) -> Iterator[tuple[datetime, NDArray[np.int64]]]:
    """(refresh, rows after it and before the next) of the refreshes that have any."""
    number = event_us // every_us
    for refresh in np.unique(number):
        when = datetime.fromtimestamp(int(refresh) * every_us / 1e6, UTC)
        yield when, np.flatnonzero(number == refresh)


async def _play(ask: _Ask, batch: Day, rows: NDArray[np.int64], concurrency: int) -> None:
    """The rows, those of a unit in order, `concurrency` units at a time."""
    by_unit: dict[str, list[int]] = {}
    for row in rows.tolist():
        by_unit.setdefault(batch.units[row], []).append(row)
    turns = asyncio.Semaphore(concurrency)

    async def one_unit(mine: Sequence[int]) -> None:
        async with turns:
            for row in mine:
                await ask(batch.bodies[row], row)

    await asyncio.gather(*(one_unit(mine) for mine in by_unit.values()))


@contextmanager
def _refreshing(command: Sequence[str]) -> Iterator[Callable[[datetime], None]]:
    """What brings the online store to an instant; raises Unavailable with what the command said when it failed."""
    if not command:
        yield _refused
        return
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        asked, answers = process.stdin, process.stdout
        assert asked is not None
        assert answers is not None

        def move(as_of: datetime) -> None:
            try:
                asked.write(f"{as_of.isoformat()}\n")
                asked.flush()
                answer = answers.readline()
            except BrokenPipeError:
                answer = ""
            if not answer:
                process.wait()
                errors.seek(0)
                raise Unavailable(f"the online store cannot be refreshed as of {as_of}: {errors.read()[-2000:]}")

        yield move


def _refused(as_of: datetime) -> None:
    raise Unavailable(f"the online store is not as of {as_of}, and no --refresh names the command that brings it there")


@dataclass(frozen=True, slots=True)
class _Ask:
    """Sends one row's request and puts the answer in its place."""

    session: aiohttp.ClientSession
    url: str
    answers: Answers

    async def __call__(self, body: bytes, row: int) -> None:
        start, answers = time.perf_counter(), self.answers
        try:
            async with self.session.post(self.url, data=body) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            answers.errors.append(f"row {row}: {error!r}")
            return
        if response.status != 200:
            answers.errors.append(f"row {row}: {response.status} {answer[:200].decode(errors='replace')}")
            return
        answers.seconds[row] = time.perf_counter() - start
        (prediction,) = orjson.loads(answer)["predictions"]
        for name, values in answers.figures.items():
            values[row] = prediction[name]
        answers.degraded += prediction["degraded"]
        answers.flagged += prediction.get("decision") == "review"
        answers.versions.add(prediction["model_version"])
