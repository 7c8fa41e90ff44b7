"""How good a model version was when it was let in: the labelled test days of its evaluation, from the lake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.monitor.config import MonitorConfig
from millrace.errors import NotFound
from millrace.installed import Workload
from millrace.judge.bootstrap import Interval
from millrace.judge.outcomes import day_of
from millrace.judge.sequential import Baseline
from millrace.judge.yardsticks import Sample, Yardstick
from millrace.lake.manifest import FOLDERS, MANIFEST, Manifest, list_manifests


@dataclass(frozen=True, slots=True)
class Reference:
    """Figures, answers and loss of a version when it was good, and where they come from."""

    source: str
    figures: dict[str, Interval]
    sample: Sample
    baseline: Baseline


def references(
    versions: list[str],
    rows: pa.Table,
    judged_days: list[int],
    lake: Path,
    workload: Workload,
    yardstick: Yardstick,
    config: MonitorConfig,
) -> dict[str, Reference]:
    """Version → its reference; versions without an evaluation use their first judged days, or have none yet."""
    promoted = {
        str(item.facts.get("model_version")): item
        for item in list_manifests(lake / "promotions", "promotion")
        if item.workload == workload.name
    }

    found: dict[str, Reference] = {}
    for version in versions:
        source, sample = _evaluated(promoted.get(version), lake, workload, yardstick)
        if not len(sample):
            source, sample = _first_days(version, rows, judged_days, config.reference_days, yardstick)
        if yardstick.usable(sample):
            figures = yardstick.figures(sample, config.resamples)
            loss = yardstick.baseline(sample, config.loss_tolerance)
            found[version] = Reference(source, figures, sample, loss)
    return found


def _evaluated(promotion: Manifest | None, lake: Path, workload: Workload, yardstick: Yardstick) -> tuple[str, Sample]:
    """The labelled rows of the evaluation's test days, and the answers given then; none where the lake lost them."""
    nothing = "", yardstick.nothing()
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

    schema, columns = workload.schema, workload.judging.COLUMNS
    wanted = list(dict.fromkeys([schema.EVENT_ID, *columns.names]))
    table = pq.read_table(rows_path, columns=wanted, partitioning=None).join(
        pq.read_table(scores_path, partitioning=None), schema.EVENT_ID, join_type="inner"
    )
    table = table.filter(pc.is_valid(table[columns.label])).sort_by(schema.EVENT_ID)
    return f"evaluation {names['evaluation']}", yardstick.sample(table, logged=False)


def _first_days(
    version: str, rows: pa.Table, judged_days: list[int], count: int, yardstick: Yardstick
) -> tuple[str, Sample]:
    own = rows.filter(pc.equal(rows["model_version"], version))
    days = sorted(set(day_of(own).tolist()) & set(judged_days))[:count]
    if len(days) < count:
        return "", yardstick.nothing()
    return f"its first {count} judged days", yardstick.sample(own.filter(pa.array(np.isin(day_of(own), days))))
