"""The cluster's online store: a generation of Feast's rows in Redis, and what was appended beside all generations.

A lookup is one round trip for all views: what the generation was filled with, Feast's fields of each entity, and its
appended events. One replica pushes at a time, by a lease; a push that was overtaken, or whose row a fill has written
meanwhile, is refused by Redis itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from millrace.appended.records import Entry, Records
from millrace.appended.redis import RedisEvents, ask_fill, fill_from
from millrace.errors import ConfigError, Unavailable
from millrace.fields import View
from millrace.inputs import RecentEvents, States
from millrace.lake.feast_home import Fill
from serving.transformer.refreshed import Keys, Row, states_from
from serving.transformer.rows import Rows

BATCH_KEYS: Final = 32
"""Entities of a push."""


class NetworkedStore:
    """The views of one generation in one Redis; threads may share it."""

    embedded = False

    def __init__(
        self, feast: Any, workload: str, generation: str, views: Sequence[View], records: Records | None
    ) -> None:
        """`feast` is a `feast.FeatureStore` of the generation's project.

        Raises ConfigError for a Redis cluster of several servers.
        """
        options = feast.config.online_store
        if records is not None and str(options.redis_type) == "redis_cluster":
            raise ConfigError(
                "redis_type of the online store is redis_cluster; wanted redis or redis_sentinel: a row and what is "
                "appended to it must lie in one server"
            )
        self._client = feast.provider.online_store._get_client(options)
        self._views = {view.name: _View(Rows(feast, view)) for view in views}
        self._recent = None if records is None else self._views[records.view.name]
        self._records = records
        self.place = "" if records is None else records.name
        self._project = feast.config.project
        self._events = None
        if records is not None:
            self._events = RedisEvents(self._client, workload, generation, records)

    def read(self, keys: Keys) -> States:
        """One row per event; unknown entities have states of nothing. Raises Unavailable for one never filled."""
        with self._client.pipeline(transaction=False) as pipe:
            ask_fill(pipe, self._project)  # before the rows: those of a later fill have more than it says, not less
            asked = list(self._ask(pipe, keys))
            answers = iter(pipe.execute())
        fill = _filled(next(answers))
        recent: dict[str, list[RecentEvents]] = {}
        refreshed: dict[View, list[Row]] = {}
        for view, unique in asked:
            if view is self._recent:
                states = self._states(view, unique, answers, fill)
                recent[view.view.name] = [states[key] for key in keys[view.view.entity]]
            else:
                rows = {key: view.rows.integers(next(answers)) for key in unique}
                refreshed[view.view] = [rows[key] for key in keys[view.view.entity]]
        return states_from(recent, refreshed)

    def read_recent(self, keys: Sequence[str]) -> list[RecentEvents]:
        view, _ = self._of_recent()
        unique = list(dict.fromkeys(keys))
        with self._client.pipeline(transaction=False) as pipe:
            ask_fill(pipe, self._project)
            self._ask_view(pipe, view, unique)
            found, *answers = pipe.execute()
        states = self._states(view, unique, iter(answers), _filled(found))
        return [states[key] for key in keys]

    def read_refreshed(self, view: View, keys: Sequence[str]) -> list[Row]:
        return self._views[view.name].rows.read_refreshed(keys)

    def contents(self) -> str | None:
        """None: Redis does not say what it was filled from."""
        return None

    def append(self, entries: Sequence[Entry]) -> None:
        """Raises Unavailable when Redis does not take them, and then the answer must not go out."""
        from redis.exceptions import RedisError

        _, events = self._of_recent()
        try:
            events.append(entries)
        except RedisError as error:
            raise Unavailable(f"events cannot be appended to the online store: {error}") from error

    def push(self) -> int:
        """Give Feast's rows some of the events that they lack; how many entities got any. 0 while another pushes."""
        view, events = self._of_recent()
        if not events.leads():
            return 0
        unpushed = events.unpushed(BATCH_KEYS)
        if not unpushed:
            return 0

        keys = [key for key, _ in unpushed]
        with self._client.pipeline(transaction=False) as pipe:
            ask_fill(pipe, self._project)
            self._ask_view(pipe, view, keys)
            found, *answers = pipe.execute()
        fill = _filled(found)
        times = [row[-1] or b"" for row in answers[1::2]]
        states = self._states(view, keys, iter(answers), fill)
        rows = [
            (key, number, view.row_key(key), view.time_field, time)
            for (key, number), time in zip(unpushed, times, strict=True)
        ]
        fields = [view.fields_of(*pair) for pair in zip(*view.rows.encoded(states), strict=True)]
        lacking = [events.records.since(b"".join(held), fill) for held in answers[::2]]
        return events.push(rows, [values if lack else {} for values, lack in zip(fields, lacking, strict=True)])

    def unpushed(self) -> int:
        """Entities whose row in Feast lacks events."""
        return self._of_recent()[1].unpushed_count()

    def sync(self) -> None:
        """Redis brings its file to the disk by itself."""

    def _of_recent(self) -> tuple[_View, RedisEvents]:
        if self._recent is None or self._events is None:
            raise LookupError("this workload has no recent view: nothing is appended")
        return self._recent, self._events

    def _ask(self, pipe: Any, keys: Keys) -> Iterator[tuple[_View, list[str]]]:
        for view in self._views.values():
            unique = list(dict.fromkeys(keys[view.view.entity]))
            self._ask_view(pipe, view, unique)
            yield view, unique

    def _ask_view(self, pipe: Any, view: _View, keys: Sequence[str]) -> None:
        for key in keys:
            if view is self._recent and self._events is not None:
                self._events.ask(pipe, key)  # before the row: what is pushed in between is in both
            pipe.hmget(view.row_key(key), view.fields)

    def _states(self, view: _View, keys: Sequence[str], answers: Iterator[Any], fill: Fill) -> dict[str, RecentEvents]:
        """The served states, from answers to `_ask_view` of the recent view."""
        assert self._records is not None
        states = {}
        for key in keys:
            appended = b"".join(next(answers))
            *values, _ = next(answers)
            states[key] = self._records.served(view.rows.state(key, tuple(values)), appended, fill)
        return states


def _filled(answer: Mapping[bytes, bytes]) -> Fill:
    fill = fill_from(answer)
    if fill is None:
        raise Unavailable("this generation of state was never filled, or was dropped. Fill it: components.materialize")
    return fill


class _View:
    """Where Feast keeps a view's rows in Redis."""

    def __init__(self, rows: Rows) -> None:
        from feast.infra.online_stores.helpers import _mmh3, compute_versioned_name
        from google.protobuf.timestamp_pb2 import Timestamp

        config = rows.config
        name = compute_versioned_name(rows.feast_view, config.registry.enable_online_feature_view_versioning)
        self.rows, self.view = rows, rows.view
        self._project = config.project.encode()
        self._timestamp = Timestamp
        self.time_field = f"_ts:{name}"
        self._field_of = {field: _mmh3(f"{name}:{field}") for field in rows.names}
        self.fields = [*self._field_of.values(), self.time_field]
        """As they are asked for: the view's, and the row's time at the end."""

    def row_key(self, key: str) -> bytes:
        made: bytes = self.rows.key_bytes(key) + self._project
        return made

    def fields_of(self, time: datetime, values: Mapping[str, Any]) -> dict[Any, bytes]:
        """What Feast would write."""
        stamp = self._timestamp()
        stamp.FromDatetime(time)
        encoded = {self._field_of[name]: value.SerializeToString() for name, value in values.items()}
        return {self.time_field: stamp.SerializeToString(), **encoded}
