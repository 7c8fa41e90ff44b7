"""What Feast serves: two entities, two feature views, one versioned service. Names come from `fraud.features`.

`feast -c feature_repo apply` and `components/materialize` both read this file. The batch sources are what materialise
wrote last; `<home>/feast/sources` always leads there.
"""

from __future__ import annotations

from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, FeastType, Float32, Int64

from fraud.features import CUSTOMER_STATE_FIELDS, FEATURE_SERVICE, TERMINAL_STATE_FIELDS
from millrace.settings import settings

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
terminal = Entity(name="terminal", join_keys=["terminal_id"], value_type=ValueType.STRING)


def batch_source(name: str, home: Path) -> FileSource:
    """The Parquet of a view; absolute, since the DuckDB store resolves paths against the working directory."""
    path = home.resolve() / "feast" / "sources" / f"{name}.parquet"
    return FileSource(name=name, path=str(path), file_format=ParquetFormat(), timestamp_field="event_timestamp")


def array_type(name: str) -> FeastType:
    return Array(Float32) if name == "terminal_risk" else Array(Int64)


def define(home: Path) -> tuple[FeatureView, FeatureView, FeatureService]:
    """Views and service over the batch sources of a home."""
    customer_state = FeatureView(
        name="customer_state",
        entities=[customer],
        ttl=None,
        schema=[Field(name=name, dtype=array_type(name)) for name in CUSTOMER_STATE_FIELDS],
        source=PushSource(name="customer_state_push", batch_source=batch_source("customer_state", home)),
    )
    terminal_state = FeatureView(
        name="terminal_state",
        entities=[terminal],
        ttl=None,
        schema=[Field(name=name, dtype=Int64) for name in TERMINAL_STATE_FIELDS],
        source=batch_source("terminal_state", home),
    )
    service = FeatureService(name=FEATURE_SERVICE, features=[customer_state, terminal_state])
    return customer_state, terminal_state, service


customer_state, terminal_state, fraud_detection = define(settings().home)
