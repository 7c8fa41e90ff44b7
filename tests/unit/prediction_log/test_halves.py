"""Requests and responses of KServe's logger, whichever way round they come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
import sqlalchemy as sa

from millrace.events.log import HALVES, insert_predictions, transaction
from millrace.events.table import read_predictions
from serving.prediction_log.halves import GRACE, expire, join

NOON = datetime(2018, 9, 30, 12, tzinfo=UTC)


def half(kind: str, name: str = "abc", **changes: Any) -> dict[str, Any]:
    rows = {
        "request": [{"transaction_id": 1, "terminal_id": "42", "amount": 3.5}],
        "response": [{"transaction_id": 1, "score": 0.7, "decision": "review", "model_version": "3"}],
    }
    later = timedelta(milliseconds=20) if kind == "response" else timedelta(0)
    times = {"received": NOON.isoformat(), "at": (NOON + later).isoformat()}
    about = {"kind": kind, "request_id": name, "workload": "fraud", "model_name": "fraud-detector"}
    return about | {"rows": rows[kind]} | times | changes


def keep(log: sa.Engine, *halves: dict[str, Any]) -> list[dict[str, Any]]:
    with transaction(log) as connection:
        rows = join(connection, halves)
        insert_predictions(connection, rows)
    return rows


def waiting(log: sa.Engine) -> int:
    with log.connect() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(HALVES)).scalar_one())


def test_a_pair_in_one_batch_is_one_row(log: sa.Engine) -> None:
    keep(log, half("request"), half("response"))

    row = read_predictions(log, "fraud").to_pylist()[0]
    assert (row["prediction_id"], row["terminal_id"], row["amount"], row["score"]) == ("abc:0", "42", 3.5, 0.7)
    assert (row["scored_at"], row["latency_ms"]) == (NOON + timedelta(milliseconds=20), 20.0)
    assert waiting(log) == 0


@pytest.mark.parametrize("order", list(permutations(["request", "response", "request", "response"]))[:6])
def test_halves_in_any_order_and_repeated_are_one_row(log: sa.Engine, order: tuple[str, ...]) -> None:
    for kind in order:
        keep(log, half(kind))

    assert read_predictions(log, "fraud").num_rows == 1


def test_a_response_alone_becomes_rows_when_its_request_does_not_come(log: sa.Engine) -> None:
    keep(log, half("response"), half("request", "never answered"))

    with transaction(log) as connection:
        early = expire(connection, NOON + GRACE)
        rows, given_up = expire(connection, NOON + GRACE + timedelta(seconds=1))

    assert early == ([], 0)
    assert [(row["prediction_id"], row["score"]) for row in rows] == [("abc:0", 0.7)]
    assert (given_up, waiting(log)) == (1, 0)


def test_halves_that_disagree_about_the_rows_keep_what_the_response_says(log: sa.Engine) -> None:
    two = [{"score": 0.1}, {"score": 0.2}]

    rows = keep(log, half("request"), half("response", rows=two))

    assert [(row["prediction_id"], row["score"], row["fields"].get("amount")) for row in rows] == [
        ("abc:0", 0.1, None),
        ("abc:1", 0.2, None),
    ]
