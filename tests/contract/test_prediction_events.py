"""What the transformer says of an answer is what every reader of the stream takes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fraud.features import FEATURE_NAMES, FEATURE_SERVICE
from millrace.errors import InvalidInput, Unavailable
from millrace.events.kinds import encode, read_scored
from millrace.events.log import engine, migrate, write_predictions
from millrace.events.prediction import CHALLENGER, CHAMPION, SHADOW
from millrace.installed import load
from millrace.settings import Settings
from millrace.workload import Task
from serving.drift_detector.events import Events as DetectorEvents
from serving.prediction_log.core import row_of
from serving.transformer.answers import Door
from serving.transformer.context import Context
from serving.transformer.core import Part, Scored
from serving.transformer.events import Record, cloud_events
from serving.transformer.fit import require_fit

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

    events = [event for one in (record(CHAMPION), record(SHADOW)) for event in cloud_events(one)]
    rows = [row_of(read_scored(encode(event))) for event in events]

    assert [row["prediction_id"] for row in rows] == ["r:1:0", "r:1:1", "r:1:0:shadow", "r:1:1:shadow"]
    assert {row["request_id"] for row in rows} == {"r:1"}
    assert [(row["score"], row["decision"]) for row in rows[:2]] == [(0.25, "approve"), (0.75, "review")]
    assert rows[1]["features"][:2] == [None, 1.0]
    assert rows[0]["keys"] == {"customer_id": "0123456789abcdef", "terminal_id": "4"}
    assert rows[0]["fields"] == {"amount": 2.5}
    assert (rows[0]["traceparent"], rows[0]["feature_service"], rows[0]["scored_at"]) == (TRACE, FEATURE_SERVICE, NOW)


DOORS = {name: Door(load(name)) for name in ("fraud", "trips")}
VALUES = {
    "money": st.integers(-10, 10**11).map(lambda cents: cents / 100),
    "number": st.floats(0, 1e6) | st.floats(-10.0, 1e300),
    "whole": st.integers(0, 6) | st.integers(-5, 2**53),
    "class": st.integers(0, 1),
    "text": st.text(st.characters(exclude_categories=("C", "Z")), max_size=140),
}
PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=128)
ANY_TEXT = st.one_of(PRINTABLE, PRINTABLE, PRINTABLE, st.text(max_size=300))
FIGURE = st.floats(0, 1, width=32)
LAST_US = 7_258_118_400_000_000
"""The end of 2199, as it were now."""
ANY_FLOAT32 = st.floats(width=32) | st.sampled_from([3.4028234663852886e38, float("nan"), float("inf")])


@st.composite
def said(draw: st.DrawFn) -> Record:
    """What a transformer that has taken a request and a predictor's answer says of it: all that gets so far."""
    name = draw(st.sampled_from(sorted(DOORS)))
    door, workload = DOORS[name], DOORS[name].workload
    row = {door.format.event_id: draw(st.integers(-(2**63), 2**63 - 1))}
    row["event_timestamp"] = draw(
        st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.timezones())
    ).isoformat()
    row |= {entity.key: draw(ANY_TEXT) for entity in door.format.asked}
    row |= {field.name: draw(VALUES[field.kind]) for field in door.format.fields}
    headers = {
        b"x-request-id": draw(st.binary(max_size=140)),
        b"traceparent": draw(st.binary(max_size=300) | st.just(TRACE.encode())),
    }
    figures = sorted(draw(st.one_of(FIGURE, FIGURE, FIGURE, ANY_FLOAT32)) for _ in workload.exchange.ANSWER)
    names = sorted(workload.exchange.ANSWER, key=["low", "score", "high"].index)
    outputs = {name: np.float32([value]) for name, value in zip(names, figures, strict=True)}
    stages = draw(st.sampled_from([(), ("full",), ("cheap",), ("cache",), ("full",), ("memory",)]))
    threshold = 0.5 if workload.task is Task.RANKING else None
    scored = Scored(outputs, draw(ANY_TEXT), threshold, 64, stages)
    try:
        requests = door.format.from_rows([row], LAST_US)
        require_fit(workload, scored, 64)
    except (InvalidInput, Unavailable):
        reject()
    keys = door.format.keys(requests, lambda _: "0123456789abcdef")
    context = Context.of(headers, 1.0)
    shape = (1, len(workload.features.FEATURE_NAMES))
    features = draw(arrays(np.float32, shape, elements=ANY_FLOAT32, fill=ANY_FLOAT32))
    part = Part([0], scored, draw(st.sampled_from([CHAMPION, CHALLENGER, SHADOW])), workload.model_name)
    return Record(door, context, NOW, draw(st.floats(0, 1e6)), requests, keys, features, draw(st.booleans()), part)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    made = engine(Settings(home=tmp_path_factory.mktemp("log")))
    migrate(made)
    yield made
    made.dispose()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(record=said())
def test_whatever_the_sender_can_say_every_reader_takes(log: sa.Engine, record: Record) -> None:
    workload = record.door.workload

    for event in cloud_events(record):
        body = encode(event)
        row = row_of(read_scored(body))
        rows = DetectorEvents(workload.model_name, workload.name, clock=lambda: LAST_US / 1e6).read(body)
        write_predictions(log, [row])

        assert rows is not None
        assert rows[0].score == row["score"]
