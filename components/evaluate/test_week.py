"""The rows of the test week, as the protocol wants them, and their scores.

A training set and its feature set in; arrays out. Which rows count is decided by `millrace.judge.ranking`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from millrace.judge.ranking import Judged, drop_known_units, judged
from millrace.judge.rows import Columns, Floats, Mask
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import settings
from millrace.workload import load

CHUNK_ROWS: Final = 8192


@dataclass(frozen=True, slots=True)
class TestWeek:
    """All T transactions of the test week, and the J of them that count."""

    __test__ = False

    data: TrainingSet
    rows: NDArray[np.int64]  # [T] row numbers in the training set
    table: pa.Table  # [T] rows.parquet of them
    counts: Mask  # [T]
    judged: Judged  # [J]
    start: date

    @property
    def judged_rows(self) -> NDArray[np.int64]:
        """[J] row numbers in the training set."""
        return self.rows[self.counts]


def open_test_week(training_set: Manifest, lake: Path) -> TestWeek:
    """The test week of `training_set`; the positives of the days before it come from its feature set in `lake`."""
    data = TrainingSet(training_set)
    rows = data.rows_of("test")
    start = date.fromisoformat(training_set.facts["test_start"])
    table = data.table().take(pa.array(rows))
    # A label that the training set does not know is not known, whatever the raw row says.
    known = pa.array(np.asarray(data.label[rows]), mask=data.label[rows] < 0)
    table = table.set_column(table.schema.get_field_index("is_fraud"), "is_fraud", known)
    features = Manifest.read(lake / "feature_sets" / training_set.parents["feature_set"], "feature_set")
    # Pseudonyms are equal in both, so units are.
    columns = load(settings().workload).judging.COLUMNS
    here = table.select(columns.names)
    together = pa.concat_tables([here, _earlier_positives(features, start, columns, here.schema)])
    mask = drop_known_units(together, start, columns)
    return TestWeek(data, rows, table, mask[: len(rows)], judged(together, mask, columns), start)


def model_scores(model: ModelArtifact, data: TrainingSet, rows: NDArray[np.int64]) -> Floats:
    """[B] scores of training-set rows, a chunk at a time so that histories never lie in memory all at once."""
    length = model.spec.sequence_length
    parts = [model.score(*data.batch(rows[at : at + CHUNK_ROWS], length)) for at in range(0, len(rows), CHUNK_ROWS)]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def _earlier_positives(feature_set: Manifest, start: date, columns: Columns, schema: pa.Schema) -> pa.Table:
    if not columns.known_days:
        return schema.empty_table()
    first = start - timedelta(days=columns.known_days)
    files = feature_set.table("events", first, start - timedelta(days=1))
    tables = [
        pq.read_table(path, columns=columns.names, partitioning=None).select(columns.names).cast(schema)
        for path in files
    ]
    rows = pa.concat_tables([schema.empty_table(), *tables])
    return rows.filter(pc.equal(rows[columns.label], 1))
