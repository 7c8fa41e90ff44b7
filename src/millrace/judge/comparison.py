"""Two models side by side, from the prediction log: do they decide alike, score alike, and which one is better.

Predictions with the labels known at an instant in, figures out; no I/O. Where both scored the same events (a shadow, a
replay) the comparison is paired: agreement, score differences, and metric differences on the same rows. Where entities
were divided (A/B) the sides share none, and their metrics stand on different rows. The bootstrap draws units, once for
both sides, so that its intervals are right in either case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import NotFound
from millrace.events.prediction import APPROVE, CHALLENGER, CHAMPION, REVIEW, SHADOW
from millrace.installed import Workload
from millrace.judge.bootstrap import Interval, interval, unit_weights
from millrace.judge.ranking import average_precision, unit_precision
from millrace.judge.regression import mae, rmse
from millrace.judge.rows import Floats
from millrace.judge.stability import stability_index
from millrace.judge.yardsticks import Yardstick, yardstick_of
from millrace.workload import Task

ARMS: Final = (CHAMPION, CHALLENGER, SHADOW)
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
BINS: Final = 10
"""Bins of the population stability index, by A's quantiles.

Above 0.1 is worth a look, above 0.25 is another population."""
PAIRED_SHARE: Final = 0.5
"""Least share of the smaller side's events that both have; with fewer in common the sides are compared as they are."""

Statistic = Callable[[Any, Any, Floats | None], Floats]
"""(rows, answers, weights[B, units] or None) → [B]."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: which predictions, one per event, and how they look."""

    name: str
    rows: pa.Table
    versions: tuple[str, ...]
    unit: tuple[str, str]
    """What a unit is called, and the column of its ids."""

    @property
    def scores(self) -> Floats:
        return np.asarray(self.rows["score"].to_numpy(), np.float64)

    def facts(self) -> dict[str, Any]:
        """Counts, rates and latency."""
        latency = pc.quantile(self.rows["latency_ms"], [0.5, 0.99]).to_pylist()
        noun, column = self.unit
        decisions = (
            {"review rate": pc.mean(pc.equal(self.rows["decision"], REVIEW)).as_py()}
            if "decision" in self.rows.column_names
            else {}
        )

        return {
            "versions": ", ".join(self.versions),
            "predictions": self.rows.num_rows,
            f"{noun}s": pc.count_distinct(self.rows[column]).as_py(),
            **decisions,
            "degraded": pc.mean(self.rows["degraded"]).as_py(),
            "stopped at the cheap model": pc.mean(pc.equal(self.rows["stage"], "cheap")).as_py(),
            "latency p50 (ms)": latency[0],
            "latency p99 (ms)": latency[1],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found. `paired` figures stand on the events that both scored; metrics are B - A."""

    a: Side
    b: Side
    paired_rows: int
    agreement: float | None
    decisions: Mapping[str, Mapping[str, int]]
    """A's decision → B's decision → events; empty where there are no decisions."""
    quantiles: Mapping[str, tuple[float, float]]
    """Quantile → A's and B's score; of the paired rows where there are any."""
    difference_quantiles: Mapping[str, float]
    psi: float
    labelled: tuple[int, int]
    positives: tuple[int, int] | None
    """None where the task has none."""
    metrics: Mapping[str, tuple[float, float, Interval]]
    """Name → A's value, B's value, B - A with its interval; empty while no labels are in."""

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON; what does not exist is null."""
        names = ("paired_rows", "quantiles", "difference_quantiles", "psi", "labelled")
        document = {name: getattr(self, name) for name in names}
        if self.positives is not None:
            document |= {name: getattr(self, name) for name in ("agreement", "decisions", "positives")}
        sides = {side: {"name": one.name, **one.facts()} for side, one in (("a", self.a), ("b", self.b))}
        metrics = {
            name: {"a": a, "b": b, "difference": asdict(change)} for name, (a, b, change) in self.metrics.items()
        }

        found: dict[str, Any] = _finite(document | sides | {"metrics": metrics})
        return found


def compare(
    predictions: pa.Table, a: str, b: str, workload: Workload, *, k: int = 100, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Sides `a` and `b`, each an arm or a model version, of predictions[N] as `outcomes.columns_of` reads them.

    Raises NotFound naming what there is when a side has no predictions.
    """
    event_id = workload.schema.EVENT_ID
    columns = workload.judging.LOG_COLUMNS
    yardstick = yardstick_of(workload, k, 0.0)
    first = side(predictions, a, workload)
    second = side(predictions, b, workload)

    ids_a = first.rows[event_id].to_numpy()
    ids_b = second.rows[event_id].to_numpy()
    _, place_a, place_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
    paired = len(place_a) >= PAIRED_SHARE * min(len(ids_a), len(ids_b))
    if not paired:
        place_a = place_b = place_a[:0]

    rows_a = first.rows.take(pa.array(place_a)) if paired else first.rows
    rows_b = second.rows.take(pa.array(place_b)) if paired else second.rows
    scores_a = np.asarray(rows_a["score"].to_numpy(), np.float64)
    scores_b = np.asarray(rows_b["score"].to_numpy(), np.float64)
    differences = scores_b - scores_a if paired else np.empty(0)
    decides = paired and "decision" in rows_a.column_names
    labelled = [rows.filter(pc.is_valid(rows[columns.label])) for rows in (rows_a, rows_b)]

    return Comparison(
        first,
        second,
        len(place_a),
        pc.mean(pc.equal(rows_a["decision"], rows_b["decision"])).as_py() if decides else None,
        _decisions(rows_a, rows_b) if decides else {},
        {f"{q:g}": (float(np.quantile(scores_a, q)), float(np.quantile(scores_b, q))) for q in QUANTILES},
        {f"{q:g}": float(np.quantile(differences, q)) for q in QUANTILES} if paired else {},
        shift(scores_a, scores_b),
        (labelled[0].num_rows, labelled[1].num_rows),
        _positives(labelled[0], labelled[1], yardstick),
        _metrics(labelled[0], labelled[1], workload, yardstick, k, resamples, seed, paired=paired),
    )


def side(predictions: pa.Table, name: str, workload: Workload) -> Side:
    """The predictions of an arm or a version, the first of each event."""
    event_id = workload.schema.EVENT_ID
    unit = workload.judging.LOG_COLUMNS.unit
    column = "arm" if name in ARMS else "model_version"
    rows = predictions.filter(pc.fill_null(pc.equal(predictions[column], name), False))
    for needed in (event_id, "event_timestamp", unit, "score"):
        rows = rows.filter(pc.is_valid(rows[needed]))  # KServe's logger may know less
    if not rows.num_rows:
        have = {one: predictions[one].unique().drop_null().to_pylist() for one in ("arm", "model_version")}
        raise NotFound(
            f"no predictions of {column} {name!r} in these days; there are arms {sorted(have['arm'])} and versions "
            f"{sorted(have['model_version'])}. Take other days, or another side."
        )

    rows = rows.sort_by([(one, "ascending") for one in (event_id, "scored_at", "prediction_id")])
    ids = rows[event_id].to_numpy()
    rows = rows.filter(pa.array(np.r_[True, ids[1:] != ids[:-1]]))
    versions = sorted(rows["model_version"].unique().drop_null().to_pylist())
    label = f"{name} (version {', '.join(versions)})" if name in ARMS else f"version {name}"
    return Side(label, rows, tuple(versions), (workload.judging.UNIT.replace("_", " "), unit))


def shift(a: Floats, b: Floats, bins: int = BINS) -> float:
    """Population stability index of b against a, over a's quantile bins."""
    edges = np.unique(np.quantile(a, np.linspace(0, 1, bins + 1)[1:-1]))
    p, q = (np.bincount(np.searchsorted(edges, one, side="left"), minlength=len(edges) + 1) for one in (a, b))
    return stability_index(p.tolist(), q.tolist())


def _decisions(a: pa.Table, b: pa.Table) -> dict[str, dict[str, int]]:
    both = [np.asarray(rows["decision"].to_pylist()) for rows in (a, b)]
    names = (REVIEW, APPROVE)
    return {one: {two: int(((both[0] == one) & (both[1] == two)).sum()) for two in names} for one in names}


def _positives(a: pa.Table, b: pa.Table, yardstick: Yardstick) -> tuple[int, int] | None:
    first, second = (yardstick.positives(yardstick.sample(rows)) for rows in (a, b))
    return None if first is None or second is None else (first, second)


def _metrics(
    a: pa.Table,
    b: pa.Table,
    workload: Workload,
    yardstick: Yardstick,
    k: int,
    resamples: int,
    seed: int,
    *,
    paired: bool,
) -> dict[str, tuple[float, float, Interval]]:
    """The task's figures of either side and B - A, on units drawn once for both."""
    if not all(yardstick.usable(yardstick.sample(rows)) for rows in (a, b)):
        return {}

    everything = yardstick.sample(pa.concat_tables([a, b]))
    of_a = np.arange(len(everything)) < a.num_rows
    rows = everything.rows.where(of_a), everything.rows.where(~of_a)
    answers = [_under(everything.answers, mask) for mask in (of_a, ~of_a)]
    places = [k, k] if paired else [max(1, round(k * len(one) / len(everything))) for one in rows]
    weights = unit_weights(everything.rows, resamples, seed)

    figures = {}
    for name, of in _statistics(workload.task, k).items():
        statistics = [of(one) for one in places]
        plain = [f(one, said, None).item() for f, one, said in zip(statistics, rows, answers, strict=True)]
        drawn = [f(one, said, weights) for f, one, said in zip(statistics, rows, answers, strict=True)]
        figures[name] = (plain[0], plain[1], interval(plain[1] - plain[0], drawn[1] - drawn[0]))
    return figures


def _under(answers: Any, mask: Any) -> Any:
    """Scores, or predictions of a quantity, of the rows under a mask."""
    return answers[mask] if isinstance(answers, np.ndarray) else answers.where(mask)


def _statistics(task: Task, k: int) -> dict[str, Callable[[int], Statistic]]:
    """Name → the statistic with so many units a day; the first says who is better."""
    if task is Task.REGRESSION:
        return {"mean absolute error": lambda _: mae, "root mean squared error": lambda _: rmse}
    classes: dict[str, Callable[[int], Statistic]] = {"average precision": lambda _: average_precision}
    return classes | ({f"unit precision@{k}": _at_k} if task is Task.RANKING else {})


def _at_k(k: int) -> Statistic:
    def statistic(rows: Any, scores: Any, weights: Floats | None) -> Floats:
        return unit_precision(rows, scores, k, weights)

    return statistic


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
