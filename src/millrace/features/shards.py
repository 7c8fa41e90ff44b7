"""Parts of the features that need only the events of some entities: what a cluster computes side by side.

A workload lists its shards in `Batch.SHARDS`; `components/build_features/spark.py` runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Span:
    """Which days are computed (days since 1970, both included), and how many events a history has at most."""

    first_day: int
    last_day: int
    history_length: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of the features, computed from all events of some entities at once."""

    keys: tuple[str, ...]
    """Columns of the events; events with equal values in them come together. Empty: all events do."""
    compute: Callable[[pa.Table, Span], pa.Table]
    """Events of the snapshot's schema, with what earlier shards that `feed` found → a table of `schema`."""
    schema: pa.Schema
    """The event id and columns of it. For a view: `day`, `refresh` of the day, the entity's key, the view's fields."""
    view: str = ""
    """The refreshed view that is computed; empty: columns of the events."""
    feeds: bool = False
    """Later shards read the columns and nothing stores them. An event without a row has nulls there."""
