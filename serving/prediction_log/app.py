"""The routes of the prediction log, as a bare ASGI application.

`POST /` and `POST /v1/labels` answer 202 once the stream has what they brought; `GET /v1/predictions` and `/v1/feed`
read the database. Checking events is `core.py`'s, writing them `writer.py`'s.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qs

import orjson
import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from millrace.errors import InvalidInput, NotFound, Unavailable
from millrace.event_ids import event_key
from millrace.events.appender import Appender
from millrace.events.kinds import encode
from millrace.events.stream import LABELS, PREDICTIONS
from millrace.events.table import find_predictions
from millrace.installed import load, names
from millrace.observe import telemetry
from millrace.observe.progress import REQUEST
from millrace.observe.tracing import CURRENT, OFF, server_span
from serving.lean import (
    MAX_BODY_BYTES,
    Headers,
    Receive,
    Reply,
    Send,
    as_get,
    error_reply,
    headers_of,
    read_body,
    respond,
)
from serving.logged_rows import Bodies
from serving.posted import Posted
from serving.prediction_log.core import decode_labels
from serving.prediction_log.feed import EVENT_TIMESTAMP, SCORED_AT, Feed
from serving.prediction_log.labels import read_csv
from serving.prediction_log.writer import Writer

SERVER: Final = "prediction_log"
TRACED: Final = frozenset({"/", "/v1/labels", "/v1/predictions", "/v1/feed"})
MAX_BODIES_BYTES: Final = 64 << 20
"""Of all requests that are being read or checked; past it they are asked to come back."""
CLOCKS: Final = (SCORED_AT, EVENT_TIMESTAMP)
RETRY_AFTER_S: Final = 2
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 10_000
READ_TIMEOUT_S: Final = 30.0

Route = Callable[[dict[str, Any], Headers, Receive], Awaitable[Reply]]


class App:
    """ASGI."""

    def __init__(self, appender: Appender, writer: Writer, database: sa.Engine, bodies: Bodies) -> None:
        self._appender, self._writer, self._database = appender, writer, database
        self._posted, self._workload = Posted(bodies), bodies.default
        self._bodies_bytes = 0
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._looking = asyncio.Lock()
        self._routes: dict[tuple[str, str], Route] = {
            ("POST", "/"): self._take,
            ("POST", "/v1/labels"): self._labels,
            ("GET", "/v1/predictions"): self._predictions,
            ("GET", "/v1/feed"): self._feed,
            ("GET", "/healthz"): self._health,
            ("GET", "/readyz"): self._ready,
            ("GET", "/metrics"): self._metrics,
        }
        self._seconds = {path: telemetry.REQUEST_SECONDS.labels(SERVER, path) for _, path in self._routes}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope, headers = as_get(scope), headers_of(scope)
        path = scope["path"]
        with server_span(f"{scope['method']} {path}", headers) if path in TRACED else OFF as span:
            headers = span.headers(headers)
            REQUEST.set(headers)
            reply = await self._answer(scope, headers, receive)
            await respond(send, reply)
            span.answered(reply.status)

    async def _answer(self, scope: dict[str, Any], headers: Headers, receive: Receive) -> Reply:
        start = time.perf_counter()
        method, path = scope["method"], scope["path"]
        try:
            reply = await self._route(method, path)(scope, headers, receive)
        except Busy as error:
            telemetry.LOG_RECORDS.labels("refused").inc()
            reply = _later(str(error))
        except Exception as error:  # noqa: BLE001 - the boundary: whatever happens becomes a status
            if method == "POST" and isinstance(error, InvalidInput | Unavailable):
                telemetry.LOG_RECORDS.labels("invalid" if isinstance(error, InvalidInput) else "refused").inc()
            reply = error_reply(error)
        if path in self._seconds:
            telemetry.REQUESTS.labels(SERVER, path, reply.status).inc()
            self._seconds[path].observe(time.perf_counter() - start)
        return reply

    def _route(self, method: str, path: str) -> Route:
        route = self._routes.get((method, path))
        if route is None:
            raise NotFound(f"no {method} {path}; there are {', '.join(' '.join(known) for known in self._routes)}")
        return route

    async def _take(self, _: dict[str, Any], headers: Headers, receive: Receive) -> Reply:
        async with _Budget(self, headers):
            body = await read_body(receive, headers)
            events = self._posted.read(headers, body, datetime.now(UTC))
            CURRENT.get().link(event.get("traceparent") or "" for event in events)
            return await self._keep(PREDICTIONS, events)

    async def _labels(self, scope: dict[str, Any], headers: Headers, receive: Receive) -> Reply:
        async with _Budget(self, headers):
            body, now = await read_body(receive, headers), datetime.now(UTC)
            workload = _query(_text(scope), {"workload": _installed}).get("workload", self._workload)
            csv = headers.get(b"content-type", b"").lower().startswith(b"text/csv")
            return await self._keep(LABELS, (read_csv if csv else decode_labels)(body, now, workload))

    async def _keep(self, topic: str, events: list[dict[str, Any]]) -> Reply:
        await self._appender.append(topic, [encode(event) for event in events], [event["id"] for event in events])
        telemetry.LOG_RECORDS.labels("accepted").inc(len(events))
        return Reply(b'{"accepted":%d}' % len(events), status=202)

    async def _predictions(self, scope: dict[str, Any], _: Headers, __: Receive) -> Reply:
        text = _text(scope)
        workload = _workload_of(text) or self._workload
        event_id = load(workload).schema.EVENT_ID
        wanted: dict[str, Any] = {"workload": workload, "limit": DEFAULT_LIMIT} | _query(
            text, {event_id: event_key, **PREDICTION_QUERY}
        )
        if event_id in wanted:
            wanted["event_id"] = wanted.pop(event_id)
        reading = asyncio.to_thread(find_predictions, self._database, **wanted)
        rows = await asyncio.wait_for(reading, READ_TIMEOUT_S)
        return Reply(orjson.dumps({"predictions": rows}))

    async def _feed(self, scope: dict[str, Any], _: Headers, __: Receive) -> Reply:
        """What is silent now, or was at an instant; `by` their own time where old days are replayed."""
        wanted = _query(_text(scope), FEED_QUERY)
        now = wanted.get("now") or datetime.now(UTC)
        chosen = wanted.get("workload", self._workload), wanted.get("by", SCORED_AT)
        feed = self._feeds.setdefault(chosen, Feed(self._database, *chosen))
        async with self._looking:
            found = await asyncio.wait_for(asyncio.to_thread(feed.look, now), READ_TIMEOUT_S)
        windows = [dataclasses.asdict(silence) for silence in found or ()]
        return Reply(orjson.dumps({"now": now, "watched": found is not None, "silent": windows}))

    async def _health(self, _: dict[str, Any], __: Headers, ___: Receive) -> Reply:
        alive = self._writer.is_alive()
        return Reply(orjson.dumps({"writer": "alive" if alive else "ended"}), status=200 if alive else 500)

    async def _ready(self, _: dict[str, Any], __: Headers, ___: Receive) -> Reply:
        """Ready to take events, which the database need not be: the stream keeps them for it."""
        return Reply(orjson.dumps({"writer": self._writer.failed or "ok"}))

    async def _metrics(self, _: dict[str, Any], __: Headers, ___: Receive) -> Reply:
        return Reply(await asyncio.to_thread(generate_latest), content_type=CONTENT_TYPE_LATEST.encode())


class Busy(Unavailable):
    """More is on its way in than memory is to hold (HTTP 429)."""


class _Budget:
    """Room for one body among those in memory; raises Busy when there is none."""

    def __init__(self, app: App, headers: Headers) -> None:
        length = headers.get(b"content-length", b"")
        self._app, self._size = app, int(length) if length.isdigit() else MAX_BODY_BYTES

    async def __aenter__(self) -> None:
        if self._app._bodies_bytes + min(self._size, MAX_BODY_BYTES) > MAX_BODIES_BYTES:
            raise Busy("too many events are on their way in at once. Try again later.")
        self._app._bodies_bytes += self._size

    async def __aexit__(self, *_: object) -> None:
        self._app._bodies_bytes -= self._size


def _later(reason: str) -> Reply:
    return Reply(orjson.dumps({"error": reason}), status=429, headers=((b"retry-after", b"%d" % RETRY_AFTER_S),))


def _query(text: str, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The parameters that were given, read; raises InvalidInput by name."""
    wanted: dict[str, Any] = {}
    for name, values in parse_qs(text, keep_blank_values=True).items():
        if name not in readers:
            raise InvalidInput(f"unknown parameter {name!r}; wanted some of {', '.join(readers)}")
        try:
            wanted[name] = readers[name](values[-1])
        except ValueError as error:
            raise InvalidInput(f"parameter {name!r} is {values[-1]!r}: {error}") from error
    return wanted


def _text(scope: Mapping[str, Any]) -> str:
    text: str = scope["query_string"].decode("latin-1")
    return text


def _workload_of(text: str) -> str | None:
    """The workload that a query names: it decides what else may be asked."""
    given = parse_qs(text).get("workload")
    if not given:
        return None
    try:
        return _installed(given[-1])
    except ValueError as error:
        raise InvalidInput(f"parameter 'workload' is {given[-1]!r}: {error}") from error


def _installed(text: str) -> str:
    """A workload's name."""
    if text not in names():
        raise ValueError(f"wanted one of {', '.join(names())}")
    return text


def _clock(text: str) -> str:
    if text not in CLOCKS:
        raise ValueError(f"wanted one of {', '.join(CLOCKS)}")
    return text


def _limit(text: str) -> int:
    if not 1 <= int(text) <= MAX_LIMIT:
        raise ValueError(f"wanted a number from 1 to {MAX_LIMIT}")
    return int(text)


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + of an offset arrives as a blank
    if instant.tzinfo is None:
        raise ValueError("wanted an offset, as in 2018-09-30T12:00:00Z")
    return instant


PREDICTION_QUERY: Final[Mapping[str, Callable[[str], Any]]] = {
    "workload": _installed,
    "prediction_id": str,
    "since": _instant,
    "until": _instant,
    "limit": _limit,
}
"""Parameters of `GET /v1/predictions`, beside the event's id by the workload's name."""
FEED_QUERY: Final[Mapping[str, Callable[[str], Any]]] = {"workload": _installed, "now": _instant, "by": _clock}
