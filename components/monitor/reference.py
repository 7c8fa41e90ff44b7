"""How good a model version was when it was let in: the labelled test week of its evaluation, from the lake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.monitor.config import MonitorConfig
from millrace.errors import NotFound
from millrace.judge.bootstrap import Interval, unit_weights, with_intervals
from millrace.judge.outcomes import Calibration, calibrate, day_of, judge_rows
from millrace.judge.ranking import Judged, judged
from millrace.judge.rows import Floats
from millrace.judge.sequential import Baseline, baseline
from millrace.lake.manifest import FOLDERS, MANIFEST, Manifest, list_manifests
from millrace.settings import settings
from millrace.workload import load

COLUMNS = ["transaction_id", "event_timestamp", "customer_id", "amount_cents", "is_fraud", "label_timestamp"]


@dataclass(frozen=True, slots=True)
class Reference:
    """Figures, calibration and loss of a version when it was good, and where they come from."""

    source: str
    figures: dict[str, Interval]
    calibration: Calibration
    baseline: Baseline


def references(
    versions: list[str], rows: pa.Table, judged_days: list[int], lake: Path, config: MonitorConfig, k: int
) -> dict[str, Reference]:
    """Version → its reference; versions without an evaluation use their first judged days, or have none yet."""
    promoted = {str(item.facts.get("model_version")): item for item in list_manifests(lake / "promotions", "promotion")}
    found: dict[str, Reference] = {}
    for version in versions:
        source, data, scores = _evaluated(promoted.get(version), lake)
        if not len(data):
            source, data, scores = _first_days(version, rows, judged_days, config.reference_days)
        if data.label.any():
            weights = unit_weights(data, config.resamples)
            figures = with_intervals(data, scores, weights, k, config.review_cost)
            loss = baseline(data, scores, config.loss_tolerance)
            found[version] = Reference(source, figures, calibrate(data, scores), loss)
    return found


def _evaluated(promotion: Manifest | None, lake: Path) -> tuple[str, Judged, Floats]:
    """The labelled rows of the evaluation's test week, and the scores given then; none where the lake lost them."""
    nothing = ("", _nobody(), np.empty(0))
    if promotion is None:
        return nothing
    names = {kind: promotion.parents.get(kind, "") for kind in ("evaluation", "training_set")}
    try:
        rows_path, scores_path = (
            Manifest.read(lake / FOLDERS[kind] / names[kind] / MANIFEST, kind).path(file)
            for kind, file in (("training_set", "rows.parquet"), ("evaluation", "scores.parquet"))
        )
    except NotFound:
        return nothing
    if not scores_path.is_file() or not rows_path.is_file():
        return nothing
    table = pq.read_table(rows_path, columns=COLUMNS, partitioning=None).join(
        pq.read_table(scores_path, partitioning=None), "transaction_id", join_type="inner"
    )
    table = table.filter(pc.is_valid(table["is_fraud"])).sort_by("transaction_id")
    scores: Floats = table["score"].to_numpy().astype(np.float64)
    return (
        f"evaluation {names['evaluation']}",
        judged(table, np.ones(len(table), bool), load(settings().workload).judging.COLUMNS),
        scores,
    )


def _first_days(version: str, rows: pa.Table, judged_days: list[int], count: int) -> tuple[str, Judged, Floats]:
    own = rows.filter(pc.equal(rows["model_version"], version))
    days = sorted(set(day_of(own).tolist()) & set(judged_days))[:count]
    if len(days) < count:
        return "", _nobody(), np.empty(0)
    data, scores = judge_rows(own.filter(pa.array(np.isin(day_of(own), days))))
    return f"its first {count} judged days", data, scores


def _nobody() -> Judged:
    empty = np.empty(0, np.int64)
    return Judged(empty, empty, np.empty(0, bool), np.empty(0), 0)
