"""Both streams keep the same promises: that of a home on SQLite, that of a cluster on a real Redis."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from stores import redis_server

from millrace.errors import ConfigError, Unavailable
from millrace.events import redis_stream, sqlite_stream
from millrace.events.stream import ALARMS, LABELS, PREDICTIONS, Group, Keep, Stream, open_stream
from millrace.settings import Settings

LOG, DETECTOR = Group(PREDICTIONS, "log"), Group(PREDICTIONS, "detector")
PATIENCE_S = 20.0


@dataclass
class Store:
    """A store of events; `open` is what one more process of it would have."""

    settings: Settings

    def open(self) -> Stream:
        return open_stream(self.settings)


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield Store(Settings(home=tmp_path))
        return
    with redis_server(tmp_path, "--appendonly", "yes") as server:
        url = f"redis://:{server.PASSWORD}@127.0.0.1:{server.port}/0"
        yield Store(Settings(home=tmp_path, stream_url=url))


@pytest.fixture
def stream(store: Store) -> Iterator[Stream]:
    opened = store.open()
    yield opened
    opened.close()


def append(stream: Stream, *ids: str, topic: str = PREDICTIONS) -> None:
    stream.append(topic, [f"body of {id_}".encode() for id_ in ids], ids)


def read(stream: Stream, group: Group = LOG, consumer: str = "one", limit: int = 100) -> list[str]:
    return [entry.id for entry in stream.read(group, consumer, limit, 0.0)]


def take(stream: Stream, group: Group = LOG, consumer: str = "one", limit: int = 100) -> list[str]:
    """Read and acknowledge."""
    entries = stream.read(group, consumer, limit, 0.0)
    stream.acknowledge(group, [entry.position for entry in entries])
    return [entry.id for entry in entries]


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)


def test_events_come_out_as_they_went_in_and_in_order(stream):
    append(stream, "a", "b")
    append(stream, "c")

    entries = stream.read(LOG, "one", 10, 0.0)

    assert [(entry.id, entry.body) for entry in entries] == [
        ("a", b"body of a"),
        ("b", b"body of b"),
        ("c", b"body of c"),
    ]


def test_topics_do_not_mix(stream):
    append(stream, "scored")
    append(stream, "known", topic=LABELS)
    append(stream, "drift", topic=ALARMS)

    assert read(stream) == ["scored"]
    assert read(stream, Group(LABELS, "log")) == ["known"]


def test_every_group_gets_every_event_and_a_new_one_begins_at_the_start(stream):
    append(stream, "a", "b")

    assert take(stream, LOG) == ["a", "b"]
    assert take(stream, DETECTOR) == ["a", "b"]
    assert set(stream.groups()) == {LOG, DETECTOR}


def test_two_consumers_of_a_group_share_its_events(stream):
    append(stream, *"abcdef")

    first, second = take(stream, consumer="one", limit=3), take(stream, consumer="two", limit=3)

    assert first + second == list("abcdef")
    assert take(stream, consumer="one") == []


def test_what_was_not_acknowledged_comes_again_when_its_consumer_returns(store, stream):
    append(stream, "a", "b", "c", "d")
    entries = stream.read(LOG, "one", 3, 0.0)
    stream.acknowledge(LOG, [entries[1].position])

    with_a_new_life = store.open()

    assert read(with_a_new_life, limit=1) == ["a"]
    assert read(with_a_new_life) == ["c"]
    assert read(with_a_new_life) == ["d"]
    with_a_new_life.close()


def test_a_living_consumer_is_not_handed_what_it_holds(stream):
    append(stream, "a")
    read(stream)
    append(stream, "b")

    assert read(stream) == ["b"]


def test_what_a_failed_read_was_handed_comes_again(stream, monkeypatch):
    append(stream, "a")
    assert read(stream) == ["a"]
    append(stream, "b")
    with monkeypatch.context() as patched:
        if isinstance(stream, sqlite_stream.SqliteStream):
            patched.setattr(sqlite_stream, "_hand", lost(sqlite_stream._hand, sqlite3.OperationalError("disk full")))
        else:
            patched.setattr(stream._redis, "xreadgroup", lost(stream._redis.xreadgroup, redis.TimeoutError("slow")))
        with pytest.raises(Unavailable):
            read(stream)

    again = [*read(stream), *read(stream)]

    assert again == ["a", "b"]


def lost(call: Callable[..., object], error: Exception) -> Callable[..., object]:
    """The call, which is made and whose answer is lost."""

    def made(*arguments: object, **named: object) -> object:
        call(*arguments, **named)
        raise error

    return made


def test_what_a_dead_consumer_left_goes_to_another_one(stream, monkeypatch):
    append(stream, "a")
    read(stream, consumer="dead")
    for module in (sqlite_stream, redis_stream):
        monkeypatch.setattr(module, "CLAIM_AFTER_S", 0.05)
    monkeypatch.setattr(redis_stream, "CLAIM_EVERY_S", 0.0)

    until(lambda: take(stream, consumer="alive") == ["a"])
    assert read(stream, consumer="alive") == []


def test_reading_waits_for_the_first_event(store, stream):
    other = store.open()
    writer = threading.Timer(0.2, append, (other, "late"))
    writer.start()

    found: list[str] = []
    until(lambda: found.extend(entry.id for entry in stream.read(LOG, "one", 10, 5.0)) or found)

    assert found == ["late"]
    writer.join()
    other.close()


def test_a_refused_event_is_set_aside_alone_with_its_reason(stream):
    append(stream, "good", "bad", "better")
    good, bad, better = stream.read(LOG, "one", 10, 0.0)

    stream.set_aside(LOG, bad, "score is 7; wanted a number in [0, 1]")
    stream.acknowledge(LOG, [good.position, better.position])

    (refused,) = stream.refused()
    assert (refused.group, refused.id, refused.body) == (LOG, "bad", b"body of bad")
    assert refused.reason == "score is 7; wanted a number in [0, 1]"
    assert abs(refused.refused_at - time.time()) < PATIENCE_S
    assert (stream.lag(LOG).events, stream.lag(LOG).refused) == (0, 1)


def test_what_was_set_aside_is_sent_again_to_its_group_alone(stream):
    append(stream, "a", "b")
    take(stream, DETECTOR)
    for entry in stream.read(LOG, "one", 10, 0.0):
        stream.set_aside(LOG, entry, "no such workload")

    assert stream.send_again(["b"]) == 1
    assert [refused.id for refused in stream.refused()] == ["a"]
    assert take(stream, LOG) == ["b"]
    assert take(stream, DETECTOR) == []

    assert stream.send_again() == 1
    assert take(stream, LOG) == ["a"]
    assert stream.refused() == []


def test_lag_counts_what_is_not_acknowledged(stream):
    append(stream, "a", "b", "c")
    entries = stream.read(LOG, "one", 2, 0.0)

    assert stream.lag(LOG).events == 3
    until(lambda: stream.lag(LOG).oldest_s > 0.02)

    stream.acknowledge(LOG, [entry.position for entry in entries])
    take(stream)
    assert stream.lag(LOG).events == 0
    assert stream.lag(LOG).oldest_s == 0.0


def test_nothing_goes_before_every_group_has_taken_it(store):
    few = Store(store.settings.model_copy(update={"stream_keep_events": 0, "stream_keep_hours": 0.0})).open()
    append(few, "a", "b")
    assert read(few, DETECTOR, limit=1) == ["a"]  # and does not acknowledge it
    until(lambda: (append(few, "more"), take(few, LOG), take(few, LOG) == [])[-1])

    rest = [*read(few, DETECTOR, limit=10_000)]

    assert rest[0] == "b"
    few.close()


def test_what_every_group_has_taken_goes_when_it_is_too_old(store, monkeypatch):
    monkeypatch.setattr(redis_stream, "TRIM_EVERY_S", 0.0)
    few = Store(store.settings.model_copy(update={"stream_keep_events": 10, "stream_keep_hours": 1.0})).open()
    number = 0
    kept: list[str] = []

    def trimmed() -> bool:
        nonlocal number
        append(few, *(f"{number + place}" for place in range(200)))
        number += 200
        while take(few, LOG, limit=1000):
            pass
        newcomer = Group(PREDICTIONS, f"newcomer {number}")
        kept[:] = read(few, newcomer, limit=100_000)
        few.forget(newcomer)
        return "0" not in kept

    until(trimmed)

    assert kept == [f"{place}" for place in range(number - len(kept), number)]
    assert 10 <= len(kept) < number
    few.close()


def test_a_group_that_is_forgotten_holds_nothing_up(stream):
    append(stream, "a")
    take(stream, LOG)
    read(stream, DETECTOR)

    stream.forget(DETECTOR)

    assert stream.groups() == [LOG]


WRITER = """
import sys
from millrace.events.stream import PREDICTIONS, open_stream
from millrace.settings import settings
stream = open_stream(settings())
number = 0
while True:
    ids = [f"{sys.argv[1]}-{number + place}" for place in range(3)]
    stream.append(PREDICTIONS, [id_.encode() * 100 for id_ in ids], ids)
    print(*ids, flush=True)
    number += 3
"""
CONSUMER = """
import os
from millrace.events.stream import Group, open_stream
from millrace.settings import settings
stream = open_stream(settings())
group = Group("predictions", "log")
while True:
    entries = stream.read(group, "one", 7, 1.0)
    for entry in entries:
        print(entry.id, flush=True)
    stream.acknowledge(group, [entry.position for entry in entries])
"""


class Process:
    """A process with the store's settings; its lines so far are in `lines`."""

    def __init__(self, store: Store, program: str, *arguments: str) -> None:
        about = {"MILLRACE_HOME": str(store.settings.home)}
        about["MILLRACE_STREAM_URL"] = store.settings.stream_url.get_secret_value()
        command = [sys.executable, "-c", program, *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **about})
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(iter(self._process.stdout.readline, ""))  # one at a time: `extend` takes from an iterator

    def kill(self) -> list[str]:
        """kill -9; every whole line that it had written."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return [line.strip() for line in self.lines if line.endswith("\n")]


def wait_for_lines(process: Process, count: int) -> None:
    until(lambda: len(process.lines) >= count)


def test_a_killed_writer_loses_nothing_that_it_acknowledged(store, stream):
    acknowledged: list[str] = []
    for life in range(3):
        writer = Process(store, WRITER, f"life{life}")
        wait_for_lines(writer, 20)
        acknowledged += [word for line in writer.kill() for word in line.split()]

    kept: list[str] = []
    while found := take(stream, limit=1000):
        kept += found

    assert set(acknowledged) <= set(kept)
    assert len(kept) == len(set(kept))


def test_two_writers_at_once_lose_nothing_and_keep_their_own_order(store, stream):
    writers = [Process(store, WRITER, name) for name in ("left", "right")]
    for writer in writers:
        wait_for_lines(writer, 50)
    acknowledged = [word for writer in writers for line in writer.kill() for word in line.split()]

    kept: list[str] = []
    while found := take(stream, limit=1000):
        kept += found

    assert set(acknowledged) <= set(kept)
    for name in ("left", "right"):
        numbers = [int(id_.partition("-")[2]) for id_ in kept if id_.startswith(name)]
        assert numbers == sorted(set(numbers))


def test_a_killed_consumer_misses_nothing(store, stream):
    everything = [f"event-{number}" for number in range(2000)]
    append(stream, *everything)
    seen: list[str] = []
    while len(set(seen)) < len(everything):
        consumer = Process(store, CONSUMER)
        wait_for_lines(consumer, min(300, len(everything) - len(set(seen))))
        seen += consumer.kill()

    assert set(seen) == set(everything)
    assert len(seen) <= len(everything) + 7 * 10  # a kill repeats at most the batch that was under way


def test_an_address_that_no_stream_has_is_refused_by_name(tmp_path):
    with pytest.raises(
        ConfigError, match=r"MILLRACE_STREAM_URL begins with 'kafka'; wanted sqlite:///path or redis://"
    ):
        open_stream(Settings(home=tmp_path, stream_url="kafka://broker:9092"))


def test_a_redis_that_is_away_is_named_without_its_password(tmp_path):
    stream = open_stream(Settings(home=tmp_path, stream_url="redis://:secret@127.0.0.1:9/0"))

    with pytest.raises(Unavailable, match=r"Redis at 127\.0\.0\.1:9 cannot be used") as refused:
        append(stream, "a")

    assert "secret" not in str(refused.value)


def test_a_redis_without_memory_takes_nothing_and_recovers(tmp_path):
    with redis_server(tmp_path, "--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as server:
        stream = open_stream(
            Settings(
                home=tmp_path,
                stream_url=f"redis://:{server.PASSWORD}@127.0.0.1:{server.port}/0",
                stream_keep_events=0,
            )
        )
        with pytest.raises(Unavailable, match="Check that Redis is up and has memory and disk left"):
            for number in range(100):
                stream.append(PREDICTIONS, [b"x" * 100_000], [str(number)])

        assert take(stream)[0] == "0"

        append(stream, "room again")
        assert take(stream)[-1] == "room again"
        stream.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a file's size is limited as Linux does it")
def test_a_full_disk_refuses_an_append_whole_and_takes_the_next_one_again(tmp_path):
    program = """
import resource, signal, sys
from pathlib import Path
from millrace.errors import Unavailable
from millrace.events.sqlite_stream import SqliteStream
from millrace.events.stream import Group, Keep
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
stream = SqliteStream(Path(sys.argv[1]) / "events.db", Keep(10, 10.0))
stream.append("predictions", [b"before"], ["before"])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    stream.append("predictions", [b"x" * (1 << 18)] * 8, [f"big-{place}" for place in range(8)])
except Unavailable as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
stream.append("predictions", [b"after"], ["after"])
print(*(entry.id for entry in stream.read(Group("predictions", "log"), "one", 100, 0.0)))
stream.close()
"""
    said = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)

    refused, kept = said.stdout.splitlines()
    assert refused.startswith(f"the event stream in {tmp_path} cannot be used: ")
    assert refused.endswith("Look at that folder: free space, and whether this user may write there.")
    assert kept == "before after"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "stream").write_text("in the way")

    with pytest.raises(Unavailable, match=r"the event stream in .*/stream cannot be used"):
        open_stream(Settings(home=tmp_path))


def test_the_log_of_a_home_does_not_grow_with_what_was_appended(tmp_path, monkeypatch):
    from millrace.events import sqlite_upkeep

    monkeypatch.setattr(sqlite_upkeep, "WAL_BYTES", 1 << 20)
    stream = sqlite_stream.SqliteStream(tmp_path / "events.db", Keep(10, 3600.0))
    wal = tmp_path / "events.db-wal"
    for number in range(300):
        stream.append(PREDICTIONS, [b"x" * 20_000], [str(number)])

    until(lambda: (append(stream, "small"), wal.stat().st_size < 1 << 20)[-1])

    assert wal.stat().st_size < sqlite_upkeep.WAL_BYTES < 300 * 20_000
    stream.close()


def test_what_was_appended_last_is_brought_to_the_disk_before_the_end(tmp_path, monkeypatch):
    from millrace.events import sqlite_upkeep

    syncs: list[int] = []
    goes_on = threading.Event()

    def slow_disk(file: int) -> None:
        syncs.append(file)
        assert goes_on.wait(PATIENCE_S)

    monkeypatch.setattr(sqlite_upkeep.os, "fsync", slow_disk)
    stream = sqlite_stream.SqliteStream(tmp_path / "events.db", Keep(10, 3600.0))
    append(stream, "first")
    until(lambda: len(syncs) == 1)
    append(stream, "last")
    closing = threading.Thread(target=stream.close)
    closing.start()
    until(stream._upkeep._stopping.is_set)

    goes_on.set()
    closing.join()

    assert len(syncs) == 2
