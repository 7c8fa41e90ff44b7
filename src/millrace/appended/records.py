"""Appended events as bytes, one record each, and the state that they and Feast's row make. No I/O.

A record begins with 16 bytes that sort as (event time, event id) do, so that a store which knows nothing of views
keeps records in order. The values that the view remembers follow, and when it was appended. All of it is big-endian.

Records belong to the entity; every generation of Feast's rows takes what it has not been filled with
(`Records.since`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.fields import View
from millrace.inputs import RecentEvents, recent
from millrace.lake.feast_home import Fill
from millrace.lookup import empty

SLACK: Final = 32
"""States keep this many events beyond N, so that one scored again still finds the N before it."""
ORDER: Final = slice(0, 16)
"""Of a record: what it is sorted by."""
ID: Final = slice(8, 16)
_SIGN: Final = 1 << 63
_FLIP: Final = np.int64(-_SIGN)
_FORMATS: Final[Mapping[str, str]] = {"i8": "q", "i4": "i", "f8": "d", "f4": "f"}


@dataclass(frozen=True, slots=True)
class Entry:
    """What the recent view remembers of one event."""

    event_id: int
    key: str
    """Of the view's entity; a pseudonym where that is pseudonymised."""
    event_us: int
    values: tuple[float, ...]
    """What else the view keeps, in the order of its fields."""


class Records:
    """The records of one recent view; an entity keeps its newest `capacity`."""

    def __init__(self, view: View, history_length: int) -> None:
        self.view = view
        self.capacity = history_length + SLACK
        kinds = [column.dtype for column in empty(view).values]
        names = list(view.fields)[2:]
        self._whole = tuple(dtype.kind == "i" for dtype in kinds)
        self._native = kinds
        values_format = "".join(_FORMATS[dtype.str[1:]] for dtype in kinds)
        self._packer = struct.Struct(f">QQ{values_format}q")
        values = [(name, dtype.newbyteorder(">")) for name, dtype in zip(names, kinds, strict=True)]
        self._dtype = np.dtype([("us", ">i8"), ("id", ">i8"), *values, ("appended", ">i8")])
        self.width = self._packer.size
        self.name = self._place(self._packer.format)
        """Of a place in the store for records of this form; a view with other fields has another place."""
        self.former_name = self._place(f">QQ{values_format}")
        """Of the place that they had in an older release, without the time at which they were appended."""

    def of(self, entry: Entry, now_us: int) -> bytes:
        """The record of an entry that is appended now."""
        pairs = zip(entry.values, self._whole, strict=True)
        values = [int(value) if whole else value for value, whole in pairs]
        return self._packer.pack(entry.event_us + _SIGN, entry.event_id + _SIGN, *values, now_us)

    def by_key(self, entries: Iterable[Entry], now_us: int) -> dict[str, list[bytes]]:
        """Entity → records of its entries, in their order."""
        found: dict[str, list[bytes]] = {}
        for entry in entries:
            found.setdefault(entry.key, []).append(self.of(entry, now_us))
        return found

    def inserted(self, held: bytes, record: bytes) -> bytes:
        """Records in order with one more in its place, cut to the newest; `held` itself where that changes nothing."""
        if record[ID] in self._ids(held):
            return held

        at = len(held)
        while at and held[at - self.width : at - self.width + 16] > record[ORDER]:
            at -= self.width
        return (held[:at] + record + held[at:])[-self.capacity * self.width :]

    def since(self, held: bytes, fill: Fill) -> bytes:
        """The records that rows which were filled so lack: of later events, and those appended afterwards."""
        if not held:
            return held
        rows = np.frombuffer(held, self._dtype)
        lacking = (_signed(rows["us"]) >= fill.as_of_us) | (rows["appended"] >= fill.filled_us)
        if lacking.all():
            return held
        return rows[lacking].tobytes()

    def of_former(self, held: bytes, now_us: int) -> bytes:
        """Records of an older release, as if they had been appended now."""
        width = self.width - 8
        appended = struct.pack(">q", now_us)
        return b"".join(held[at : at + width] + appended for at in range(0, len(held), width))

    def state(self, held: bytes) -> RecentEvents:
        """Records in order → the state that they make alone."""
        if not held:
            return empty(self.view)
        rows = np.frombuffer(held, self._dtype)
        names = zip(self._dtype.names[2:-1], self._native, strict=True)  # type: ignore[index]
        return recent(_signed(rows["id"]), _signed(rows["us"]), *(rows[name].astype(dtype) for name, dtype in names))

    def served(self, row: RecentEvents, held: bytes, fill: Fill) -> RecentEvents:
        """The state of an entity: Feast's row, of a generation that was filled so, with what was appended since."""
        since = self.since(held, fill)
        return merged(row, self.state(since), self.capacity) if since else row

    def _place(self, form: str) -> str:
        return f"{self.view.name}_{sha256(repr((list(self.view.fields), form)).encode()).hexdigest()[:8]}"

    def _ids(self, held: bytes) -> set[bytes]:
        return {held[at + 8 : at + 16] for at in range(0, len(held), self.width)}


def merged(row: RecentEvents, appended: RecentEvents, capacity: int) -> RecentEvents:
    """The newest `capacity` events of both, each once; of two with one id the one in `row` stays."""
    count = len(appended)
    if not count:
        return row
    if not len(row):
        return appended.newest(capacity)
    if row.event_ids[-count:].tobytes() == appended.event_ids.tobytes():  # nearly always: it was pushed
        return row

    if row.event_us[-1] >= appended.event_us[0]:
        new = ~(appended.event_ids[:, None] == row.event_ids).any(axis=1)
        appended = appended.map(lambda values: values[new])
    both = [np.concatenate(pair) for pair in zip(row.arrays(), appended.arrays(), strict=True)]
    if len(appended) and row.event_us[-1] >= appended.event_us[0]:
        order = np.lexsort((both[0], both[1]))
        both = [values[order] for values in both]
    return recent(*(values[-capacity:] for values in both))


def _signed(values: NDArray[Any]) -> NDArray[np.int64]:
    return values.astype(np.int64) ^ _FLIP
