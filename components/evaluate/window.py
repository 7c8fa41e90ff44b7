"""The rows of the test window, as the protocol of the task wants them, and what a model says of them.

A training set and its feature set in; arrays out. Which rows count is decided by `millrace.judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from millrace.errors import InvalidInput, MillraceError
from millrace.judge.ranking import Judged, drop_known_units, judged
from millrace.judge.regression import Measured, Predictions, labelled_rows, measured
from millrace.judge.rows import Columns, Floats, Mask
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet, is_known
from millrace.registry.model_artifact import ModelArtifact

CHUNK_ROWS: Final = 8192

J = TypeVar("J", Judged, Measured)


@dataclass(frozen=True, slots=True)
class TestWindow(Generic[J]):
    """All T events of the test window, and the J of them that count."""

    __test__ = False

    data: TrainingSet
    rows: NDArray[np.int64]  # [T] row numbers in the training set
    table: pa.Table  # [T] rows.parquet of them
    counts: Mask  # [T]
    judged: J  # [J]
    start: date

    @property
    def judged_rows(self) -> NDArray[np.int64]:
        """[J] row numbers in the training set."""
        return self.rows[self.counts]

    @property
    def judged_table(self) -> pa.Table:
        """[J] rows.parquet of the rows that count."""
        return self.table.filter(pa.array(self.counts))


@dataclass(frozen=True, slots=True)
class Rival:
    """The model that serves now, and what it says of the judged rows; or why it says nothing."""

    id: str
    answers: Predictions | None  # [J]
    why_not: str = ""


def open_ranked(training_set: Manifest, lake: Path) -> TestWindow[Judged]:
    """The window of classes. Positives of the days before it, which tell known units, are of the feature set in `lake`.

    Raises InvalidInput when it has no rows to judge.
    """
    data, rows, table, start = _open(training_set)
    columns = data.workload.judging.COLUMNS
    here = table.select(columns.names)
    # Pseudonyms are equal in both, so units are.
    together = pa.concat_tables([here, _earlier_positives(training_set, lake, start, columns, here.schema)])
    mask = drop_known_units(together, start, columns, _days(table, start))
    return _not_empty(TestWindow(data, rows, table, mask[: len(rows)], judged(together, mask, columns), start))


def open_measured(training_set: Manifest) -> TestWindow[Measured]:
    """The window of a quantity: every row whose label is known counts. Raises InvalidInput when there is none."""
    data, rows, table, start = _open(training_set)
    columns = data.workload.judging.COLUMNS
    mask = labelled_rows(table, start, columns, _days(table, start))
    return _not_empty(TestWindow(data, rows, table, mask, measured(table, mask, columns), start))


def model_scores(model: ModelArtifact, data: TrainingSet, rows: NDArray[np.int64]) -> Floats:
    """[B] scores of training-set rows, a chunk at a time so that histories never lie in memory all at once."""
    return model_predictions(model, data, rows).point


def model_predictions(model: ModelArtifact, data: TrainingSet, rows: NDArray[np.int64]) -> Predictions:
    """[B] what the model says of training-set rows, with its interval where it gives one; a chunk at a time."""
    length = model.spec.sequence_length
    starts = range(0, len(rows), CHUNK_ROWS)
    parts = [model_answers(model, *data.batch(rows[at : at + CHUNK_ROWS], length)) for at in starts]
    empty = np.empty(0)
    return Predictions(
        np.concatenate([empty, *(part.point for part in parts)]),
        np.concatenate([empty, *(part.low for part in parts)]),
        np.concatenate([empty, *(part.high for part in parts)]),
    )


def model_answers(
    model: ModelArtifact, features: NDArray[np.float32], history: NDArray[np.float32] | None
) -> Predictions:
    """[B] what the model says of these inputs."""
    answer = model.predict(features, history)
    return Predictions.of(answer["score"], answer.get("low"), answer.get("high"))


def ask_champion(champion: Manifest | None, window: TestWindow[J], threads: int) -> Rival | None:
    """What serves now, asked about the judged rows; nothing where it is the model itself or nothing serves."""
    if champion is None:
        return None
    try:
        model = ModelArtifact.open(champion.fetch(), threads=threads)
        return Rival(champion.id, model_predictions(model, window.data, window.judged_rows))
    except MillraceError as error:
        # The champion may be older than today's features. The rule that compares then fails, and says this.
        return Rival(champion.id, None, str(error))


def scores_table(window: TestWindow[J], columns: Mapping[str, Floats]) -> pa.Table:
    """Event id and columns[T] of every test row, as float32."""
    name = window.data.workload.schema.EVENT_ID
    return pa.table({name: window.table[name], **{one: values.astype("float32") for one, values in columns.items()}})


def _open(training_set: Manifest) -> tuple[TrainingSet, NDArray[np.int64], pa.Table, date]:
    data = TrainingSet(training_set)
    rows = data.rows_of("test")
    table = data.table().take(pa.array(rows))
    # A label that the training set does not know is not known, whatever the raw row says.
    label = data.workload.judging.COLUMNS.label
    known = pa.array(np.asarray(data.label[rows]), mask=~is_known(data.label[rows]))
    table = table.set_column(table.schema.get_field_index(label), label, known)
    return data, rows, table, date.fromisoformat(training_set.facts["test_start"])


def _not_empty(window: TestWindow[J]) -> TestWindow[J]:
    if not len(window.judged):
        name = window.data.manifest.id
        raise InvalidInput(f"{name} has no labelled test rows to judge. Assemble a later window.")
    return window


def _days(table: pa.Table, start: date) -> int:
    """How long the window is: until the day of the last event in it."""
    if not table.num_rows:
        return 1
    last: date = pc.max(table["event_timestamp"]).as_py().date()
    return (last - start).days + 1


def _earlier_positives(
    training_set: Manifest, lake: Path, start: date, columns: Columns, schema: pa.Schema
) -> pa.Table:
    if not columns.known_days:
        return schema.empty_table()
    features = Manifest.read(lake / "feature_sets" / training_set.parents["feature_set"], "feature_set")
    first = start - timedelta(days=columns.known_days)
    files = features.table("events", first, start - timedelta(days=1))
    tables = [pq.read_table(path, columns=columns.names, partitioning=None) for path in files]
    rows = pa.concat_tables([schema.empty_table(), *(part.select(columns.names).cast(schema) for part in tables)])
    return rows.filter(pc.equal(rows[columns.label], 1))
