"""How far a single column tells the label: 1 is the label itself under another name, or what is written after it.

Files of events in, one figure per column that the model reads out. Numbers are tried either way round, and so is being
empty; whatever has few values is also tried value by value, learned on even days and asked on odd ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.validate.profile import select
from millrace.fields import Kind
from millrace.installed import Workload
from millrace.judge.regression import rank_correlation
from millrace.sql import quoted

Floats = NDArray[np.float64]

ORDERED: Final = frozenset({Kind.MONEY, Kind.NUMBER, Kind.WHOLE, Kind.CLASS})
"""Kinds whose values have an order."""
ODD: Final = "(epoch_us(event_timestamp) // 86400000000) % 2"
"""SQL: whether an event is of an odd day."""
MOST_VALUES: Final = 1000
"""A column with more values than this is not tried value by value: an id tells the past, not the label."""
MOST_ROWS: Final = 200_000
"""Rows by which a quantity is judged."""


def column_skills(db: duckdb.DuckDBPyConnection, workload: Workload, files: Sequence[Path]) -> dict[str, float]:
    """Column that the model may read → how far it alone tells the label, in [0, 1]: 2 AUC - 1, or rank correlation."""
    schema = workload.schema
    label = schema.LABEL.column
    kinds = {field.name: field.kind for field in schema.FIELDS}
    classes = kinds[label] is Kind.CLASS
    levels = {name for name in workload.exchange.ASKED if kinds[name] is Kind.KEY}  # not ids of entities
    asked = [
        name for name, kind in kinds.items() if name != label and (kind in ORDERED | {Kind.TEXT} or name in levels)
    ]

    skills = {}
    for name in asked:
        if classes:
            skills[name] = _of_class(db, files, name, label, kinds[name] in ORDERED)
        elif kinds[name] in ORDERED:
            skills[name] = _of_quantity(db, files, name, label)
    return skills


def _of_class(db: duckdb.DuckDBPyConnection, files: Sequence[Path], name: str, label: str, ordered: bool) -> float:
    value, truth = quoted(name), quoted(label)
    counted = f"{value} as value, {ODD} as odd, count(*) filter ({truth} = 1), count(*) filter ({truth} = 0)"
    source = f"{select(counted, files)} where {truth} is not null group by all"
    rows = db.sql(f"select * from ({source}) as t(value, odd, positives, others)").to_arrow_table()
    if not rows.num_rows:
        return 0.0

    found = rows["value"].combine_chunks()
    encoded = found.dictionary_encode(null_encoding="encode")
    code = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    odd = rows["odd"].to_numpy().astype(np.int64)
    counts = np.zeros((2, 2, int(code.max()) + 1))  # [day is odd, positive or other, value]
    for place, column in enumerate(("positives", "others")):
        np.add.at(counts, (odd, place, code), rows[column].to_numpy().astype(np.float64))

    skills = [0.0]
    if ordered:
        skills += _by_order(encoded.dictionary, counts.sum(axis=0))
    if counts.shape[2] <= MOST_VALUES:
        skills.append(_by_value(counts))
    return max(skills)


def _by_order(values: pa.Array, counts: Floats) -> list[float]:
    """Of values that have an order, empty ones below all or above all."""
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return [abs(skill_of(np.nan_to_num(numbers, nan=empty), *counts)) for empty in (-np.inf, np.inf)]


def _by_value(counts: Floats) -> float:
    """Of any values, by the share of positives that each had on even days; asked on odd days."""
    (learned, others), asked = counts
    usual = learned.sum() / max(counts[0].sum(), 1)
    share = (learned + usual) / (learned + others + 1)
    return max(skill_of(share, *asked), 0.0)


def skill_of(scores: Floats, positives: Floats, others: Floats) -> float:
    """2 AUC - 1 of values[N] that so many positives[N] and others[N] have; 0 where there is only one kind."""
    levels, place = np.unique(scores, return_inverse=True)
    won = np.bincount(place, positives, len(levels))
    lost = np.bincount(place, others, len(levels))
    if not won.sum() or not lost.sum():
        return 0.0
    below = lost.cumsum() - lost / 2
    return float(2 * (won @ below) / (won.sum() * lost.sum()) - 1)


def _of_quantity(db: duckdb.DuckDBPyConnection, files: Sequence[Path], name: str, label: str) -> float:
    value, truth = quoted(name), quoted(label)
    asked = f"{value}::double as value, {truth}::double as truth"
    source = f"{select(asked, files)} where {value} is not null and {truth} is not null"
    rows = db.sql(f"select * from ({source}) using sample reservoir({MOST_ROWS} rows) repeatable (0)").fetchnumpy()
    return rank_correlation(*(np.asarray(rows[column], np.float64) for column in ("value", "truth")))
