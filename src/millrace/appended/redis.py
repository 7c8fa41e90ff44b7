"""Appended events in Redis: a sorted set for each entity, changed by scripts that no other command comes between.

All members have score 0, so that Redis keeps them in the order of their bytes: time, then id. What Feast's rows lack
is a sorted set of entities by the number of their last change. Keys of the append and of the push lie in one server:
a Redis cluster of several is refused by who opens the store.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from millrace.appended.records import Entry, Records

LEASE_MS: Final = 10_000
"""A replica that pushes has told so within this time; past it another one goes on."""

_APPEND: Final = """
local known = {}
for _, record in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do known[string.sub(record, 9, 16)] = true end
local added = 0
for i = 3, #ARGV do
  local id = string.sub(ARGV[i], 9, 16)
  if not known[id] then
    known[id] = true
    added = added + redis.call('ZADD', KEYS[1], 0, ARGV[i])
  end
end
if added > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[1]))
  redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[2])
end
return added
"""
"""KEYS: events, unpushed, sequence. ARGV: capacity, entity, records."""

_PUSH: Final = """
local number = tonumber(ARGV[2])
local pushed = tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or '-1')
local written = 0
if pushed < number then
  if (redis.call('HGET', KEYS[1], ARGV[4]) or '') ~= ARGV[5] then return 0 end
  local fields = {KEYS[1], ARGV[3], ARGV[2]}
  for i = 6, #ARGV do fields[#fields + 1] = ARGV[i] end
  redis.call('HSET', unpack(fields))
  written = 1
end
if tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '-1') == number then redis.call('ZREM', KEYS[2], ARGV[1]) end
return written
"""
"""KEYS: Feast's row, unpushed. ARGV: entity, number of the change, field of the number in the row, field of its time,
the time that was read, fields and values. A row that a fill has written since is left alone; so is a newer push's."""

_LEASE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class RedisEvents:
    """The events of one view of a project; `client` is a `redis.Redis`, which threads may share."""

    def __init__(self, client: Any, project: str, records: Records) -> None:
        self.records, self.client = records, client
        place = f"millrace:{project}:{records.name}"
        self._place, self._unpushed, self._sequence = place, f"{place}/unpushed", f"{place}/sequence"
        self._lease, self._token = f"{place}/pusher", secrets.token_hex(8)
        self.number_field = f"_millrace:{records.name}"
        """Field of Feast's row: the number of the change that was pushed last. Feast reads the fields that it names."""
        self._append_script = client.register_script(_APPEND)
        self._push_script = client.register_script(_PUSH)
        self._lease_script = client.register_script(_LEASE)

    def append(self, entries: Sequence[Entry]) -> None:
        """Each entity's at once; an event that is there already changes nothing. Raises redis.RedisError."""
        by_key = self.records.by_key(entries)
        with self.client.pipeline(transaction=False) as pipe:
            for key, added in by_key.items():
                keys = [self.place_of(key), self._unpushed, self._sequence]
                self._append_script(keys, [self.records.capacity, key, *added], client=pipe)
            pipe.execute()

    def place_of(self, key: str) -> str:
        """Redis's key of an entity's records."""
        return f"{self._place}:{key}"

    def held(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Entity → its records; without those that have none."""
        with self.client.pipeline(transaction=False) as pipe:
            for key in keys:
                self.ask(pipe, key)
            found = pipe.execute()
        return {key: b"".join(records) for key, records in zip(keys, found, strict=True) if records}

    def ask(self, pipe: Any, key: str) -> None:
        """Put the question for an entity's records, in order, into a pipeline."""
        pipe.zrange(self.place_of(key), 0, -1)

    def unpushed(self, count: int) -> list[tuple[str, int]]:
        """Up to so many entities whose row in Feast lacks events, the oldest change first, and the number of it."""
        found = self.client.zrange(self._unpushed, 0, count - 1, withscores=True)
        return [(key.decode(), int(number)) for key, number in found]

    def unpushed_count(self) -> int:
        return int(self.client.zcard(self._unpushed))

    def push(self, rows: Sequence[tuple[str, int, bytes, str, bytes]], fields: Sequence[Mapping[Any, bytes]]) -> int:
        """Write Feast's rows where nobody wrote a newer one; returns how many were written.

        Of each: entity, number of its change, Redis's key of the row, field of the row's time, and the time it had.
        """
        with self.client.pipeline(transaction=False) as pipe:
            for (key, number, row, time_field, time), values in zip(rows, fields, strict=True):
                flat = [part for pair in values.items() for part in pair]
                arguments = [key, number, self.number_field, time_field, time, *flat]
                self._push_script([row, self._unpushed], arguments, client=pipe)
            return sum(pipe.execute())

    def leads(self) -> bool:
        """Whether this object may push now; for LEASE_MS nobody else may then."""
        return bool(self._lease_script([self._lease], [self._token, LEASE_MS]))
