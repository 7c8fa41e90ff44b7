"""Rows of one feature view in Feast's online store, through Feast's provider.

What `get_online_features` and `push` do beneath their responses and data frames, which cost several times the store
itself for one row. Which view, how it is keyed and how a key is written is Feast's to say, so rows are the same
whichever way they came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np


class Rows:
    """The features `names` of a view that has one string key; `store` is a `feast.FeatureStore`, for one thread."""

    def __init__(self, store: Any, view: str, names: Sequence[str]) -> None:
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, Value

        self._provider, self._config = store.provider, store.config
        self._view = store.get_feature_view(view)
        (self._key,) = self._view.join_keys
        self._names = list(names)
        self._entity_key, self._value = EntityKey, Value
        self._int64_list, self._float_list = Int64List, FloatList

    def read(self, keys: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of one row per key; what is not known is None."""
        unique = list(dict.fromkeys(keys))
        wanted = list(self._names)  # Redis's store adds a name of its own to the list that it is given
        found = self._provider.online_read(self._config, self._view, [self._named(key) for key in unique], wanted)
        rows = {key: self._values(values or {}) for key, (_, values) in zip(unique, found, strict=True)}
        chosen = [rows[key] for key in keys]
        return {name: [row[place] for row in chosen] for place, name in enumerate(self._names)}

    def write(self, keys: Sequence[str], times: Sequence[datetime], columns: Mapping[str, Sequence[Any]]) -> None:
        """One row per key, dated; a column holds an array of whole numbers or of floats for each row."""
        arrays = (columns[name] for name in self._names)
        values = [dict(zip(self._names, map(self._list, row), strict=True)) for row in zip(*arrays, strict=True)]
        keyed = zip(keys, values, times, strict=True)
        rows = [(self._named(key), row, at, None) for key, row, at in keyed]
        self._provider.online_write_batch(self._config, self._view, rows, None)

    def _named(self, key: str) -> Any:
        return self._entity_key(join_keys=[self._key], entity_values=[self._value(string_val=key)])

    def _values(self, values: Mapping[str, Any]) -> list[Any]:
        return [_plain(values.get(name)) for name in self._names]

    def _list(self, values: np.ndarray[Any, np.dtype[Any]]) -> Any:
        if values.dtype.kind == "f":
            return self._value(float_list_val=self._float_list(val=values.tolist()))
        return self._value(int64_list_val=self._int64_list(val=values.tolist()))


def _plain(value: Any) -> Any:
    """What a protobuf value holds: a number, text, a list of numbers; None where it is empty."""
    kind = None if value is None else value.WhichOneof("val")
    if kind is None:
        return None
    held = getattr(value, kind)
    return list(held.val) if kind.endswith("_list_val") else held
