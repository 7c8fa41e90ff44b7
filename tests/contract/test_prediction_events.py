"""What the transformer says of an answer is what the prediction log takes."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE
from millrace.events.prediction import CHAMPION, SHADOW
from millrace.installed import load
from serving.logged_rows import Bodies
from serving.prediction_log.core import Events
from serving.transformer.answers import Door
from serving.transformer.context import Context
from serving.transformer.core import Part, Scored
from serving.transformer.events import CONTENT_TYPE, Record, encode

NOW = datetime(2018, 9, 30, 12, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_every_event_of_the_transformer_is_taken_with_all_it_says() -> None:
    one = {"event_timestamp": "2018-09-30T11:59:00Z", "customer_id": "9", "terminal_id": "4", "amount": 2.5}
    said = [{"transaction_id": number} | one for number in range(3)]
    features = np.ones((3, len(FEATURE_NAMES)), np.float32)
    features[1, 0] = np.nan
    context = Context.of({b"x-request-id": b"r:1", b"traceparent": TRACE.encode()}, 1.0)
    scored = Scored({"score": np.array([0.25, 0.75], np.float32)}, "3", 0.5, 64)

    door = Door(load("fraud"))
    requests = door.format.from_rows(said, 0)
    keys = door.format.keys(requests, lambda _: "0123456789abcdef")

    def record(arm: str) -> Record:
        part = Part([0, 1], scored, arm, "fraud-detector")
        return Record(door, context, NOW, 3.25, requests, keys, features, False, part)

    taken, log = [], Events(Bodies("fraud", b"key"))
    for body, _ in encode([record(CHAMPION), record(SHADOW)], 3):
        taken += log.read({b"content-type": CONTENT_TYPE}, body, NOW)
    rows = [one["row"] for one in taken]

    assert [row["prediction_id"] for row in rows] == ["r:1:0", "r:1:1", "r:1:0:shadow", "r:1:1:shadow"]
    assert {row["request_id"] for row in rows} == {"r:1"}
    assert [(row["score"], row["decision"]) for row in rows[:2]] == [(0.25, "approve"), (0.75, "review")]
    assert rows[1]["features"][:2] == [None, 1.0]
    assert rows[0]["keys"] == {"customer_id": "0123456789abcdef", "terminal_id": "4"}
    assert rows[0]["fields"] == {"amount": 2.5}
    assert (rows[0]["traceparent"], rows[0]["feature_service"], rows[0]["scored_at"]) == (TRACE, FEATURE_SERVICE, NOW)
