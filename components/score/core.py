"""Score whole days of a feature set with a registered model: feature set and model in, one Parquet file a day out.

A day's file is named by all that decides its scores (the features of that day and those before it, the model, this
code), so days that are there are not scored again, and a killed run goes on with the day it was at. What a model reads
is made by the workload and `millrace.features.past`; the graph is run by `ModelArtifact`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound
from millrace.features.past import Past, read_past
from millrace.installed import load
from millrace.lake.atomic import replacing_file, sha256_file
from millrace.lake.manifest import Manifest, content_id, fetch, remote_hashes
from millrace.lake.provenance import code_of
from millrace.lake.step import Step
from millrace.observe.progress import log, track
from millrace.registry.model_artifact import ModelArtifact
from millrace.registry.models import Registry, served
from millrace.settings import Settings

CHUNK_ROWS: Final = 1024
"""Rows of one call: their histories stay small, and the graph is at its best rate long before."""
TABLE: Final = "scores"


@dataclass(frozen=True, slots=True)
class Day:
    """One day to score: its features, and where its scores lie."""

    name: str
    features: Path
    scores: Path
    elsewhere: str = ""
    """SHA-256 of the scores where only the lake's remote has them."""

    @property
    def missing(self) -> bool:
        return not self.elsewhere and not self.scores.is_file()


def model_to_score_with(settings: Settings, version: str) -> tuple[Manifest, str]:
    """The registered model of that version (empty: what is served) and its number; raises NotFound, InvalidInput."""
    if version and not version.isdecimal():
        raise InvalidInput(f"model_version is {version!r}; wanted a number, see `millrace models`")
    champion = None if version else served(settings)
    if not version and champion is None:
        raise NotFound(f"nothing is served from {settings.home}. Run `make run` to train and promote a model.")
    number = version or str(champion.version if champion else "")
    folder = Registry(settings).folder(int(number))
    return Manifest.lying_in(folder, "model"), number


def score(
    feature_set: Manifest,
    model: Manifest,
    version: str,
    lake: Path,
    *,
    first_day: str = "",
    last_day: str = "",
    threads: int = 2,
    memory_limit_gb: float = 3.0,
) -> Manifest:
    """Scores of the days first_day … last_day (ISO, both included; empty: all there are).

    Files hold the event's id, event_timestamp, score and what else the model answers (float32), of a ranking its
    decision, and model_version, in the order of time and id. Raises NotFound when the feature set has none of these
    days, ArtifactCorrupt and SchemaMismatch for a model that cannot be run, AlreadyRunning when another process scores
    the same.
    """
    days = plan(feature_set, model, version, lake, first_day, last_day)
    identity = content_id({"scores": [day.scores.stem for day in days], "version": version})
    parents = {"model": model.id, "feature_set": feature_set.id}
    step = Step(kind="scores", id=identity, workload=feature_set.workload, lake=lake.resolve(), parents=parents)
    done = step.found()
    if done is not None and not any(day.missing for day in days):
        log("score: already done", scores=identity)
        return done

    with step.alone("scoring"):
        missing = [day for day in days if day.missing]
        start = time.perf_counter()
        rows = _score(feature_set, model, version, missing, threads, memory_limit_gb) if missing else 0
        seconds = time.perf_counter() - start
        manifest = _record(step, version, days, rows, seconds)
    log("scored", scores=identity, days=len(days), computed=len(missing), rows=rows, rows_per_s=round(rows / seconds))
    return manifest


def plan(
    feature_set: Manifest, model: Manifest, version: str, lake: Path, first_day: str = "", last_day: str = ""
) -> list[Day]:
    """The days to score, oldest first, and the names of their files."""
    first, last = (_day(text, name) for text, name in ((first_day, "first_day"), (last_day, "last_day")))
    table = feature_set.facts["tables"]["events"]
    wanted = [day for day in sorted(table) if str(first or date.min) <= day <= str(last or date.max)]
    if not wanted:
        have = f"{feature_set.facts['first_day']} … {feature_set.facts['last_day']}"
        raise NotFound(
            f"feature set {feature_set.id} has no day in {first_day or '…'} … {last_day or '…'}; it has {have}"
        )
    code = code_of(Path(__file__).parent, *load(model.workload).files("features", "batch"))
    decides = {"model": model.id, "version": version, "code": code}
    root = lake.resolve() / "scores"
    # The name of a day's features stands for its own rows and for every day before it.
    keys = {day: content_id(decides | {"features": Path(table[day]).stem, "day": day}) for day in wanted}
    places = {day: root / f"day={day}" / f"{keys[day]}.parquet" for day in wanted}
    elsewhere = remote_hashes(places.values())
    folder = Path(feature_set.uri)  # its files are fetched for days that are missing
    return [Day(day, folder / table[day], place, elsewhere.get(place, "")) for day, place in places.items()]


def _score(
    feature_set: Manifest, model: Manifest, version: str, days: Sequence[Day], threads: int, memory_limit_gb: float
) -> int:
    """Write the scores of `days`; the number of rows."""
    artifact = ModelArtifact.open(model.fetch(), threads=threads)
    length = artifact.spec.sequence_length
    if length and length > int(feature_set.facts["history_length"]):
        raise InvalidInput(
            f"model {model.id} reads {length} events; feature set {feature_set.id} was built for "
            f"{feature_set.facts['history_length']}. Set MILLRACE_HISTORY_LENGTH as it was in training."
        )
    feature_set.verify({day.features for day in days})
    first, last = (date.fromisoformat(day.name) for day in (days[0], days[-1]))
    past, view = None, artifact.workload.recent
    if length and view is not None:
        files = feature_set.table("events", None, last)
        past = read_past(
            artifact.workload, view, files, first, length, threads=threads, memory_limit_gb=memory_limit_gb
        )
    return sum(_score_day(day, past, artifact, version) for day in track(days, "scoring"))


def _score_day(day: Day, past: Past | None, artifact: ModelArtifact, version: str) -> int:
    event_id, names = artifact.workload.schema.EVENT_ID, artifact.spec.feature_names
    table = pq.read_table(day.features, columns=[event_id, "event_timestamp", *names], partitioning=None)
    features = np.stack([table[name].to_numpy() for name in names], axis=1).astype(np.float32, copy=False)
    ids: NDArray[np.int64] = table[event_id].to_numpy()
    if len(np.unique(ids)) != len(ids):
        raise ArtifactCorrupt(f"{day.features} repeats a {event_id}. Build the features again.")
    length = artifact.spec.sequence_length
    chunks = [slice(start, start + CHUNK_ROWS) for start in range(0, max(len(ids), 1), CHUNK_ROWS)]
    histories = (None if past is None else past.history(ids[chunk], length) for chunk in chunks)
    parts = [artifact.predict(features[chunk], history) for chunk, history in zip(chunks, histories, strict=True)]
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in artifact.spec.outputs}
    columns = {event_id: table[event_id], "event_timestamp": table["event_timestamp"], **outputs}
    if artifact.spec.decides:
        flagged = pa.array((outputs["score"] >= artifact.decision_threshold).astype(np.int8))
        columns["decision"] = pa.array(["approve", "review"]).take(flagged)
    columns["model_version"] = pa.repeat(version, len(ids))
    with replacing_file(day.scores) as aside:
        pq.write_table(pa.table(columns), aside, compression="zstd")
    return len(ids)


def _record(step: Step, version: str, days: Sequence[Day], computed_rows: int, seconds: float) -> Manifest:
    paths = {day.name: f"../day={day.name}/{day.scores.name}" for day in days}
    fetch({day.scores: day.elsewhere for day in days if day.elsewhere})
    facts = {
        "tables": {TABLE: paths},
        "model_version": version,
        "first_day": days[0].name,
        "last_day": days[-1].name,
        "rows": sum(pq.read_metadata(day.scores).num_rows for day in days),
        "computed_rows": computed_rows,
        "seconds": round(seconds, 3),
    }
    return step.record({paths[day.name]: sha256_file(day.scores) for day in days}, facts)


def _day(text: str, name: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise InvalidInput(f"{name} is {text!r}; wanted a day such as 2018-09-30") from error
