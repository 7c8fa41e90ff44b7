"""The process: what it acknowledged is in the database once, whatever it went through."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.events.log import engine, migrate
from millrace.events.table import read_predictions
from millrace.settings import Settings
from serving.local.ports import free_port

BATCH = {"content-type": "application/cloudevents-batch+json"}
ONE = {"content-type": "application/cloudevents+json"}
DEADLINE_S = 40.0
Event = Callable[..., dict[str, Any]]


class Server:
    """A prediction log of its own, that may be killed and started again."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.port = settings, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.session = httpx.Client(verify=False, timeout=10)  # making an SSL context costs more than the test

    def start(self) -> None:
        environment = os.environ | {
            "MILLRACE_LOG_RETENTION_DAYS": "0",  # events are of 2018
            "MILLRACE_HOME": str(self.settings.home),
            "MILLRACE_PREDICTION_LOG_URL": self.settings.prediction_log_url.get_secret_value(),
        }
        command = [
            sys.executable,
            "-m",
            "serving.prediction_log.server",
            f"--http_port={self.port}",
            "--host=127.0.0.1",
        ]
        self.process = subprocess.Popen(command, env=environment)
        self.until(lambda: self.session.get(f"{self.url}/readyz").status_code in (200, 503))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def post(self, body: Any, path: str = "/", **options: Any) -> httpx.Response:
        return self.session.post(f"{self.url}{path}", json=body, **options)

    def metric(self, name: str) -> float:
        lines = self.session.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                if condition():
                    return
            time.sleep(0.05)
        raise AssertionError("the deadline passed")

    def event_ids(self) -> list[str]:
        log = engine(self.settings)
        migrate(log)
        ids: list[str] = read_predictions(log, "fraud", columns=["prediction_id"])["prediction_id"].to_pylist()
        log.dispose()
        return ids


@pytest.fixture
def server(home: Settings) -> Iterator[Server]:
    made = Server(home)
    made.start()
    yield made
    made.session.close()
    made.kill()


async def load_and_kill(server: Server, event: Event, enough: int) -> set[str]:
    """Post one event after the other on four connections, kill -9 after `enough`; the ids that were acknowledged."""
    acknowledged: set[str] = set()

    async def client(first: int) -> None:
        async with httpx.AsyncClient(verify=False, timeout=DEADLINE_S) as session:
            for number in range(first, 1_000_000, 4):
                body = event(number)
                try:
                    answer = await session.post(f"{server.url}/", json=body, headers=ONE)
                except httpx.TransportError:
                    return
                assert answer.status_code == 202
                acknowledged.add(body["id"])
                if len(acknowledged) == enough:
                    server.kill()

    await asyncio.gather(*(client(place) for place in range(4)))
    return acknowledged


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_kill_9_under_load_loses_nothing_acknowledged_and_counts_nothing_twice(server: Server, event: Event) -> None:
    acknowledged = asyncio.run(load_and_kill(server, event, 400))
    server.start()
    again = server.post([event(number) for number in range(50)], headers=BATCH)
    assert (again.status_code, server.stop()) == (202, 0)
    stored = server.event_ids()

    assert len(acknowledged) >= 400
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))


@contextmanager
def database_away(path: Path) -> Iterator[None]:
    """Nobody else can write, as if the disk of the database hung."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_with_the_database_away_events_and_labels_are_taken_and_written_later(server: Server, event: Event) -> None:
    database = server.settings.prediction_log / "log.db"
    assert server.post([event(0)], headers=BATCH).status_code == 202
    server.until(lambda: server.metric("millrace_log_rows_total") == 1)

    with database_away(database):
        answers = [server.post([event(n) for n in range(start, start + 100)], headers=BATCH) for start in (1, 101, 201)]
        answers.append(server.post({"labels": [{"transaction_id": 7, "is_fraud": 1}]}, "/v1/labels"))
        server.until(lambda: server.metric("millrace_stream_lag_events") == 301)
        server.kill()
        server.start()
        ready = server.session.get(f"{server.url}/readyz")
    server.until(lambda: server.metric("millrace_log_rows_total") == 301)

    assert [answer.status_code for answer in answers] == [202] * 4
    assert ready.status_code == 200
    assert len(server.event_ids()) == 301
    server.until(lambda: server.metric("millrace_stream_lag_events") == 0)
    assert server.metric("millrace_stream_refused_events") == 0


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_a_stream_that_refuses_is_503_with_one_sentence(server: Server, event: Event) -> None:
    stream = server.settings.home / "stream" / "events.db"
    with database_away(stream):
        answer = server.post([event(1)], headers=BATCH)

    assert answer.status_code == 503
    assert answer.json()["error"].startswith(f"the event stream in {stream.parent} cannot be used: database is locked")
    assert server.post([event(1)], headers=BATCH).status_code == 202


@pytest.mark.parametrize("home", ["postgresql"], indirect=True)
def test_what_it_stored_can_be_asked_for_and_labelled(server: Server, event: Event) -> None:
    server.post([event(1), event(2)], headers=BATCH)
    server.post({"labels": [{"transaction_id": 2, "is_fraud": 1}]}, "/v1/labels")
    csv = "transaction_id,is_fraud,label_timestamp\n1,0,2018-10-07T00:00:00Z\n"
    server.session.post(f"{server.url}/v1/labels", content=csv, headers={"content-type": "text/csv"})
    server.until(lambda: server.metric("millrace_log_rows_total") == 4)

    def ask(query: str) -> list[dict[str, Any]]:
        return server.session.get(f"{server.url}/v1/predictions?{query}").raise_for_status().json()["predictions"]

    assert [row["is_fraud"] for row in ask("prediction_id=request-1:0")] == [0]
    assert [row["prediction_id"] for row in ask("transaction_id=2")] == ["request-2:0"]
    assert len(ask("since=2018-09-30T12:00:00Z&until=2018-09-30T14:00:01%2B02:00")) == 2
    assert ask("until=2018-09-30T12:00:00Z") == []
    assert len(ask("limit=1")) == 1


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_bad_requests_are_refused_by_name_and_change_nothing(server: Server, event: Event) -> None:
    bad = server.post([event(1), event(2, score=7)], headers=BATCH)
    large = server.session.post(f"{server.url}/", content=b" " * (9 << 20), headers=BATCH)
    asked = {
        query: server.session.get(f"{server.url}/v1/predictions?{query}")
        for query in ("limit=0", "limit=many", "since=2018-09-30", "transaction_id=", "colour=red")
    }
    looked = {
        query: server.session.get(f"{server.url}/v1/feed?{query}") for query in ("by=amount", "now=noon", "limit=1")
    }
    lost = server.session.get(f"{server.url}/nowhere")
    feed = f"{server.url}/v1/feed?now=2018-10-01T00:00:00Z&by=event_timestamp"
    server.until(lambda: server.session.get(feed).status_code == 200)  # once the tables are there

    assert (bad.status_code, large.status_code, lost.status_code) == (400, 413, 404)
    assert "event 1 (io.millrace.prediction): score is 7" in bad.json()["error"]
    assert {query: answer.status_code for query, answer in (asked | looked).items()} == dict.fromkeys(
        asked | looked, 400
    )
    assert server.session.get(feed).json() == {"now": "2018-10-01T00:00:00+00:00", "watched": False, "silent": []}
    assert all(query.partition("=")[0] in answer.json()["error"] for query, answer in asked.items())
    assert server.metric("millrace_stream_lag_events") == 0
    assert server.metric('millrace_log_records_total{outcome="invalid"}') == 2
