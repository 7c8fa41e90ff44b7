"""Appended events in Redis: a sorted set for each entity, changed by scripts that no other command comes between.

All members have score 0, so that Redis keeps them in the order of their bytes: time, then id. Entities lie in a sorted
set by the number of their last change; of each generation of Feast's rows it is known up to which change its rows have
been given what was appended. Keys of the append and of the push lie in one server: a Redis cluster of several is
refused by who opens the store.

What a generation was filled with lies in a hash of its own (`record_fill`), since Feast does not say.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from millrace.appended.records import Entry, Records
from millrace.lake.feast_home import Fill

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
"""KEYS: events, changes, sequence. ARGV: capacity, entity, records."""

_PUSH: Final = """
local number = tonumber(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or '-1') >= number then return 2 end
if (redis.call('HGET', KEYS[1], ARGV[3]) or '') ~= ARGV[4] then return 0 end
local fields = {KEYS[1], ARGV[2], ARGV[1]}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', unpack(fields))
return 1
"""
"""KEYS: Feast's row. ARGV: number of the change, field of the number in the row, field of its time, the time that was
read, fields and values. 0: a fill has written the row since, and it is left alone; 2: so is a newer push's."""

_REACH: Final = """
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
return 1
"""

_LEASE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class RedisEvents:
    """The events of one view of a workload; `client` is a `redis.Redis`, which threads may share.

    `generation` is that of the rows which this object pushes into.
    """

    def __init__(self, client: Any, workload: str, generation: str, records: Records) -> None:
        self.records, self.client = records, client
        place = f"millrace:{workload}:{records.name}"
        self._place, self._changes, self._sequence = place, f"{place}/changes", f"{place}/sequence"
        self._reached, self._lease = f"{place}/pushed:{generation}", f"{place}/pusher:{generation}"
        self._token = secrets.token_hex(8)
        self.number_field = f"_millrace:{records.name}"
        """Field of Feast's row: the number of the change that was pushed last. Feast reads the fields that it names."""
        self._append_script = client.register_script(_APPEND)
        self._push_script = client.register_script(_PUSH)
        self._reach_script = client.register_script(_REACH)
        self._lease_script = client.register_script(_LEASE)

    def append(self, entries: Sequence[Entry]) -> None:
        """Each entity's at once; an event that is there already changes nothing. Raises redis.RedisError."""
        by_key = self.records.by_key(entries, time.time_ns() // 1000)
        with self.client.pipeline(transaction=False) as pipe:
            for key, added in by_key.items():
                keys = [self.place_of(key), self._changes, self._sequence]
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
        after = f"({self._reached_now()}"
        found = self.client.zrangebyscore(self._changes, after, "+inf", start=0, num=count, withscores=True)
        return [(key.decode(), int(number)) for key, number in found]

    def unpushed_count(self) -> int:
        return int(self.client.zcount(self._changes, f"({self._reached_now()}", "+inf"))

    def push(self, rows: Sequence[tuple[str, int, bytes, str, bytes]], fields: Sequence[Mapping[Any, bytes]]) -> int:
        """Write Feast's rows where nobody wrote a newer one; returns how many were written.

        Of each, in the order of `unpushed`: entity, number of its change, Redis's key of the row, field of the row's
        time, and the time it had. Where the row lacks nothing its fields are empty. Rows behind one that a fill has
        written meanwhile are asked for again.
        """
        with self.client.pipeline(transaction=False) as pipe:
            for (_, number, row, time_field, time_read), values in zip(rows, fields, strict=True):
                flat = [part for pair in values.items() for part in pair]
                if flat:
                    self._push_script([row], [number, self.number_field, time_field, time_read, *flat], client=pipe)
                else:
                    pipe.exists(self._sequence)  # an answer in its place
            outcomes = [int(bool(values)) and int(found) for found, values in zip(pipe.execute(), fields, strict=True)]
        self._reach(rows, fields, outcomes)
        return outcomes.count(1)

    def leads(self) -> bool:
        """Whether this object may push now; for LEASE_MS nobody else may then."""
        return bool(self._lease_script([self._lease], [self._token, LEASE_MS]))

    def _reached_now(self) -> int:
        return int(self.client.get(self._reached) or 0)

    def _reach(
        self, rows: Sequence[tuple[str, int, bytes, str, bytes]], fields: Sequence[Any], outcomes: Sequence[int]
    ) -> None:
        """Note how far this generation's rows have come: up to the first that was left alone for a fill."""
        reached = 0
        for row, values, outcome in zip(rows, fields, outcomes, strict=True):
            if values and not outcome:
                break
            reached = row[1]
        if reached:
            self._reach_script([self._reached], [reached])


def record_fill(client: Any, project: str, fill: Fill) -> None:
    """Note what a generation, which is a project of Feast's, holds now."""
    client.hset(_fill_key(project), mapping={"id": fill.id, "as_of_us": fill.as_of_us, "filled_us": fill.filled_us})


def read_fill(client: Any, project: str) -> Fill | None:
    """What a generation was filled with; None when it never was."""
    return fill_from(client.hgetall(_fill_key(project)))


def ask_fill(pipe: Any, project: str) -> None:
    """Put the question into a pipeline; `fill_from` reads the answer."""
    pipe.hgetall(_fill_key(project))


def fill_from(answer: Mapping[bytes, bytes]) -> Fill | None:
    if not answer:
        return None
    return Fill(answer[b"id"].decode(), as_of_us=int(answer[b"as_of_us"]), filled_us=int(answer[b"filled_us"]))


def forget_fill(client: Any, project: str) -> None:
    """From now on the generation was never filled."""
    client.delete(_fill_key(project))


def _fill_key(project: str) -> str:
    return f"millrace:{project}/fill"
