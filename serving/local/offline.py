"""The offline side of a replay: a day's events as requests, and the model inputs that batch features made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from millrace.errors import NotFound
from millrace.features.past import read_past
from millrace.fields import Field, Kind
from millrace.installed import Workload
from millrace.lake.manifest import Manifest
from millrace.requests import TIME, RequestFormat


@dataclass(frozen=True, slots=True)
class Day:
    """B events in the order (event time, event id) and their offline model inputs."""

    ids: NDArray[np.int64]  # [B]
    event_us: NDArray[np.int64]  # [B]
    units: list[str]
    """[B] entity of the recent view, whose events must go one after another; the event itself where there is none."""
    bodies: list[bytes]
    """[B] V1 requests of one row."""
    features: NDArray[np.float32]  # [B, F]
    history: NDArray[np.float32] | None  # [B, L, C]

    def until(self, event_us: int) -> Day:
        """The events before an instant."""
        end = int(np.searchsorted(self.event_us, event_us))
        history = None if self.history is None else self.history[:end]
        return Day(
            self.ids[:end], self.event_us[:end], self.units[:end], self.bodies[:end], self.features[:end], history
        )


def load_day(workload: Workload, manifest: Manifest, day: date, limit: int | None, length: int) -> Day:
    """The day's events and their offline inputs, for which the `length` events before each are gathered."""
    import duckdb

    if not manifest.table("events", day, day):
        days = f"{manifest.facts.get('first_day')} to {manifest.facts.get('last_day')}"
        raise NotFound(f"feature set {manifest.id} has no day {day}; it has {days}")
    event_id, form = workload.schema.EVENT_ID, RequestFormat.of(workload)
    today = [str(path) for path in manifest.table("events", day, day)]
    with duckdb.connect() as connection:
        connection.execute("SET threads = 2")
        rows: pa.Table = connection.sql(
            "SELECT *, epoch_us(event_timestamp) AS event_us FROM read_parquet($1) "
            f"ORDER BY event_us, {event_id} LIMIT $2",
            params=[today, limit or 2**62],
        ).to_arrow_table()
    ids, names = rows[event_id].to_numpy(), workload.features.FEATURE_NAMES
    features = np.stack([rows[name].to_numpy() for name in names], axis=1).astype(np.float32)
    units = rows[event_id].cast(pa.string()).to_pylist()
    history = None
    if (view := workload.recent) is not None:
        units = rows[workload.entity(view.entity).key].to_pylist()
        if length:
            files = manifest.table("events", None, day)
            past = read_past(workload, view, files, day, length, threads=2, memory_limit_gb=3.0)
            history = past.history(ids, length)
    return Day(ids, rows["event_us"].to_numpy(), units, list(_bodies(rows, form)), features, history)


def _bodies(rows: pa.Table, form: RequestFormat) -> Iterator[bytes]:
    """The rows as V1 bodies; what a row lacks is left out."""
    times = np.datetime_as_string(rows["event_us"].to_numpy().astype("datetime64[us]"), timezone="UTC")
    columns: dict[str, list[Any]] = {form.event_id: rows[form.event_id].to_pylist(), TIME: times.tolist()}
    for entity in form.asked:
        columns[entity.key] = rows[entity.key].to_pylist()
    for field in form.fields:
        columns[field.name] = _values(rows, field)
    for values in zip(*columns.values(), strict=True):
        row = {name: value for name, value in zip(columns, values, strict=True) if value is not None}
        yield orjson.dumps({"instances": [row]})


def _values(rows: pa.Table, field: Field) -> list[Any]:
    """A field as a client writes it: a feature set keeps money as cents."""
    cents = f"{field.name}_cents"
    if field.kind is Kind.MONEY and cents in rows.column_names:
        return [None if value is None else value / 100 for value in rows[cents].to_pylist()]
    return list(rows[field.name].to_pylist())
