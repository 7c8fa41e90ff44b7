"""Appended events by one contract in SQLite and in a real Redis: once, in order of time, bounded, seen by everybody."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from stores import RedisServer, redis_server

from fraud.features import VIEWS
from millrace.appended.records import SLACK, Entry, Records
from millrace.appended.redis import RedisEvents
from millrace.appended.sqlite import FILE, Lane, SQLiteEvents

CUSTOMERS, _ = VIEWS
N = 4
CAPACITY = N + SLACK
RECORDS = Records(CUSTOMERS, N)
SEED = 20
Events = Any
"""What both stores are: `append`, `held`, `unpushed_count`."""


@dataclass(frozen=True)
class Place:
    """An empty store; `opened` gives a client with its own connection, `arguments` let another process have one."""

    opened: Callable[[], Events]
    arguments: Sequence[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(lambda: SQLiteEvents(tmp_path / FILE, RECORDS), ["sqlite", str(tmp_path / FILE)])
    port = request.getfixturevalue("server").port
    client(port).flushall()
    return Place(lambda: RedisEvents(client(port), "workload", "g", RECORDS), ["redis", str(port)])


def client(port: int) -> redis.Redis:
    return redis.Redis(port=port, password=RedisServer.PASSWORD)


def entry(event_id: int, key: str = "a", event_us: int | None = None) -> Entry:
    return Entry(event_id, key, event_id if event_us is None else event_us, (100 + event_id, 0.25))


def ids(events: Events, key: str = "a") -> list[int]:
    found: list[int] = RECORDS.state(events.held([key]).get(key, b"")).event_ids.tolist()
    return found


def test_an_event_is_there_for_everybody_when_append_returns(place: Place) -> None:
    one, other = place.opened(), place.opened()

    one.append([entry(1), entry(2, "b")])

    assert (ids(other), ids(other, "b"), ids(other, "c")) == ([1], [2], [])
    assert RECORDS.state(other.held(["a"])["a"]).values[0].tolist() == [101]


def test_an_event_that_comes_again_changes_nothing(place: Place) -> None:
    events = place.opened()
    events.append([entry(1), entry(2)])
    before = events.held(["a"])

    events.append([entry(2, event_us=77), entry(1), entry(1)])

    assert events.held(["a"]) == before


def test_events_lie_in_the_order_of_their_time_and_id_however_they_came(place: Place) -> None:
    events = place.opened()
    late = [entry(5, event_us=30), entry(-3, event_us=20), entry(4, event_us=20), entry(9, event_us=10)]

    events.append(late[:2])
    events.append(late[2:])

    assert ids(events) == [9, -3, 4, 5]


def test_the_newest_stay_and_an_old_event_displaces_none(place: Place) -> None:
    events = place.opened()
    events.append([entry(number) for number in range(1, CAPACITY + 11)])

    events.append([entry(0)])

    assert ids(events) == list(range(11, CAPACITY + 11))


def test_every_id_and_instant_that_a_request_may_have_keeps_its_place(place: Place) -> None:
    events = place.opened()
    bounds = [-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1]
    latest = 7_258_118_399_999_999

    events.append([entry(1, event_us=latest), *(Entry(id_, "a", latest - 1, (1, 0.5)) for id_ in reversed(bounds))])

    assert ids(events) == [*(id_ for id_ in bounds if id_ != 1), 1] or ids(events) == bounds


def test_appends_of_one_entity_at_the_same_moment_lose_nothing(place: Place) -> None:
    start = threading.Barrier(4)

    def some(of: int) -> None:
        events = place.opened()
        start.wait(20)
        for number in range(of, 32, 4):
            events.append([entry(number), entry(number // 2, "shared")])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(some, range(4)))

    assert ids(place.opened()) == list(range(32))
    assert ids(place.opened(), "shared") == list(range(16))


def test_a_push_into_rows_that_were_replaced_meanwhile_does_not_count_for_the_new_ones(tmp_path: Path) -> None:
    """A push is told for the fill that it went into, however late: each fill is a lane of its own."""
    slow, quick = SQLiteEvents(tmp_path / FILE, RECORDS), SQLiteEvents(tmp_path / FILE, RECORDS)
    former, new = Lane("generation", "filled"), Lane("generation", "filled again")
    slow.append([entry(1)])
    into_former_rows = slow.unpushed(former, 32)

    slow.pushed(former, into_former_rows)

    assert [one.key for one in quick.unpushed(new, 32)] == ["a"]
    quick.pushed(new, quick.unpushed(new, 32))
    assert slow.unpushed_count(new) == 0


def day(seed: int) -> list[Entry]:
    """Events of a day in order, some at one instant and some asked about twice."""
    draw = random.Random(seed)
    keys = [f"k{number}" for number in range(6)]
    events = [
        Entry(number, draw.choice(keys), 10**6 * (number // 3), (draw.randrange(10**6), draw.random()))
        for number in range(600)
    ]
    return [event for event in events for _ in range(1 + (draw.random() < 0.1))]


def dealt(events: Sequence[Entry], replicas: int, seed: int) -> list[list[Entry]]:
    """Events as replicas get them: each at random, and a little out of order."""
    draw = random.Random(seed)
    parts: list[list[Entry]] = [[] for _ in range(replicas)]
    for event in sorted(events, key=lambda event: event.event_us + draw.uniform(0, 20e6)):
        parts[draw.randrange(replicas)].append(event)
    return parts


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_a_day_through_four_replicas_gives_the_states_that_one_gives(place: Place, seed: int) -> None:
    """Four processes, each with its part of a day, all at once; what one client appended in order is what they give."""
    events = day(seed)
    keys = sorted({event.key for event in events})
    alone = place.opened()
    for event in events:
        alone.append([Entry(event.event_id, f"alone-{event.key}", event.event_us, event.values)])
    replicas = [replica(place, part) for part in dealt(events, 4, seed)]

    for process in replicas:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said

    one = place.opened().held([f"alone-{key}" for key in keys])
    four = place.opened().held(keys)
    for key in keys:
        shared, by_one = RECORDS.state(four[key]), RECORDS.state(one[f"alone-{key}"])
        assert len(shared) == CAPACITY
        assert all(np.array_equal(*pair) for pair in zip(shared.arrays(), by_one.arrays(), strict=True))


def test_a_killed_replica_loses_nothing_that_it_acknowledged(place: Place) -> None:
    with replica(place, [entry(number, f"k{number % 50}") for number in range(20_000)]) as process:
        assert process.stdout is not None
        acknowledged = [int(line) for line in itertools.islice(process.stdout, 200)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout if line.endswith(b"\n")]

    events = place.opened()
    events.append([entry(10**6, "after")])

    found = {
        id_
        for records in events.held([f"k{of}" for of in range(50)]).values()
        for id_ in RECORDS.state(records).event_ids.tolist()
    }
    newest = {number for number in acknowledged if number > max(acknowledged) - 50 * N}
    assert newest <= found
    assert len(acknowledged) >= 200
    assert ids(events, "after") == [10**6]


def replica(place: Place, events: Sequence[Entry]) -> subprocess.Popen[bytes]:
    """A process that appends these one by one and says each id when it is safe."""
    rows = [[event.event_id, event.key, event.event_us, event.values] for event in events]
    process = subprocess.Popen(
        [sys.executable, __file__, *place.arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(rows).encode() + b"\n")
    process.stdin.flush()
    return process


def _be_a_replica(kind: str, where: str) -> None:
    events: Events
    if kind == "sqlite":
        events = SQLiteEvents(Path(where), RECORDS)
    else:
        events = RedisEvents(client(int(where)), "workload", "g", RECORDS)
    for event_id, key, event_us, values in json.loads(sys.stdin.readline()):
        events.append([Entry(event_id, key, event_us, tuple(values))])
        sys.stdout.write(f"{event_id}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _be_a_replica(*sys.argv[1:])
