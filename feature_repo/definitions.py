"""What Feast serves of a workload: entities, a feature view for each kind of state, one versioned service.

`feast -c feature_repo apply` (with MILLRACE_WORKLOAD and MILLRACE_GENERATION, a folder, set) and
`components/materialize` both read this file; the names are those of `millrace.workload`. The batch sources are what the
generation was filled from last; `sources` in its folder always leads there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, FeastType, Float32, Float64, Int64

from millrace.errors import ConfigError
from millrace.fields import View
from millrace.installed import Workload, load
from millrace.settings import settings

TYPES: Final[dict[pa.DataType, FeastType]] = {pa.int64(): Int64, pa.float32(): Float32, pa.float64(): Float64}


def define(workload: Workload, generation: Path) -> list[Any]:
    """Entities, views and service of a workload over the batch sources of a generation, to be applied.

    Raises ConfigError when two views have a field of one name, which Feast refuses in a service.
    """
    require_distinct_fields(workload)
    asked = {view.entity: workload.entity(view.entity) for view in workload.features.VIEWS}
    entities = {
        name: Entity(name=name, join_keys=[entity.key], value_type=ValueType.STRING) for name, entity in asked.items()
    }
    views = [feature_view(view, entities[view.entity], generation) for view in workload.features.VIEWS]
    service = FeatureService(name=workload.features.FEATURE_SERVICE, features=list(views))
    return [*entities.values(), *views, service]


def feature_view(view: View, entity: Entity, generation: Path) -> FeatureView:
    """States of one kind; those of recent events are pushed, the others come with each refresh."""
    source = batch_source(view, generation)
    return FeatureView(
        name=view.name,
        entities=[entity],
        ttl=None,
        schema=[Field(name=name, dtype=feast_type(name, kind)) for name, kind in view.fields.items()],
        source=PushSource(name=f"{view.name}_push", batch_source=source) if view.recent else source,
    )


def batch_source(view: View, generation: Path) -> FileSource:
    """The Parquet of a view; absolute, since the DuckDB store resolves paths against the working directory."""
    path = generation.resolve() / "sources" / f"{view.name}.parquet"
    return FileSource(name=view.name, path=str(path), file_format=ParquetFormat(), timestamp_field="event_timestamp")


def feast_type(name: str, kind: pa.DataType) -> Any:
    """Feast's type of a field; raises ConfigError for one that a state cannot have."""
    listed = pa.types.is_list(kind)
    value = kind.value_type if listed else kind
    if value not in TYPES:
        wanted = ", ".join(map(str, TYPES))
        raise ConfigError(f"field {name!r} of a view is {kind}; wanted {wanted}, or a list of those")
    return Array(TYPES[value]) if listed else TYPES[value]


def require_distinct_fields(workload: Workload) -> None:
    """Raise ConfigError for a field that two views have: an answer of the store names fields, not views."""
    owner: dict[str, str] = {}
    for view in workload.features.VIEWS:
        for name in view.fields:
            if name in owner:
                raise ConfigError(
                    f"views {owner[name]!r} and {view.name!r} of workload {workload.name!r} have a field {name!r}; "
                    "Feast wants different names within a service. Put the entity's name before it."
                )
            owner[name] = view.name


# `feast apply` registers what it finds in the module.
_GENERATION: Final = Path(os.environ.get("MILLRACE_GENERATION", "."))
globals().update({thing.name: thing for thing in define(load(settings().workload), _GENERATION)})
