"""The judging protocol of a quantity: how far predictions lie from it, and how often their interval holds it.

Rows and predictions in, figures out, in the label's unit; no I/O. Every labelled row of the test window counts. No
figure depends on the order of rows. Statistics take weights of units, like those of `millrace.judge.ranking`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.instants import DAY_US
from millrace.judge.bootstrap import Interval, interval
from millrace.judge.rows import Columns, Floats, Mask, by_chunk, event_us, in_window, ratio, require, unit_sums, units


@dataclass(frozen=True, slots=True)
class Measured:
    """The rows that count, as arrays of N; units are numbered in the order of their ids."""

    unit: NDArray[np.int64]  # [N] in [0, units)
    day: NDArray[np.int64]  # [N] days since 1970
    truth: Floats  # [N]
    units: int

    def __len__(self) -> int:
        return len(self.unit)

    def where(self, mask: Mask | NDArray[np.int64]) -> Measured:
        """The rows under a mask, or at these places; unit numbers stay, so that weights still fit."""
        return Measured(self.unit[mask], self.day[mask], self.truth[mask], self.units)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model says of N rows: a value, and the interval that should hold the truth. NaN where it says nothing."""

    point: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, point: NDArray[Any], low: NDArray[Any] | None = None, high: NDArray[Any] | None = None) -> Predictions:
        """Predictions from whatever numbers; raises InvalidInput when they are not as many of each."""
        parts = [
            np.full(len(point), np.nan) if one is None else np.asarray(one, np.float64) for one in (point, low, high)
        ]
        if len({part.shape for part in parts}) > 1:
            raise InvalidInput(f"predictions have shapes {[part.shape for part in parts]}; wanted as many of each")
        return cls(*parts)

    def __len__(self) -> int:
        return len(self.point)

    def where(self, mask: Mask | NDArray[np.int64]) -> Predictions:
        """Those of the rows under a mask, or at these places."""
        return Predictions(self.point[mask], self.low[mask], self.high[mask])

    @property
    def bounded(self) -> bool:
        """Whether there are intervals."""
        return bool(np.isfinite(self.low).any())


Statistic = Callable[[Measured, Predictions, Floats | None], Floats]
"""(rows, predictions, weights[B, units] or None) → [B]."""


def labelled_rows(rows: pa.Table, test_start: date, columns: Columns, days: int) -> Mask:
    """mask[N]: rows of the test window, `days` long, whose label is known."""
    require(rows, columns)
    known: Mask = np.isfinite(_truth(rows, columns))
    return known & in_window(rows, test_start, days)


def measured(rows: pa.Table, mask: Mask, columns: Columns) -> Measured:
    """The rows under `mask` as arrays."""
    require(rows, columns)
    rows = rows.filter(pa.array(mask))
    unit, count = units(rows, columns)
    return Measured(unit, event_us(rows) // DAY_US, _truth(rows, columns), count)


# Statistics. `weights[B, units]`, or None for one plain evaluation; each returns an array [B], NaN without rows.


def mae(rows: Measured, predictions: Predictions, weights: Floats | None = None) -> Floats:
    """Mean absolute error. [B] ≥ 0."""
    return _mean(rows, np.abs(predictions.point - rows.truth), weights)


def rmse(rows: Measured, predictions: Predictions, weights: Floats | None = None) -> Floats:
    """Root of the mean squared error: large errors weigh more. [B] ≥ 0."""
    return np.sqrt(_mean(rows, (predictions.point - rows.truth) ** 2, weights))


def bias(rows: Measured, predictions: Predictions, weights: Floats | None = None) -> Floats:
    """Mean of prediction less truth: above zero it promises too much. [B]."""
    return _mean(rows, predictions.point - rows.truth, weights)


def coverage(rows: Measured, predictions: Predictions, weights: Floats | None = None) -> Floats:
    """Share of rows whose truth lies within their interval; NaN without intervals. [B] in [0, 1]."""
    if not predictions.bounded:
        return _nothing(weights)
    inside = (rows.truth >= predictions.low) & (rows.truth <= predictions.high)
    return _mean(rows, inside.astype(np.float64), weights)


def interval_width(rows: Measured, predictions: Predictions, weights: Floats | None = None) -> Floats:
    """Mean of high less low; NaN without intervals. [B]."""
    return _mean(rows, predictions.high - predictions.low, weights)


def error_quantile(level: float) -> Statistic:
    """The statistic: smallest absolute error that a share `level` of the rows does not exceed."""

    def statistic(rows: Measured, predictions: Predictions, weights: Floats | None = None) -> Floats:
        if not len(rows):
            return _nothing(weights)

        error = np.abs(predictions.point - rows.truth)
        order = np.argsort(error, kind="stable")

        def reached(weight: Floats) -> Floats:
            below = weight.cumsum(axis=1)
            place = (below < level * below[:, -1:]).sum(axis=1)
            return np.where(below[:, -1] > 0, error[order][np.minimum(place, len(order) - 1)], np.nan)

        return by_chunk(rows.unit[order], weights, reached)

    return statistic


STATISTICS: Final[Mapping[str, Statistic]] = {
    "mae": mae,
    "rmse": rmse,
    "bias": bias,
    "median_error": error_quantile(0.5),
    "p90_error": error_quantile(0.9),
}
INTERVAL_STATISTICS: Final[Mapping[str, Statistic]] = {"coverage": coverage, "interval_width": interval_width}
"""Statistics of predictions that come with an interval."""


def figures(rows: Measured, predictions: Predictions) -> dict[str, float]:
    """Every figure by name; raises InvalidInput for predictions that are missing or not finite."""
    _require_finite(rows, predictions)
    return {name: statistic(rows, predictions, None).item() for name, statistic in _statistics(predictions).items()}


def with_intervals(rows: Measured, predictions: Predictions, weights: Floats) -> dict[str, Interval]:
    """Every figure by name, with its bootstrap interval; weights[B, units] of `millrace.judge.bootstrap`."""
    plain = figures(rows, predictions)
    return {
        name: interval(plain[name], statistic(rows, predictions, weights))
        for name, statistic in _statistics(predictions).items()
    }


def rank_correlation(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """Spearman's, of one[N] and other[N], either way round: in [0, 1], and 0 where one of them is always the same."""
    from scipy.stats import rankdata  # not for those who only want errors

    if not len(one) or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(abs(np.corrcoef(rankdata(one), rankdata(other))[0, 1]))


def _statistics(predictions: Predictions) -> dict[str, Statistic]:
    return {**STATISTICS, **(INTERVAL_STATISTICS if predictions.bounded else {})}


def _require_finite(rows: Measured, predictions: Predictions) -> None:
    if len(predictions) != len(rows):
        raise InvalidInput(f"there are {len(predictions)} predictions for {len(rows)} rows; wanted one for each")
    missing = int((~np.isfinite(predictions.point)).sum())
    if missing:
        raise InvalidInput(f"{missing} of {len(rows)} predictions are not finite. Predict every row.")


def _mean(rows: Measured, column: Floats, weights: Floats | None) -> Floats:
    count, total = unit_sums(rows.unit, rows.units, weights, [np.ones(len(rows)), column])
    return ratio(total, count)


def _nothing(weights: Floats | None) -> Floats:
    return np.full(1 if weights is None else len(weights), np.nan)


def _truth(rows: pa.Table, columns: Columns) -> Floats:
    """[N] the label, NaN where it is not known."""
    truth: Floats = rows[columns.label].cast(pa.float64()).fill_null(np.nan).to_numpy()
    return truth
