"""How the served model does: by day and version once labels are in, estimated while they are not.

Rows of the prediction log with the labels known at an instant in, figures with intervals out; no I/O. A day counts as
complete when the label delay is over and enough of its labels are in: labels of frauds often come first, so a day that
is half labelled looks worse than it is. Whether the loss has grown is tested in `millrace.judge.sequential`.
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

from fraud.schema import LABEL_DELAY_DAYS
from millrace.judge.bootstrap import Interval, interval, unit_weights, with_intervals
from millrace.judge.ranking import Judged, average_precision, judged, unit_precision
from millrace.judge.rows import Floats
from millrace.settings import settings
from millrace.workload import load

COLUMNS: Final = (
    "prediction_id", "scored_at", "transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount",
    "model_version", "score", "decision", "degraded", "stage", "arm", "latency_ms",
)  # fmt: skip
"""What is read of a prediction; features are read for a sample only."""
SHADOW: Final = "shadow"
FIGURES: Final = ("average_precision", "unit_precision", "calibration_error", "brier_skill", "cost_ratio")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Figures of one model version over some days."""

    first_day: date
    last_day: date
    model_version: str
    rows: int
    frauds: int
    labelled_share: float
    complete: bool
    figures: Mapping[str, Interval]
    """Empty while labels are missing."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON: a figure that does not exist is null."""
        document = asdict(self) | {"first_day": str(self.first_day), "last_day": str(self.last_day)}
        document["figures"] = {name: as_numbers(figure) for name, figure in self.figures.items()}
        return document


def as_numbers(figure: Interval) -> dict[str, float | None]:
    """An interval as JSON."""
    parts = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {name: part if math.isfinite(part) else None for name, part in parts.items()}


def answers(predictions: pa.Table) -> pa.Table:
    """The answers that clients got: shadows left out, and of a transaction scored twice the first, in event order."""
    rows = predictions.filter(pc.not_equal(pc.fill_null(predictions["arm"], ""), SHADOW))
    rows = rows.filter(pc.and_(pc.is_valid(rows["transaction_id"]), pc.is_valid(rows["event_timestamp"])))
    rows = rows.filter(pc.is_finite(pc.fill_null(rows["score"], math.nan)))
    rows = rows.sort_by([(name, "ascending") for name in ("transaction_id", "scored_at", "prediction_id")])
    ids = rows["transaction_id"].to_numpy()
    first = np.ones(len(ids), bool)
    first[1:] = ids[1:] != ids[:-1]
    return rows.filter(pa.array(first)).sort_by([("event_timestamp", "ascending"), ("transaction_id", "ascending")])


def day_of(rows: pa.Table) -> NDArray[np.int64]:
    """[N] days since 1970 of the events."""
    days: NDArray[np.int64] = rows["event_timestamp"].cast(pa.int64()).to_numpy() // 86_400_000_000
    return days


def labelled(rows: pa.Table) -> NDArray[np.bool_]:
    """[N] whether the label is known."""
    return np.asarray(pc.is_valid(rows["is_fraud"]).to_numpy(zero_copy_only=False))


def complete_days(rows: pa.Table, as_of: datetime, min_share: float) -> NDArray[np.int64]:
    """Days since 1970 whose label delay is over at `as_of` and of whose rows at least `min_share` are labelled."""
    days, known = day_of(rows), labelled(rows)
    due = (as_of - timedelta(days=LABEL_DELAY_DAYS)).date()
    last = (due - date(1970, 1, 1)).days - 1  # the day that ended before then
    found = [day for day in np.unique(days[days <= last]) if known[days == day].mean() >= min_share]
    return np.array(found, np.int64)


def judge_rows(rows: pa.Table) -> tuple[Judged, Floats]:
    """The labelled rows as the metrics want them, and their scores."""
    known = labelled(rows)
    scores: Floats = rows["score"].to_numpy()[known]
    return judged(rows, known, load(settings().workload).judging.LOG_COLUMNS), scores


def stretch(
    rows: pa.Table, version: str, *, complete: bool, k: int, review_cost: float, resamples: int, seed: int = 0
) -> Stretch:
    """The figures of `rows`, one version's over one or more days; at least one row."""
    days = day_of(rows)
    data, scores = judge_rows(rows)
    first, last = (date(1970, 1, 1) + timedelta(days=int(day)) for day in (days.min(), days.max()))
    share = len(data) / len(rows)
    figures: dict[str, Interval] = {}
    if complete and len(data):
        everything = with_intervals(data, scores, unit_weights(data, resamples, seed), k, review_cost)
        figures = {name: everything[name] for name in FIGURES}
    return Stretch(first, last, version, len(rows), int(data.label.sum()), share, complete, figures)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Score → fraud share, non-decreasing and linear between the points; learned where labels are known."""

    score: Floats
    share: Floats

    def __call__(self, scores: Floats) -> Floats:
        """[N] in [0, 1]."""
        return np.interp(scores, self.score, self.share)


def calibrate(data: Judged, scores: Floats) -> Calibration:
    """Isotonic regression of labels on scores; the scores as they are where there is nothing to learn from."""
    if not len(data) or not data.label.any():
        return Calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    from scipy.optimize import isotonic_regression

    points, place = np.unique(scores, return_inverse=True)
    rows = np.bincount(place)
    shares = isotonic_regression(np.bincount(place, data.label) / rows, weights=rows).x
    return Calibration(points, np.asarray(shares, np.float64))


def expected(rows: pa.Table, calibration: Calibration, k: int, draws: int = 100, seed: int = 0) -> dict[str, Interval]:
    """Average precision, card precision@k, precision and recall of `review` as they should turn out, without labels.

    Confidence-based estimation: labels are drawn from the calibrated scores, and cards are resampled, `draws` times.
    It sees what inputs do to performance; it cannot see that scores have stopped being true (concept drift).
    """
    scores = rows["score"].to_numpy().astype(np.float64)
    blank = rows.set_column(rows.column_names.index("is_fraud"), "is_fraud", pa.array(np.zeros(len(rows), np.int8)))
    base, _ = judge_rows(blank)
    p = calibration(scores)
    flagged = np.asarray(pc.equal(pc.fill_null(rows["decision"], ""), "review").to_numpy(zero_copy_only=False))
    rng = np.random.default_rng(seed)
    weights = unit_weights(base, draws, seed)
    found: dict[str, list[float]] = {
        name: [] for name in ("average_precision", "unit_precision", "precision", "recall")
    }
    for weight in weights:
        label = rng.random(len(p)) < p
        data = Judged(base.unit, base.day, label, base.value, base.units)
        row_weight = weight[base.unit]
        caught = float(row_weight[label & flagged].sum())
        found["average_precision"].append(average_precision(data, scores, weight[None]).item())
        found["unit_precision"].append(unit_precision(data, scores, k, weight[None]).item())
        found["precision"].append(_over(caught, float(row_weight[flagged].sum())))
        found["recall"].append(_over(caught, float(row_weight[label].sum())))
    return {name: _middle(np.array(values)) for name, values in found.items()}


def _over(top: float, bottom: float) -> float:
    return top / bottom if bottom else math.nan


def _middle(draws: Floats) -> Interval:
    usable = draws[np.isfinite(draws)]
    return interval(float(usable.mean()) if len(usable) else math.nan, draws)
