"""Send a day's transactions through the live endpoint and compare every score with the offline one (`offline.py`).

Each customer's transactions go in time order, one after another; different customers at the same time. Equal scores
mean that store, state updates, feature code and model agree from end to end.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from millrace.artifacts import Manifest
from millrace.atomic import write_text
from millrace.errors import Unavailable
from millrace.model_artifact import ModelArtifact
from millrace.progress import log, track
from millrace.settings import settings
from serving.connections import Connections, Header
from serving.local.commands import require_running
from serving.local.manifest import LOOPBACK
from serving.local.offline import Day, load_day
from serving.local.state import Place

TOLERANCE: Final = 1e-4
"""Absolute difference of two scores that are the same but for rounding."""
HEADERS: Final = ((b"content-type", b"application/json"), (b"x-millrace-customer-ids", b"pseudonyms"))
SHOWN: Final = 10


@dataclass(slots=True)
class Answers:
    """What came back, by row; NaN where no answer came."""

    scores: NDArray[np.float64]
    seconds: NDArray[np.float64]
    degraded: int = 0
    flagged: int = 0
    versions: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """What `replay.json` holds."""

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
    """The worst rows: transaction_id, served (None without an answer), offline."""

    @property
    def equal(self) -> bool:
        """Every row answered, none degraded, every score within the tolerance."""
        return self.rows > 0 and not (self.unequal or self.degraded or self.errors)

    def summary(self) -> str:
        verdict = "equal" if self.equal else "NOT EQUAL"
        lines = [
            f"replayed {self.rows} transactions of {self.day} against model version {self.model_version}: {verdict}",
            f"  largest difference {self.max_difference:.2e} (tolerance {self.tolerance:.0e}), "
            f"{self.unequal} unequal, {self.degraded} degraded, {len(self.errors)} errors, {self.flagged} flagged",
            f"  p50 {_ms(self.p50_ms)}, p99 {_ms(self.p99_ms)}, {self.requests_per_s:.0f} requests/s",
        ]
        return "\n".join(
            lines + [f"  {example}" for example in self.examples] + [f"  {e}" for e in self.errors[:SHOWN]]
        )


def replay(
    place: Place, feature_set: Path, model: Path, day: date, limit: int | None = None, concurrency: int = 8
) -> Report:
    """Replay and compare; writes `<home>/serving/replay.json`. Raises Unavailable when nothing is running."""
    running = require_running(place)
    artifact = ModelArtifact.open(model)
    manifest = Manifest.read(feature_set, "feature_set")
    batch = load_day(manifest, day, limit, artifact.spec.sequence_length)
    log("replaying", rows=len(batch.rows), day=day, url=running.url)
    start = time.perf_counter()
    served = asyncio.run(_send(batch.rows, running.gateway_port, running.service, concurrency))
    seconds = time.perf_counter() - start
    report = compare(batch, served, artifact, seconds, day=str(day), feature_set=manifest.id)
    write_text(
        place.folder / "replay.json",
        json.dumps(asdict(report) | {"equal": report.equal}, indent=2, allow_nan=False) + "\n",
    )
    return report


def compare(
    batch: Day, served: Answers, artifact: ModelArtifact, seconds: float, *, day: str, feature_set: str
) -> Report:
    """Served scores against the artifact's own on the batch inputs."""
    offline = artifact.score(batch.features, batch.history).astype(np.float64)
    difference = np.abs(served.scores - offline)
    unequal = ~(difference <= TOLERANCE)  # a missing answer is unequal
    worst = np.argsort(-np.nan_to_num(difference, nan=np.inf))[: min(SHOWN, int(unequal.sum()))]
    milliseconds = served.seconds[np.isfinite(served.seconds)] * 1000
    ids = batch.rows["transaction_id"].to_numpy()
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
            {"transaction_id": int(ids[row]), "served": _finite(served.scores[row]), "offline": float(offline[row])}
            for row in worst
        ],
    )


def _percentile(milliseconds: NDArray[np.float64], q: int) -> float | None:
    return float(np.percentile(milliseconds, q)) if len(milliseconds) else None


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _finite(score: float) -> float | None:
    """NaN is not JSON."""
    return float(score) if np.isfinite(score) else None


async def _send(rows: pa.Table, port: int, service: str, concurrency: int) -> Answers:
    """One request per row: a customer's in order, `concurrency` customers at a time."""
    requests = _requests(rows)
    by_customer: dict[str, list[int]] = {}
    for row, customer in enumerate(rows["customer_id"].to_pylist()):
        by_customer.setdefault(customer, []).append(row)
    answers = Answers(np.full(len(requests), np.nan), np.full(len(requests), np.nan))
    connections = Connections(LOOPBACK, port, limit=concurrency)
    path = f"/v1/models/{service}:predict".encode()
    headers = [*HEADERS, *((name.encode(), value.encode()) for name, value in settings().gateway_headers.items())]
    turns = asyncio.Semaphore(concurrency)

    async def play(customer_rows: Sequence[int]) -> None:
        async with turns:
            for row in customer_rows:
                await _one(connections, path, headers, requests[row], row, answers)

    tasks = [asyncio.create_task(play(customer_rows)) for customer_rows in by_customer.values()]
    for task in track(tasks, "replay"):
        await task
    connections.close()
    return answers


async def _one(
    connections: Connections, path: bytes, headers: Sequence[Header], body: bytes, row: int, answers: Answers
) -> None:
    start = time.perf_counter()
    try:
        response = await connections.request(b"POST", path, body, headers)
        if response.status != 200:
            raise Unavailable(f"row {row}: {response.status} {response.body[:200].decode(errors='replace')}")
    except Unavailable as error:
        answers.errors.append(str(error))
        return
    answers.seconds[row] = time.perf_counter() - start
    (prediction,) = orjson.loads(response.body)["predictions"]
    answers.scores[row] = prediction["score"]
    answers.degraded += prediction["degraded"]
    answers.flagged += prediction["decision"] == "review"
    answers.versions.add(prediction["model_version"])


def _requests(rows: pa.Table) -> list[bytes]:
    """The rows as V1 bodies."""
    times = np.datetime_as_string(rows["event_us"].to_numpy().astype("datetime64[us]"), timezone="UTC")
    columns = {name: rows[name].to_pylist() for name in ("transaction_id", "customer_id", "terminal_id")}
    cents = rows["amount_cents"].to_numpy() / 100
    instances = (
        {
            "transaction_id": id_,
            "event_timestamp": when,
            "customer_id": customer,
            "terminal_id": terminal,
            "amount": amount,
        }
        for id_, when, customer, terminal, amount in zip(
            columns["transaction_id"],
            times.tolist(),
            columns["customer_id"],
            columns["terminal_id"],
            cents.tolist(),
            strict=True,
        )
    )
    return [orjson.dumps({"instances": [instance]}) for instance in instances]
