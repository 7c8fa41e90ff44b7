"""Two models side by side, from the prediction log: do they decide alike, score alike, and which one is better.

Predictions with the labels known at an instant in, figures out; no I/O. Where both scored the same transactions (a
shadow, a replay) the comparison is paired: agreement, score differences, and metric differences on the same rows. Where
entities were divided (A/B) the sides share none, and their metrics stand on different rows. The bootstrap draws units,
once for both sides, so that its intervals are right in either case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import NotFound
from millrace.judge.bootstrap import Interval, Statistic, interval, unit_weights
from millrace.judge.ranking import Judged, average_precision, judged, unit_precision
from millrace.judge.rows import Columns, Floats

ARMS: Final = ("champion", "challenger", "shadow")
QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
BINS: Final = 10
"""Of the population stability index, by A's quantiles. Above 0.1 is worth a look, above 0.25 is another population."""
PAIRED_SHARE: Final = 0.5
"""Of the smaller side's transactions: with fewer in common the sides are compared as they are."""
COLUMNS: Final = (
    "prediction_id", "scored_at", "transaction_id", "event_timestamp", "customer_id", "amount", "model_version",
    "score", "decision", "degraded", "stage", "arm", "latency_ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: which predictions, one per transaction, and how they look."""

    name: str
    rows: pa.Table
    versions: tuple[str, ...]

    @property
    def scores(self) -> Floats:
        return np.asarray(self.rows["score"].to_numpy(), np.float64)

    def facts(self) -> dict[str, Any]:
        """Counts, rates and latency."""
        latency = pc.quantile(self.rows["latency_ms"], [0.5, 0.99]).to_pylist()
        return {
            "versions": ", ".join(self.versions),
            "predictions": self.rows.num_rows,
            "customers": pc.count_distinct(self.rows["customer_id"]).as_py(),
            "review rate": pc.mean(pc.equal(self.rows["decision"], "review")).as_py(),
            "degraded": pc.mean(self.rows["degraded"]).as_py(),
            "stopped at the cheap model": pc.mean(pc.equal(self.rows["stage"], "cheap")).as_py(),
            "latency p50 (ms)": latency[0],
            "latency p99 (ms)": latency[1],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found. `paired` figures stand on the transactions that both scored; metrics are B - A."""

    a: Side
    b: Side
    paired_rows: int
    agreement: float | None
    decisions: Mapping[str, Mapping[str, int]]
    """A's decision → B's decision → transactions."""
    quantiles: Mapping[str, tuple[float, float]]
    """Quantile → A's and B's score; of the paired rows where there are any."""
    difference_quantiles: Mapping[str, float]
    psi: float
    labelled: tuple[int, int]
    positives: tuple[int, int]
    metrics: Mapping[str, tuple[float, float, Interval]]
    """Name → A's value, B's value, B - A with its interval; empty while no labels are in."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON: what does not exist is null."""
        document = {
            name: getattr(self, name)
            for name in ("paired_rows", "agreement", "decisions", "quantiles", "difference_quantiles", "psi")
        }
        sides = {side: {"name": one.name, **one.facts()} for side, one in (("a", self.a), ("b", self.b))}
        metrics = {
            name: {"a": a, "b": b, "difference": asdict(change)} for name, (a, b, change) in self.metrics.items()
        }
        found: dict[str, Any] = _finite(
            document | sides | {"labelled": self.labelled, "positives": self.positives, "metrics": metrics}
        )
        return found


def compare(
    predictions: pa.Table, a: str, b: str, columns: Columns, *, k: int = 100, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Sides `a` and `b`, each an arm or a model version, of predictions[N] with COLUMNS and those that judging reads.

    Raises NotFound naming what there is when a side has no predictions.
    """
    first, second = side(predictions, a), side(predictions, b)
    ids_a, ids_b = (one.rows["transaction_id"].to_numpy() for one in (first, second))
    _, place_a, place_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
    paired = len(place_a) >= PAIRED_SHARE * min(len(ids_a), len(ids_b))
    if not paired:
        place_a = place_b = place_a[:0]
    rows_a = first.rows.take(pa.array(place_a)) if paired else first.rows
    rows_b = second.rows.take(pa.array(place_b)) if paired else second.rows
    scores_a, scores_b = (np.asarray(rows["score"].to_numpy(), np.float64) for rows in (rows_a, rows_b))
    same = pc.mean(pc.equal(rows_a["decision"], rows_b["decision"])).as_py() if paired else None
    differences = scores_b - scores_a if paired else np.empty(0)
    labelled = [rows.filter(pc.is_valid(rows[columns.label])) for rows in (rows_a, rows_b)]
    return Comparison(
        first,
        second,
        len(place_a),
        same,
        _decisions(rows_a, rows_b) if paired else {},
        {f"{q:g}": (float(np.quantile(scores_a, q)), float(np.quantile(scores_b, q))) for q in QUANTILES},
        {f"{q:g}": float(np.quantile(differences, q)) for q in QUANTILES} if paired else {},
        stability_index(scores_a, scores_b),
        (labelled[0].num_rows, labelled[1].num_rows),
        (_positives(labelled[0], columns), _positives(labelled[1], columns)),
        _metrics(labelled[0], labelled[1], columns, k, paired, resamples, seed),
    )


def side(predictions: pa.Table, name: str) -> Side:
    """The predictions of an arm or a version, the first of each transaction."""
    column = "arm" if name in ARMS else "model_version"
    rows = predictions.filter(pc.fill_null(pc.equal(predictions[column], name), False))
    for needed in ("transaction_id", "event_timestamp", "customer_id", "score"):
        rows = rows.filter(pc.is_valid(rows[needed]))  # KServe's logger may know less
    if not rows.num_rows:
        have = {one: predictions[one].unique().drop_null().to_pylist() for one in ("arm", "model_version")}
        raise NotFound(
            f"no predictions of {column} {name!r} in these days; there are arms {sorted(have['arm'])} and versions "
            f"{sorted(have['model_version'])}. Take other days, or another side."
        )
    rows = rows.sort_by([(one, "ascending") for one in ("transaction_id", "scored_at", "prediction_id")])
    ids = rows["transaction_id"].to_numpy()
    rows = rows.filter(pa.array(np.r_[True, ids[1:] != ids[:-1]]))
    versions = sorted(rows["model_version"].unique().drop_null().to_pylist())
    label = f"{name} (version {', '.join(versions)})" if name in ARMS else f"version {name}"
    return Side(label, rows, tuple(versions))


def stability_index(a: Floats, b: Floats, bins: int = BINS) -> float:
    """Population stability index of b against a: Σ (q - p) ln(q / p) over a's quantile bins, half added to each."""
    edges = np.unique(np.quantile(a, np.linspace(0, 1, bins + 1)[1:-1]))
    p, q = (np.bincount(np.searchsorted(edges, one, side="left"), minlength=len(edges) + 1) + 0.5 for one in (a, b))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def _decisions(a: pa.Table, b: pa.Table) -> dict[str, dict[str, int]]:
    both = [np.asarray(rows["decision"].to_pylist()) for rows in (a, b)]
    names = ("review", "approve")
    return {one: {two: int(((both[0] == one) & (both[1] == two)).sum()) for two in names} for one in names}


def _positives(rows: pa.Table, columns: Columns) -> int:
    return int(pc.sum(rows[columns.label]).as_py() or 0)


def _metrics(
    a: pa.Table, b: pa.Table, columns: Columns, k: int, paired: bool, resamples: int, seed: int
) -> dict[str, tuple[float, float, Interval]]:
    """Average precision and unit precision of either side and B - A, on units drawn once for both."""
    if not _positives(a, columns) or not _positives(b, columns):
        return {}
    together = pa.concat_tables([a.select(columns.names), b.select(columns.names)])
    everything = judged(together, np.ones(together.num_rows, bool), columns)
    of_a = np.arange(together.num_rows) < a.num_rows
    sides = [everything.where(of_a), everything.where(~of_a)]
    scores = [np.asarray(rows["score"].to_numpy(), np.float64) for rows in (a, b)]
    places = [k, k] if paired else [max(1, round(k * len(one) / len(everything))) for one in sides]
    weights = unit_weights(everything, resamples, seed)
    figures = {}
    for name, of in (("average precision", _precision), (f"unit precision@{k}", _at_k)):
        statistics = [of(one) for one in places]
        plain = [f(rows, s, None).item() for f, rows, s in zip(statistics, sides, scores, strict=True)]
        drawn = [f(rows, s, weights) for f, rows, s in zip(statistics, sides, scores, strict=True)]
        figures[name] = (plain[0], plain[1], interval(plain[1] - plain[0], drawn[1] - drawn[0]))
    return figures


def _precision(_: int) -> Statistic:
    return average_precision


def _at_k(k: int) -> Statistic:
    def statistic(rows: Judged, scores: Floats, weights: Floats | None) -> Floats:
        return unit_precision(rows, scores, k, weights)

    return statistic


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
