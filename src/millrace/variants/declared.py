"""Parts of a variant that say names alone: schema, features, exchange and watch of the base, with more in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pyarrow as pa

from millrace.extended import Extended
from millrace.fields import Kept, Kind, events_of
from millrace.variants.own import Own
from millrace.workload import Exchange, Features, Schema, Watch


def schema(own: Own, columns: Mapping[str, str]) -> Schema:
    """`columns`: own field → what sources call it."""
    base = own.base.schema
    label = next(place for place, field in enumerate(base.FIELDS) if field.name == base.LABEL.column)
    fields = (*base.FIELDS[:label], *own.fields, *base.FIELDS[label:])
    aliases = {**base.ALIASES, **{raw: name for name, raw in columns.items()}}
    return cast(Schema, Extended(base, FIELDS=fields, EVENTS=events_of(fields), ALIASES=aliases))


def features(own: Own, service: str) -> Features:
    base = own.base.features
    recent = own.recent_view
    views = tuple(recent if view.recent and recent is not None else view for view in base.VIEWS)
    names = (*base.FEATURE_NAMES, *own.names)
    return cast(Features, Extended(base, FEATURE_SERVICE=service, FEATURE_NAMES=names, VIEWS=(*views, *own.views)))


def exchange(own: Own) -> Exchange:
    base = own.base.exchange
    return cast(Exchange, Extended(base, ASKED=(*base.ASKED, *(field.name for field in own.fields))))


def watch(own: Own) -> Watch:
    base = own.base.watch
    texts = (Kind.KEY, Kind.INSTANT)
    fields = {one.name: Kept(pa.string() if one.kind in texts else pa.float64()) for one in own.fields}
    return cast(
        Watch,
        Extended(
            base,
            FIELDS={**base.FIELDS, **fields},
            PER_REQUEST=(*base.PER_REQUEST, *(name for one in own.columns for name in one.features)),
            AGGREGATE=(*base.AGGREGATE, *(name for one in own.aggregates for name in one.features)),
        ),
    )
