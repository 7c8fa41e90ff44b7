"""The stream of a cluster: Redis Streams in the online store's Redis, which keeps an append-only file.

A topic is a stream of Redis, a group its consumer group. What a group set aside is a stream of its own. Redis writes
its file before it answers and syncs it every second (`appendfsync everysec`).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import redis

from millrace.errors import ConfigError, Unavailable
from millrace.events.stream import CLAIM_AFTER_S, TOPICS, Entry, Group, Keep, Lag, Refused

TIMEOUT_S: Final = 3.0
CLAIM_EVERY_S: Final = 5.0
TRIM_EVERY_S: Final = 1.0
TRIM_ROWS: Final = 5000
PREFIX: Final = "millrace:stream:"


class RedisStream:
    """A `Stream` in the Redis at `url`; one for each process, safe to call from several threads."""

    def __init__(self, url: str, keep: Keep) -> None:
        self._keep = keep
        self._begun: dict[tuple[Group, str], str] = {}
        self._claimed: dict[tuple[Group, str], float] = {}
        self._trimmed: dict[str, float] = {}
        try:
            self._redis: Any = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        except ValueError as error:
            raise ConfigError(f"MILLRACE_STREAM_URL: {error}; wanted redis://[:password@]host:port/0") from error
        address = self._redis.connection_pool.connection_kwargs
        self._where = f"{address.get('host')}:{address.get('port')}"

    def append(self, topic: str, events: Sequence[bytes], ids: Sequence[str], addressee: str = "") -> None:
        """As `Stream` says; `addressee` is the one group that the events are for."""
        with self._ours(), self._redis.pipeline(transaction=True) as together:
            for id_, body in zip(ids, events, strict=True):
                together.xadd(_key(topic), {"id": id_, "addressee": addressee, "body": body})
            together.execute()

    def read(self, group: Group, consumer: str, limit: int, wait_s: float) -> list[Entry]:
        try:
            with self._ours():
                return self._mine(group, self._found(group, consumer, limit, wait_s))
        except Unavailable:
            self._begun.pop((group, consumer), None)  # Redis may have handed out what did not arrive here
            raise

    def acknowledge(self, group: Group, positions: Collection[str]) -> None:
        if not positions:
            return
        with self._ours():
            self._redis.xack(_key(group.topic), group.name, *positions)
            if time.monotonic() - self._trimmed.get(group.topic, -TRIM_EVERY_S) >= TRIM_EVERY_S:
                self._trimmed[group.topic] = time.monotonic()
                self._trim(group.topic)

    def set_aside(self, group: Group, entry: Entry, reason: str) -> None:
        about = {"id": entry.id, "reason": reason, "body": entry.body}
        with self._ours(), self._redis.pipeline(transaction=True) as together:
            together.xadd(_refused_key(group), about)
            together.xack(_key(group.topic), group.name, entry.position)
            together.execute()

    def refused(self, limit: int = 1000) -> list[Refused]:
        with self._ours():
            found = [refused for group in self.groups() for _, refused in self._set_aside(group, limit)]
        return sorted(found, key=lambda refused: refused.refused_at)[:limit]

    def send_again(self, ids: Collection[str] = ()) -> int:
        with self._ours():
            kept = [found for group in self.groups() for found in self._set_aside(group, None)]
            chosen = [found for found in kept if not ids or found[1].id in ids]
            for place, refused in chosen:
                values = {"id": refused.id, "addressee": refused.group.name, "body": refused.body}
                with self._redis.pipeline(transaction=True) as together:
                    together.xadd(_key(refused.group.topic), values)
                    together.xdel(_refused_key(refused.group), place)
                    together.execute()
        return len(chosen)

    def groups(self) -> list[Group]:
        with self._ours():
            return [Group(topic, _text(item["name"])) for topic in TOPICS for item in self._groups_of(topic)]

    def lag(self, group: Group) -> Lag:
        with self._ours():
            found = next((item for item in self._groups_of(group.topic) if _text(item["name"]) == group.name), None)
            refused = int(self._redis.xlen(_refused_key(group)))
            if found is None:
                new = int(self._redis.xlen(_key(group.topic)))
                return Lag(new, self._age_s(self._first_after(group.topic, "-")), refused)
            pending = self._redis.xpending(_key(group.topic), group.name)["min"]
            oldest = pending or self._first_after(group.topic, f"({_text(found['last-delivered-id'])}")
            return Lag(int(found["pending"]) + int(found.get("lag") or 0), self._age_s(oldest), refused)

    def forget(self, group: Group) -> None:
        with self._ours():
            self._redis.xgroup_destroy(_key(group.topic), group.name)
            self._redis.delete(_refused_key(group))

    def close(self) -> None:
        self._redis.close()

    def _found(self, group: Group, consumer: str, limit: int, wait_s: float) -> list[Any]:
        """What is next for this consumer; makes the group where there is none."""
        try:
            return self._next(group, consumer, limit, wait_s)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
        self._redis.xgroup_create(_key(group.topic), group.name, id="0", mkstream=True)
        return self._next(group, consumer, limit, wait_s)

    def _next(self, group: Group, consumer: str, limit: int, wait_s: float) -> list[Any]:
        """What this consumer had before, then what a dead one left, then what is new."""
        found = self._unfinished(group, consumer, limit) or self._abandoned(group, consumer, limit)
        return found or self._handed(group, consumer, ">", limit, min(wait_s, TIMEOUT_S / 2))

    def _unfinished(self, group: Group, consumer: str, limit: int) -> list[Any]:
        """What this consumer was handed before it came here and has not acknowledged."""
        begun = self._begun.get((group, consumer), "0")
        if not begun:
            return []
        found = self._handed(group, consumer, begun, limit)
        self._begun[group, consumer] = _text(found[-1][0]) if found else ""
        return found

    def _abandoned(self, group: Group, consumer: str, limit: int) -> list[Any]:
        """What other consumers were handed long ago and have not acknowledged."""
        now = time.monotonic()
        if now - self._claimed.get((group, consumer), -CLAIM_EVERY_S) < CLAIM_EVERY_S:
            return []
        self._claimed[group, consumer] = now
        idle_ms, key = int(CLAIM_AFTER_S * 1000), _key(group.topic)
        pending = self._redis.xpending_range(key, group.name, "-", "+", limit, idle=idle_ms)
        others = [item["message_id"] for item in pending if _text(item["consumer"]) != consumer]
        claimed: list[Any] = self._redis.xclaim(key, group.name, consumer, idle_ms, others) if others else []
        return claimed

    def _handed(self, group: Group, consumer: str, after: str, limit: int, wait_s: float = 0.0) -> list[Any]:
        block = max(1, int(wait_s * 1000)) if after == ">" and wait_s else None
        answer = self._redis.xreadgroup(group.name, consumer, {_key(group.topic): after}, limit, block=block)
        return list(answer[0][1]) if answer else []

    def _mine(self, group: Group, found: Sequence[Any]) -> list[Entry]:
        """The events that are for this group; the others are acknowledged at once."""
        entries, foreign = [], []
        for position, values in found:
            if values and values[b"addressee"] in (b"", group.name.encode()):
                entries.append(Entry(_text(position), _text(values[b"id"]), values[b"body"]))
            else:
                foreign.append(position)
        if foreign:
            self._redis.xack(_key(group.topic), group.name, *foreign)
        return entries

    def _trim(self, topic: str) -> None:
        """Delete the oldest events that are too many or too old, and that no group waits for."""
        key = _key(topic)
        too_old = f"{int((time.time() - self._keep.age_s) * 1000)}-0"
        bounds = [max(_order(too_old), self._too_many(key))]
        for item in self._groups_of(topic):
            pending = self._redis.xpending(key, item["name"])["min"]
            bounds.append(_order(_text(pending)) if pending else _after(_order(_text(item["last-delivered-id"]))))
        milliseconds, number = min(bounds)
        self._redis.xtrim(key, minid=f"{milliseconds}-{number}", approximate=True, limit=TRIM_ROWS)

    def _too_many(self, key: str) -> tuple[int, int]:
        """The id below which all events are more than are kept; about, in steps of TRIM_ROWS."""
        surplus = int(self._redis.xlen(key)) - self._keep.events
        if surplus <= 0:
            return 0, 0
        found = self._redis.xrange(key, count=min(surplus, TRIM_ROWS))
        return _after(_order(_text(found[-1][0]))) if found else (0, 0)

    def _set_aside(self, group: Group, limit: int | None) -> Iterator[tuple[bytes, Refused]]:
        for place, values in self._redis.xrange(_refused_key(group), count=limit):
            at = _order(_text(place))[0] / 1000
            yield place, Refused(group, _text(values[b"id"]), _text(values[b"reason"]), at, values[b"body"])

    def _groups_of(self, topic: str) -> list[Any]:
        try:
            found: list[Any] = self._redis.xinfo_groups(_key(topic))
        except redis.ResponseError as error:
            if "no such key" not in str(error):
                raise
            return []
        return found

    def _first_after(self, topic: str, start: str) -> Any:
        found = self._redis.xrange(_key(topic), min=start, count=1)
        return found[0][0] if found else None

    def _age_s(self, position: Any) -> float:
        return 0.0 if position is None else max(0.0, time.time() - _order(_text(position))[0] / 1000)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """Errors of Redis as Unavailable."""
        try:
            yield
        except redis.RedisError as error:
            raise Unavailable(
                f"the event stream in Redis at {self._where} cannot be used: {error}. "
                "Check that Redis is up and has memory and disk left."
            ) from error


def _key(topic: str) -> str:
    return f"{PREFIX}{topic}"


def _refused_key(group: Group) -> str:
    return f"{PREFIX}{group.topic}:{group.name}:refused"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _order(position: str) -> tuple[int, int]:
    """An id of Redis, `<milliseconds>-<number>`, as it sorts."""
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)


def _after(position: tuple[int, int]) -> tuple[int, int]:
    return position[0], position[1] + 1
