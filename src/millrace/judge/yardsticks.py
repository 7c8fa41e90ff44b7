"""How the answers of a task are measured, on rows of the log or of an evaluation: one yardstick for each task.

A yardstick takes rows whose label may be missing, and gives a sample (the labelled ones), its figures with intervals
and its losses by unit and day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import InvalidInput
from millrace.installed import Workload
from millrace.judge import ranking, regression
from millrace.judge.bootstrap import Interval, unit_weights, with_intervals
from millrace.judge.calibration import reliability
from millrace.judge.rows import Columns, Floats
from millrace.judge.sequential import Baseline, Losses, baseline, class_losses, quantity_losses
from millrace.workload import Task

RANKED: Final = ("average_precision", "unit_precision", "calibration_error", "brier_skill", "cost_ratio")
CLASSIFIED: Final = ("average_precision", "calibration_error", "brier_skill")
DAYS_APART: Final = 2.0
"""Standard deviations by which a good day's mean loss may exceed the usual one, where a day sways all its events."""


@dataclass(frozen=True, slots=True)
class Sample:
    """N labelled rows, and what was answered."""

    rows: Any
    """`ranking.Judged` or `regression.Measured`."""
    answers: Any
    """Scores [N], or `regression.Predictions`."""

    def __len__(self) -> int:
        return len(self.rows)


class Yardstick(Protocol):
    """How the answers of one workload are measured."""

    @property
    def shown(self) -> Sequence[str]:
        """Figures of a day or a week."""

    def sample(self, rows: pa.Table, *, logged: bool = True) -> Sample:
        """The labelled rows; `logged`: with the prediction log's columns, else with an evaluation's."""

    def nothing(self) -> Sample:
        """A sample without rows."""

    def positives(self, sample: Sample) -> int | None:
        """None where the task has none."""

    def figures(self, sample: Sample, resamples: int, seed: int = 0) -> dict[str, Interval]:
        """Every figure by name; at least one row."""

    def usable(self, sample: Sample) -> bool:
        """Whether a reference can be made of it."""

    def baseline(self, sample: Sample, tolerance: float) -> Baseline:
        """What the losses of a model allow while it is good."""

    def losses(self, sample: Sample, reference: Baseline) -> Losses:
        """Losses by unit and day, in [0, 1]."""

    def reliability(self, sample: Sample) -> list[dict[str, float]]:
        """The calibration curve; empty where scores are no probabilities."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Measures a class: the rare ones should come first, and what is reviewed is worth it."""

    columns: Columns
    log_columns: Columns
    k: int
    review_cost: float
    shown: Sequence[str] = RANKED

    def sample(self, rows: pa.Table, *, logged: bool = True) -> Sample:
        columns = self.log_columns if logged else self.columns
        known = _labelled(rows, columns)
        scores: Floats = rows["score"].to_numpy()[known].astype(np.float64)
        return Sample(ranking.judged(rows, known, columns), scores)

    def unlabelled(self, rows: pa.Table) -> Sample:
        """All rows, as if no label were known: none is positive."""
        place = rows.column_names.index(self.log_columns.label)
        none = pa.array(np.zeros(len(rows), np.int8))
        return self.sample(rows.set_column(place, self.log_columns.label, none))

    def nothing(self) -> Sample:
        empty = np.empty(0, np.int64)
        return Sample(ranking.Judged(empty, empty, np.empty(0, bool), np.empty(0), 0), np.empty(0))

    def positives(self, sample: Sample) -> int | None:
        return int(sample.rows.label.sum())

    def figures(self, sample: Sample, resamples: int, seed: int = 0) -> dict[str, Interval]:
        weights = unit_weights(sample.rows, resamples, seed)
        return with_intervals(sample.rows, sample.answers, weights, self.k, self.review_cost)

    def usable(self, sample: Sample) -> bool:
        return bool(sample.rows.label.any())

    def baseline(self, sample: Sample, tolerance: float) -> Baseline:
        if not self.usable(sample):
            raise InvalidInput(f"the reference has {len(sample)} rows and no positive. Take a longer one.")
        return baseline(class_losses(sample.rows, sample.answers), tolerance)

    def losses(self, sample: Sample, reference: Baseline) -> Losses:  # noqa: ARG002 - a loss in nats has its own scale
        return class_losses(sample.rows, sample.answers)

    def reliability(self, sample: Sample) -> list[dict[str, float]]:
        return reliability(sample.rows, sample.answers)


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures a quantity: how far answers are from it, and whether their interval holds it."""

    columns: Columns
    log_columns: Columns
    shown: Sequence[str] = ("mae", "rmse", "bias", "coverage", "interval_width")

    def sample(self, rows: pa.Table, *, logged: bool = True) -> Sample:
        columns = self.log_columns if logged else self.columns
        known = _labelled(rows, columns)
        names = [name for name in ("score", "low", "high") if name in rows.column_names]
        parts = [rows[name].cast(pa.float64()).fill_null(np.nan).to_numpy()[known] for name in names]
        return Sample(regression.measured(rows, known, columns), regression.Predictions.of(*parts))

    def nothing(self) -> Sample:
        empty, none = np.empty(0, np.int64), np.empty(0)
        return Sample(regression.Measured(empty, empty, none, 0), regression.Predictions.of(none))

    def positives(self, sample: Sample) -> int | None:  # noqa: ARG002
        return None

    def figures(self, sample: Sample, resamples: int, seed: int = 0) -> dict[str, Interval]:
        return regression.with_intervals(sample.rows, sample.answers, unit_weights(sample.rows, resamples, seed))

    def usable(self, sample: Sample) -> bool:
        return len(sample) > 0

    def baseline(self, sample: Sample, tolerance: float) -> Baseline:
        scale = max(float(regression.mae(sample.rows, sample.answers).item()), 1e-9)
        losses = quantity_losses(sample.rows, sample.answers, scale)
        return baseline(losses, tolerance, scale=scale, days_apart=DAYS_APART)

    def losses(self, sample: Sample, reference: Baseline) -> Losses:
        return quantity_losses(sample.rows, sample.answers, reference.scale)

    def reliability(self, sample: Sample) -> list[dict[str, float]]:  # noqa: ARG002
        return []


def yardstick_of(workload: Workload, k: int, review_cost: float) -> Yardstick:
    """The workload's; `k` units are reviewed a day at a cost each, where anybody reviews."""
    judging = workload.judging
    if workload.task is Task.REGRESSION:
        return Measures(judging.COLUMNS, judging.LOG_COLUMNS)
    shown = RANKED if workload.task is Task.RANKING else CLASSIFIED
    return Ranks(judging.COLUMNS, judging.LOG_COLUMNS, k, review_cost, shown)


def _labelled(rows: pa.Table, columns: Columns) -> Any:
    """[N] whether the label is known."""
    return np.asarray(pc.is_valid(rows[columns.label]).to_numpy(zero_copy_only=False))
