"""Do the features that were scored equal the offline ones? Logged features against the newest feature set's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from millrace.installed import Workload
from millrace.instants import date_of, day_number
from millrace.judge.outcomes import day_of
from millrace.lake.manifest import Manifest, list_manifests


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many answers of a sample were made from other features than the batch path computes."""

    feature_set: str
    rows: int
    differing: int
    worst: dict[str, float]
    """Feature → largest absolute difference, of those that differ; the five that differ most often."""

    @property
    def share(self) -> float | None:
        return self.differing / self.rows if self.rows else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"share": self.share}


def agreement(rows: pa.Table, lake: Path, workload: Workload, sample: int, tolerance: float) -> Agreement | None:
    """Compare a sample of `rows` (with `features`), the newest days first; None where no feature set holds any."""
    sets = [made for made in list_manifests(lake / "feature_sets", "feature_set") if made.workload == workload.name]
    whole = rows.filter(pc.and_(pc.is_valid(rows["features"]), pc.invert(pc.fill_null(rows["degraded"], True))))
    whole = whole.filter(pc.equal(pc.fill_null(whole["feature_service"], ""), workload.features.FEATURE_SERVICE))

    for feature_set in reversed(sets):
        held = {day_number(date.fromisoformat(day)) for day in feature_set.facts["tables"]["events"]}
        candidates = np.flatnonzero(np.isin(day_of(whole), sorted(held)))
        if len(candidates):
            newest = candidates[-10 * sample :]
            chosen = np.random.default_rng(0).choice(newest, min(sample, len(newest)), replace=False)
            return _compare(whole.take(pa.array(np.sort(chosen))), feature_set, workload, tolerance)
    return None


def _compare(rows: pa.Table, feature_set: Manifest, workload: Workload, tolerance: float) -> Agreement:
    event_id = workload.schema.EVENT_ID
    names = workload.features.FEATURE_NAMES
    days = sorted(set(day_of(rows).tolist()))
    files = [path for day in days for path in feature_set.table("events", date_of(day), date_of(day))]
    wanted = pc.field(event_id).isin(rows[event_id])
    columns = [event_id, *names]
    offline = pq.read_table(files, columns=columns, filters=wanted, partitioning=None)

    place = {identity: number for number, identity in enumerate(offline[event_id].to_pylist())}
    pairs = [(row, place[i]) for row, i in enumerate(rows[event_id].to_pylist()) if i in place]
    if not pairs:
        return Agreement(feature_set.id, 0, 0, {})

    here, there = (np.array(side) for side in zip(*pairs, strict=True))
    batch = np.stack([offline[name].to_numpy()[there] for name in names], axis=1)
    logged = matrix(rows.take(pa.array(here)), len(names))
    apart = np.abs(logged - batch)
    differs = ~(apart <= tolerance * (1 + np.abs(batch)))  # a missing feature differs

    often = [i for i in np.argsort(-differs.sum(axis=0))[:5] if differs[:, i].any()]
    worst = {names[i]: float(np.nanmax(np.where(differs[:, i], apart[:, i], 0))) for i in often}
    return Agreement(feature_set.id, len(pairs), int(differs.any(axis=1).sum()), worst)


def matrix(rows: pa.Table, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logged features as [N, width] float32, NaN where unknown; a list of another length is all unknown."""
    out = np.full((len(rows), width), np.nan, np.float32)
    lengths = pc.fill_null(pc.list_value_length(rows["features"]), 0).to_numpy()
    fits = np.flatnonzero(lengths == width)
    if len(fits):
        values = pc.list_flatten(rows["features"].take(pa.array(fits))).to_numpy(zero_copy_only=False)
        out[fits] = values.astype(np.float32).reshape(len(fits), width)
    return out
