"""Rows of one feature view as Feast writes them: keys and values as bytes, and a view's row in its online store.

What `get_online_features` and `push` do beneath their responses and data frames, which cost several times the store
itself for one row. Which view, how it is keyed and how a key is written is Feast's to say, so rows are the same
whichever way they came.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.fields import View
from millrace.inputs import RecentEvents
from millrace.lookup import Response, columns_of, empty, recent_of
from serving.transformer.refreshed import Row

KEYS: Final = 20_000
"""Ids whose bytes are remembered: making them costs as much as reading a row."""
STATES: Final = 5_000
"""Rows whose states are remembered, about 30 MB: reading lists of numbers from protobuf costs more than the store."""


class Rows:
    """The rows of a view that has one string key; `store` is a `feast.FeatureStore`."""

    def __init__(self, store: Any, view: View) -> None:
        from feast.infra.key_encoding_utils import serialize_entity_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import DoubleList, FloatList, Int64List, Value

        self.view, self.names = view, list(view.fields)
        self.config = store.config
        self.feast_view = store.get_feature_view(view.name)
        (self._key,) = self.feast_view.join_keys
        self._provider = store.provider
        self._entity_key, self._value = EntityKey, Value
        self._lists = {"i8": ("int64_list_val", Int64List), "f4": ("float_list_val", FloatList)}
        self._lists["f8"] = ("double_list_val", DoubleList)
        self._serialized = serialize_entity_key
        self._dtypes = [values.dtype for values in empty(view).arrays()] if view.recent else []
        self.key_bytes = lru_cache(KEYS)(self._key_bytes)
        self._known: dict[str, tuple[tuple[bytes | None, ...], RecentEvents]] = {}
        self._turn = threading.Lock()

    def read(self, keys: Sequence[str]) -> Response:
        """Columns of one row per key, through Feast's provider; what is not known is None."""
        unique = list(dict.fromkeys(keys))
        found = self._provider.online_read(
            self.config, self.feast_view, [self._named(key) for key in unique], list(self.names)
        )
        rows = {
            key: [_plain((values or {}).get(name)) for name in self.names]
            for key, (_, values) in zip(unique, found, strict=True)
        }
        chosen = [rows[key] for key in keys]
        return {name: [row[place] for row in chosen] for place, name in enumerate(self.names)}

    def read_recent(self, keys: Sequence[str]) -> list[RecentEvents]:
        """The states of a recent view, through Feast's provider."""
        return recent_of(self.read(keys), self.view)

    def read_refreshed(self, keys: Sequence[str]) -> list[Row]:
        """The states of a refreshed view, through Feast's provider."""
        columns = self.read(keys)
        rows = zip(*(columns[name] for name in self.names), strict=True)
        return [None if row[0] is None else _integers(row) for row in rows]

    def write_recent(self, states: Mapping[str, RecentEvents]) -> dict[str, tuple[bytes | None, ...]]:
        """Put states of a recent view in place of what is there, through Feast's provider; the bytes of each row."""
        times, values = self.encoded(states)
        keyed = zip(states, values, times, strict=True)
        rows = [(self._named(key), row, at, None) for key, row, at in keyed]
        self._provider.online_write_batch(self.config, self.feast_view, rows, None)
        return {
            key: tuple(value.SerializeToString() for value in row.values())
            for key, row in zip(states, values, strict=True)
        }

    def encoded(self, states: Mapping[str, RecentEvents]) -> tuple[list[datetime], list[dict[str, Any]]]:
        """Of each state its time and its fields as Feast's values."""
        columns = columns_of(states, self.view, self._key)
        arrays = (columns[name] for name in self.names)
        values = [dict(zip(self.names, map(self._list, row), strict=True)) for row in zip(*arrays, strict=True)]
        return columns["event_timestamp"], values

    def state(self, key: str, values: tuple[bytes | None, ...]) -> RecentEvents:
        """The state of an entity from the bytes of its row, as they are now; the same bytes are not read twice."""
        if values[0] is None:
            return empty(self.view)
        known = self._known.get(key)
        if known is not None and known[0] == values:
            return known[1]

        columns = [self._array(data, dtype) for data, dtype in zip(values, self._dtypes, strict=True)]
        state = RecentEvents(columns[0], columns[1], tuple(columns[2:]))
        self.remember(key, values, state)
        return state

    def remember(self, key: str, values: tuple[bytes | None, ...], state: RecentEvents) -> None:
        """The bytes that a state has in the store; the ones that came first leave first."""
        with self._turn:
            self._known.pop(key, None)
            self._known[key] = values, state
            while len(self._known) > STATES:
                del self._known[next(iter(self._known))]

    def integers(self, values: Sequence[bytes | None]) -> Row:
        """The state of a refreshed view from the bytes of its fields."""
        if values[0] is None:
            return None
        return _integers([_plain(self._value.FromString(data or b"")) for data in values[: len(self.names)]])

    def _array(self, data: bytes | None, dtype: Any) -> NDArray[Any]:
        value = self._value.FromString(data or b"")
        return np.array(getattr(value, self._lists[dtype.str[1:]][0]).val, dtype)

    def _key_bytes(self, key: str) -> bytes:
        """An id as Feast writes it."""
        version = self.config.entity_key_serialization_version
        made: bytes = self._serialized(self._named(key), entity_key_serialization_version=version)
        return made

    def _named(self, key: str) -> Any:
        return self._entity_key(join_keys=[self._key], entity_values=[self._value(string_val=key)])

    def _list(self, values: NDArray[Any]) -> Any:
        name, kind = self._lists[values.dtype.str[1:]]
        return self._value(**{name: kind(val=values.tolist())})


def _integers(values: Sequence[Any]) -> NDArray[np.int64]:
    return np.array([value or 0 for value in values], np.int64)


def _plain(value: Any) -> Any:
    """What a protobuf value holds: a number, text, a list of numbers; None where it is empty."""
    kind = None if value is None else value.WhichOneof("val")
    if kind is None:
        return None
    held = getattr(value, kind)
    return list(held.val) if kind.endswith("_list_val") else held
