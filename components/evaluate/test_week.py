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

from fraud.training_set import TrainingSet
from millrace.judge.ranking import KNOWN_FRAUD_DAYS, ROW_COLUMNS, Floats, Judged, Mask, drop_known_cards, judged
from millrace.lake.manifest import Manifest
from millrace.registry.model_artifact import ModelArtifact

COLUMNS: Final = [*ROW_COLUMNS, "amount_cents"]
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
    """The test week of `training_set`; the frauds of the two weeks before it come from its feature set in `lake`."""
    data = TrainingSet(training_set)
    rows = data.rows_of("test")
    start = date.fromisoformat(training_set.facts["test_start"])
    table = data.table().take(pa.array(rows))
    # A label that the training set does not know is not known, whatever the raw row says.
    known = pa.array(np.asarray(data.label[rows]), mask=data.label[rows] < 0)
    table = table.set_column(table.schema.get_field_index("is_fraud"), "is_fraud", known)
    features = Manifest.read(lake / "feature_sets" / training_set.parents["feature_set"], "feature_set")
    # Pseudonyms are equal in both, so cards are.
    together = pa.concat_tables([_columns(table), _earlier_frauds(features, start)])
    mask = drop_known_cards(together, start)
    return TestWeek(data, rows, table, mask[: len(rows)], judged(together, mask), start)


def model_scores(model: ModelArtifact, data: TrainingSet, rows: NDArray[np.int64]) -> Floats:
    """[B] scores of training-set rows, a chunk at a time so that histories never lie in memory all at once."""
    length = model.spec.sequence_length
    parts = [model.score(*data.batch(rows[at : at + CHUNK_ROWS], length)) for at in range(0, len(rows), CHUNK_ROWS)]
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)


def _earlier_frauds(feature_set: Manifest, start: date) -> pa.Table:
    first = start - timedelta(days=KNOWN_FRAUD_DAYS)
    files = feature_set.table("transactions", first, start - timedelta(days=1))
    tables = [_columns(pq.read_table(path, columns=COLUMNS, partitioning=None)) for path in files]
    empty = pa.table({name: pa.array([], _TYPES[name]) for name in COLUMNS})
    rows = pa.concat_tables([empty, *tables])
    return rows.filter(pc.equal(rows["is_fraud"], 1))


_TYPES: Final = {
    "event_timestamp": pa.timestamp("us", tz="UTC"),
    "customer_id": pa.string(),
    "is_fraud": pa.int8(),
    "label_timestamp": pa.timestamp("us", tz="UTC"),
    "amount_cents": pa.int64(),
}


def _columns(table: pa.Table) -> pa.Table:
    return table.select(COLUMNS).cast(pa.schema(list(_TYPES.items())))
