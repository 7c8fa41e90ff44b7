"""The judging protocol of a rare class: which rows count, and how well scores rank them.

Rows and scores in, figures out; no I/O. Rows of units already known to be positive are dropped, then AUC ROC, average
precision and unit precision@k (per day, units ranked by their highest score, units caught on an earlier day removed).
No figure depends on the order of rows. Statistics take weights of units, which is how `millrace.judge.bootstrap` puts
intervals around them; calibration is in `millrace.judge.calibration`, and which columns are read is the workload's
(`millrace.judge.rows.Columns`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.instants import DAY_US
from millrace.judge.rows import (
    Columns,
    Floats,
    Mask,
    by_chunk,
    event_us,
    in_window,
    label_us,
    ratio,
    require,
    start_us,
    units,
    values,
)

TEST_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows that count, as arrays of N; units are numbered in the order of their ids."""

    unit: NDArray[np.int64]  # [N] in [0, units)
    day: NDArray[np.int64]  # [N] days since 1970
    label: NDArray[np.bool_]  # [N]; True is a positive
    value: Floats  # [N] what missing the row costs, where it is a positive; in money
    units: int

    def __len__(self) -> int:
        return len(self.unit)

    def where(self, mask: Mask) -> Judged:
        """The rows under `mask`; unit numbers stay, so that weights still fit."""
        return Judged(self.unit[mask], self.day[mask], self.label[mask], self.value[mask], self.units)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolMetrics:
    """The published figures of one test window, and what they stand on. A figure that does not exist is NaN."""

    auc_roc: float
    average_precision: float
    unit_precision: float | None
    """Absent where nothing is reviewed."""
    k: int | None
    rows: int
    positives: int
    units: int
    positive_units: int

    @property
    def figures(self) -> dict[str, float]:
        """Those there are, by name."""
        named = {name: getattr(self, name) for name in ("auc_roc", "average_precision", "unit_precision")}
        return {name: value for name, value in named.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def drop_known_units(rows: pa.Table, test_start: date, columns: Columns, days: int = TEST_DAYS) -> Mask:
    """mask[N]: labelled rows of the test window, `days` long, whose unit is not yet known to be positive.

    `rows` must hold, besides the test window, the positives of the `known_days` before it. A unit is known on a test
    day when one of these had its label before that day began: the published `get_train_test_set`, whatever the
    training window really was.
    """
    require(rows, columns)
    happened_us = event_us(rows)
    label = _labels(rows, columns)
    testing = (label >= 0) & in_window(rows, test_start, days)
    if not columns.known_days:
        return testing

    unit, count = units(rows, columns)
    known_from = np.full(count, np.iinfo(np.int64).max)
    revealing = (label == 1) & (happened_us >= start_us(test_start) - columns.known_days * DAY_US)
    np.minimum.at(known_from, unit[revealing], label_us(rows)[revealing])
    day_start = happened_us - happened_us % DAY_US
    return testing & ~(known_from[unit] < day_start)


def judged(rows: pa.Table, mask: Mask, columns: Columns) -> Judged:
    """The rows under `mask` as arrays."""
    require(rows, columns)
    rows = rows.filter(pa.array(mask))
    unit, count = units(rows, columns)
    return Judged(unit, event_us(rows) // DAY_US, _labels(rows, columns) == 1, values(rows, columns), count)


def protocol_metrics(
    rows: pa.Table,
    scores: NDArray[Any],
    test_start: date,
    columns: Columns,
    k: int | None = 100,
    days: int = TEST_DAYS,
) -> ProtocolMetrics:
    """The protocol's figures of one test window, `days` long.

    `rows[N]`: the test window, and the positives of the `known_days` before it. `scores[N]` on any scale; those outside
    the test window are not read. Raises InvalidInput for scores that are missing where they count.
    """
    scores = _scores(scores, rows.num_rows)
    mask = drop_known_units(rows, test_start, columns, days)
    return judged_metrics(judged(rows, mask, columns), scores[mask], k)


def judged_metrics(rows: Judged, scores: Floats, k: int | None = 100) -> ProtocolMetrics:
    """The protocol's figures of rows already judged, k None where nothing is reviewed.

    Raises InvalidInput for a score that is not finite.
    """
    scores = _scores(scores, len(rows))
    if not np.isfinite(scores).all():
        raise InvalidInput(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are not finite. Score every row."
        )

    return ProtocolMetrics(
        auc_roc=roc_auc(rows, scores).item(),
        average_precision=average_precision(rows, scores).item(),
        unit_precision=None if k is None else unit_precision(rows, scores, k).item(),
        k=k,
        rows=len(rows),
        positives=int(rows.label.sum()),
        units=len(np.unique(rows.unit)),
        positive_units=len(np.unique(rows.unit[rows.label])),
    )


# Statistics. `weights[B, units]`, or None for one plain evaluation; each returns an array [B].


def average_precision(rows: Judged, scores: Floats, weights: Floats | None = None) -> Floats:
    """Area under the precision-recall steps, equal scores taken together; NaN without a positive. [B] in [0, 1]."""
    order, end = _descending(scores)
    label = rows.label[order]
    positives = np.flatnonzero(label)

    def statistic(weight: Floats) -> Floats:
        flagged = weight.cumsum(axis=1)[:, end[positives]]
        caught = np.concatenate([np.zeros((len(weight), 1)), weight[:, positives].cumsum(axis=1)], axis=1)
        at_end = caught[:, np.searchsorted(positives, end[positives], side="right")]
        precision = np.divide(at_end, flagged, out=np.zeros_like(flagged), where=flagged > 0)
        return ratio((weight[:, positives] * precision).sum(axis=1), caught[:, -1])

    return by_chunk(rows.unit[order], weights, statistic)


def roc_auc(rows: Judged, scores: Floats, weights: Floats | None = None) -> Floats:
    """Chance that a positive scores above a negative, ties counting half; NaN unless both exist. [B] in [0, 1]."""
    order, end = _descending(scores)
    label = rows.label[order]
    positives = np.flatnonzero(label)
    start = np.searchsorted(end, positives_end := end[positives], side="left")

    def statistic(weight: Floats) -> Floats:
        negative = np.concatenate([np.zeros((len(weight), 1)), (weight * ~label).cumsum(axis=1)], axis=1)
        total = negative[:, -1:]
        above, not_below = negative[:, start], negative[:, positives_end + 1]
        positive = weight[:, positives]
        won = (positive * (total - (above + not_below) / 2)).sum(axis=1)
        return ratio(won, positive.sum(axis=1) * total[:, 0])

    return by_chunk(rows.unit[order], weights, statistic)


@dataclass(frozen=True, slots=True)
class Review:
    """What reviewing the top k units of every day brings; arrays [B], values in money."""

    unit_precision: Floats  # mean over days of positive units among the k, divided by k
    caught_value: Floats  # of positives of units on the day they are caught, and after it, when they are blocked
    missed_value: Floats  # of every other positive
    reviews: Floats  # units looked at


def review(rows: Judged, scores: Floats, k: int, weights: Floats | None = None) -> Review:
    """Play the days: rank units by highest score, look at the top k, block those with a positive that day.

    A unit of weight w stands for w units and takes as many of the k places. Equal scores are ranked by unit, which
    knows nothing of the label. Raises InvalidInput for k < 1.
    """
    if k < 1:
        raise InvalidInput(f"k is {k}; wanted at least 1 unit a day")
    weights = np.ones((1, rows.units)) if weights is None else weights
    open_share = np.ones_like(weights)  # the part of each unit not caught yet
    days = np.unique(rows.day)
    hits, missed, looked_at = (np.zeros(len(weights)) for _ in range(3))
    for day in days:
        unit, positive, value = _units_by_score(rows, scores, day)
        weight = weights[:, unit] * open_share[:, unit]
        places = np.clip(k - (weight.cumsum(axis=1) - weight), 0, weight)
        share = np.divide(places, weight, out=np.zeros_like(weight), where=weight > 0)
        hits += (places * positive).sum(axis=1)
        looked_at += places.sum(axis=1)
        missed += ((weight - places) * value).sum(axis=1)
        open_share[:, unit] *= 1 - share * positive
    total = weights @ np.bincount(rows.unit, rows.value * rows.label, rows.units)
    precision = hits / (k * len(days)) if len(days) else np.full(len(weights), np.nan)
    return Review(precision, total - missed, missed, looked_at)


def unit_precision(rows: Judged, scores: Floats, k: int = 100, weights: Floats | None = None) -> Floats:
    """Positive units among the day's top k, divided by k; mean over days. [B] in [0, 1]."""
    return review(rows, scores, k, weights).unit_precision


def cost_ratio(outcome: Review, review_cost: float) -> Floats:
    """(missed value + reviews × review_cost) / value of all positives: 1 is what doing nothing costs. [B] ≥ 0."""
    spent = outcome.missed_value + outcome.reviews * review_cost
    return ratio(spent, outcome.missed_value + outcome.caught_value)


def caught_share(outcome: Review) -> Floats:
    """Caught value / value of all positives. [B] in [0, 1]."""
    return ratio(outcome.caught_value, outcome.missed_value + outcome.caught_value)


def _descending(scores: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions from the highest score down, and for each place the last place with an equal score."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    last = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True)) if len(scores) else order
    return order, last[np.searchsorted(last, np.arange(len(scores)))]


def _units_by_score(rows: Judged, scores: Floats, day: int) -> tuple[NDArray[np.int64], Mask, Floats]:
    """The day's units from the highest score down: number, whether positive that day, value of its positives."""
    today = np.flatnonzero(rows.day == day)
    order = today[np.lexsort((-scores[today], rows.unit[today]))]
    unit, first = np.unique(rows.unit[order], return_index=True)
    positives = np.add.reduceat(rows.label[order].astype(np.int64), first)
    value = np.add.reduceat(rows.value[order] * rows.label[order], first)
    by_score = np.lexsort((unit, -scores[order[first]]))
    return unit[by_score], positives[by_score] > 0, value[by_score]


def _scores(scores: NDArray[Any], rows: int) -> Floats:
    scores = np.asarray(scores)
    if scores.shape != (rows,):
        raise InvalidInput(f"scores have shape {list(scores.shape)}; wanted one for each of {rows} rows")
    return scores.astype(np.float64)


def _labels(rows: pa.Table, columns: Columns) -> NDArray[np.int8]:
    """[N] 1 for a positive, 0 for a negative, -1 where the label is not known."""
    labels: NDArray[np.int8] = rows[columns.label].cast(pa.int8()).fill_null(-1).to_numpy()
    return labels
