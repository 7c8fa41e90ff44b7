"""The durable stream of events: appended before whatever they tell is acknowledged, read by groups, replayed at will.

A topic is a sequence of events; a group reads a topic at its own pace and says which events it has taken. `append`
returns when a killed process can no longer lose the events; a power cut or a lost node loses at most the last second.
An event may be handed out twice (its consumer died before it acknowledged): consumers know an event by its id.

`sqlite_stream.py` is the stream of a home, `redis_stream.py` that of a cluster. `appender.py` gathers concurrent
appends.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from millrace.errors import ConfigError
from millrace.observe.progress import log
from millrace.settings import Settings

PREDICTIONS: Final = "predictions"
"""Topic of scored events: `millrace.events.prediction`, and what KServe's logger says of them."""
LABELS: Final = "labels"
ALARMS: Final = "alarms"
TOPICS: Final = (PREDICTIONS, LABELS, ALARMS)

CLAIM_AFTER_S: Final = 60.0
"""What a consumer has not acknowledged for so long is handed to another one of its group."""


class Group(NamedTuple):
    """Consumers that share the events of a topic: each event is one consumer's."""

    topic: str
    name: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as it was appended, and its place in the topic."""

    position: str
    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that a group could not take: set aside with its reason."""

    group: Group
    id: str
    reason: str
    refused_at: float
    """Seconds since 1970."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Lag:
    """What a group has not acknowledged: how many events, the age of the oldest in seconds, how many are set aside."""

    events: int
    oldest_s: float
    refused: int


class Stream(Protocol):
    """What both streams do. Every method raises Unavailable when the store is away or its disk refuses."""

    def append(self, topic: str, events: Sequence[bytes], ids: Sequence[str]) -> None:
        """Add events, all or none; durable when this returns."""

    def read(self, group: Group, consumer: str, limit: int, wait_s: float) -> list[Entry]:
        """At most `limit` events, oldest first; waits `wait_s` at most for the first.

        The first calls of a consumer hand out again what it had not acknowledged when it was last here, and so do the
        calls after one that failed. A new group begins with the oldest event that is kept.
        """

    def acknowledge(self, group: Group, positions: Collection[str]) -> None:
        """Say that the group has taken these events."""

    def set_aside(self, group: Group, entry: Entry, reason: str) -> None:
        """Acknowledge an event that the group cannot take, and keep it with the reason."""

    def refused(self, limit: int = 1000) -> list[Refused]:
        """What was set aside, the oldest first, of all groups."""

    def send_again(self, ids: Collection[str] = ()) -> int:
        """Hand what was set aside (all of it, or these events) to its group again; how many were."""

    def groups(self) -> list[Group]:
        """Every group that has read."""

    def lag(self, group: Group) -> Lag:
        """How far a group is behind."""

    def forget(self, group: Group) -> None:
        """Remove a group that reads no more: events are kept until every group has taken them."""

    def close(self) -> None:
        """Release files and connections; what was appended stays."""


def refuse(stream: Stream, group: Group, entry: Entry, reason: str) -> None:
    """Set aside an event that the group cannot take, and say so; raises Unavailable as the stream does."""
    stream.set_aside(group, entry, reason)
    log("event_refused", id=entry.id, topic=group.topic, reason=reason)


def open_stream(settings: Settings) -> Stream:
    """The stream of this home or cluster; raises ConfigError for a URL that cannot be used, Unavailable as it does."""
    text = settings.stream_url.get_secret_value()
    keep = Keep(settings.stream_keep_events, settings.stream_keep_hours * 3600)
    scheme = urlsplit(text).scheme
    if scheme in ("redis", "rediss"):
        from millrace.events.redis_stream import RedisStream

        return RedisStream(text, keep)

    from millrace.events.sqlite_stream import SqliteStream

    if not text:
        return SqliteStream(settings.home / "stream" / "events.db", keep)
    if scheme == "sqlite" and text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
        return SqliteStream(settings.home / text.removeprefix("sqlite:///"), keep)
    raise ConfigError(
        f"MILLRACE_STREAM_URL begins with {scheme or text[:20]!r}; wanted sqlite:///path or "
        "redis://[:password@]host:port/0, or nothing for the home's own"
    )


@dataclass(frozen=True, slots=True)
class Keep:
    """How much is kept of what every group has taken: at most so many events, none older than so long."""

    events: int
    age_s: float
