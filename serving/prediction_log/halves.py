"""Request and response of KServe's logger, joined by their id into prediction rows.

They come as two events in any order, perhaps minutes apart. A half waits in the table `inference_halves`; a response
that waited too long becomes rows of its own, a request is given up (only successful requests have a response).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
import sqlalchemy as sa

from millrace.events.log import HALVES, IDS_PER_QUERY, add_halves
from millrace.events.prediction import Told, told_of

GRACE: Final = timedelta(minutes=10)
"""What a half waits for the other. KServe's agent sends both within seconds, unless it had to retry."""

Half = Mapping[str, Any]
"""`kind` request or response, `request_id`, `at`, `received`, `workload`, `model_name`, `rows`."""


def join(connection: sa.Connection, halves: Sequence[Half]) -> list[dict[str, Any]]:
    """Prediction rows of every pair that `halves` complete; the others wait in the table."""
    known: dict[tuple[str, str], Half] = {}
    for half in halves:
        known.setdefault((half["request_id"], half["kind"]), half)
    alone = [key for key in known if (key[0], _other(key[1])) not in known]
    waiting = _take(connection, [(name, _other(kind)) for name, kind in alone])
    known |= waiting
    add_halves(connection, [_stored(known[key]) for key in alone if (key[0], _other(key[1])) not in waiting])
    responses = [half for (_, kind), half in known.items() if kind == "response"]
    pairs = [(known.get((half["request_id"], "request")), half) for half in responses]
    return [row for request, response in pairs if request is not None for row in merge(request, response)]


def expire(connection: sa.Connection, now: datetime) -> tuple[list[dict[str, Any]], int]:
    """Rows of responses whose request did not come, and how many requests were given up."""
    old = HALVES.c.received_at < now - GRACE
    found = connection.execute(sa.select(HALVES.c.kind, HALVES.c.rows).where(old)).all()
    connection.execute(sa.delete(HALVES).where(old))
    responses = [orjson.loads(rows) for kind, rows in found if kind == "response"]
    return [row for half in responses for row in merge(None, half)], len(found) - len(responses)


def merge(request: Half | None, response: Half) -> list[dict[str, Any]]:
    """One prediction row per row of the response; what the response says wins."""
    asked = request["rows"] if request is not None else []
    if len(asked) != len(response["rows"]):
        asked = [{}] * len(response["rows"])
    at = _instant(response["at"])
    latency = (at - _instant(request["at"])) / timedelta(milliseconds=1) if request is not None else None
    about = {
        "request_id": response["request_id"],
        "scored_at": at,
        "workload": response["workload"],
        "model_name": response["model_name"],
        "latency_ms": latency if latency is not None and latency >= 0 else None,
    }
    told = told_of(response["workload"])
    rows = [{**before, **after} for before, after in zip(asked, response["rows"], strict=True)]
    return [
        _row(row, told) | about | {"prediction_id": f"{response['request_id']}:{place}"}
        for place, row in enumerate(rows)
    ]


def _row(said: Mapping[str, Any], told: Told) -> dict[str, Any]:
    """What both halves say, by the workload's names, as a row of the log."""
    row = {name: value for name, value in said.items() if name not in told.names}
    if told.event_id in said:
        row["event_id"] = said[told.event_id]
    if "event_timestamp" in row:
        row["event_timestamp"] = _instant(row["event_timestamp"])
    for column, names in (("keys", told.keys), ("fields", told.fields)):
        row[column] = {name: said[name] for name in names if name in said}
    return row


def _take(connection: sa.Connection, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Half]:
    """Those of `wanted` that wait in the table, which they leave."""
    taken: dict[tuple[str, str], Half] = {}
    for start in range(0, len(wanted), IDS_PER_QUERY):
        match = sa.tuple_(HALVES.c.request_id, HALVES.c.kind).in_(wanted[start : start + IDS_PER_QUERY])
        for name, kind, rows in connection.execute(
            sa.select(HALVES.c.request_id, HALVES.c.kind, HALVES.c.rows).where(match)
        ):
            taken[name, kind] = orjson.loads(rows)
        connection.execute(sa.delete(HALVES).where(match))
    return taken


def _stored(half: Half) -> dict[str, Any]:
    return {
        "request_id": half["request_id"],
        "kind": half["kind"],
        "received_at": _instant(half["received"]),
        "rows": orjson.dumps(dict(half)).decode(),
    }


def _other(kind: str) -> str:
    return "response" if kind == "request" else "request"


def _instant(value: datetime | str) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
