"""How the served model does: by day and version once labels are in.

Rows of the prediction log with the labels known at an instant in, figures with intervals out; no I/O. A day counts as
complete when the label delay is over and enough of its labels are in: labels of positives often come first, so a day
that is half labelled looks worse than it is. How a task's answers are measured is `millrace.judge.yardsticks`'; whether
the loss has grown is tested in `millrace.judge.sequential`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millrace.events.prediction import SHADOW
from millrace.events.table import schema_of
from millrace.fields import Label
from millrace.installed import load
from millrace.instants import DAY_US, date_of, day_number
from millrace.judge.bootstrap import Interval
from millrace.judge.yardsticks import Yardstick

LEFT_OUT: Final = frozenset({"request_id", "model_name", "features", "feature_service", "traceparent"})
"""What is not read of a prediction; features are read for a sample only."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Figures of one model version over some days."""

    first_day: date
    last_day: date
    model_version: str
    rows: int
    positives: int | None
    """None where the task has none."""
    labelled_share: float
    complete: bool
    figures: Mapping[str, Interval]
    """Empty while labels are missing."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON; a figure that does not exist is null."""
        document = asdict(self) | {"first_day": str(self.first_day), "last_day": str(self.last_day)}
        document["figures"] = {name: as_numbers(figure) for name, figure in self.figures.items()}
        if self.positives is None:
            del document["positives"]
        return document


def as_numbers(figure: Interval) -> dict[str, float | None]:
    """An interval as JSON."""
    parts = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {name: part if math.isfinite(part) else None for name, part in parts.items()}


def columns_of(workload: str) -> list[str]:
    """Columns of the log that judging reads."""
    return [name for name in schema_of(workload).names if name not in LEFT_OUT]


def answers(predictions: pa.Table, workload: str) -> pa.Table:
    """The answers that clients got: shadows left out, and of an event scored twice the first, in event order."""
    event_id = load(workload).schema.EVENT_ID
    rows = predictions.filter(pc.not_equal(pc.fill_null(predictions["arm"], ""), SHADOW))
    rows = rows.filter(pc.and_(pc.is_valid(rows[event_id]), pc.is_valid(rows["event_timestamp"])))
    rows = rows.filter(pc.is_finite(pc.fill_null(rows["score"], math.nan)))
    rows = rows.sort_by([(name, "ascending") for name in (event_id, "scored_at", "prediction_id")])
    ids = rows[event_id].to_numpy()
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    return rows.filter(pa.array(first)).sort_by([("event_timestamp", "ascending"), (event_id, "ascending")])


def day_of(rows: pa.Table) -> NDArray[np.int64]:
    """[N] days since 1970 of the events."""
    days: NDArray[np.int64] = rows["event_timestamp"].cast(pa.int64()).to_numpy() // DAY_US
    return days


def complete_days(rows: pa.Table, as_of: datetime, min_share: float, label: Label) -> NDArray[np.int64]:
    """Days since 1970 whose label delay is over at `as_of` and of whose rows at least `min_share` are labelled."""
    days = day_of(rows)
    known = np.asarray(pc.is_valid(rows[label.column]).to_numpy(zero_copy_only=False))
    due = (as_of - timedelta(days=label.delay_days)).date()
    last = day_number(due) - 1  # the day that ended before then
    found = [day for day in np.unique(days[days <= last]) if known[days == day].mean() >= min_share]
    return np.array(found, np.int64)


def stretch(
    rows: pa.Table, version: str, yardstick: Yardstick, *, complete: bool, resamples: int, seed: int = 0
) -> Stretch:
    """The figures of `rows`, one version's over one or more days; at least one row."""
    days = day_of(rows)
    sample = yardstick.sample(rows)
    first = date_of(days.min())
    last = date_of(days.max())

    figures: dict[str, Interval] = {}
    if complete and len(sample):
        everything = yardstick.figures(sample, resamples, seed)
        figures = {name: everything[name] for name in yardstick.shown if name in everything}

    share = len(sample) / len(rows)
    return Stretch(first, last, version, len(rows), yardstick.positives(sample), share, complete, figures)
