"""What the transformer sends is what the detector reads; what the detector raises is what the trigger takes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
from logged import prediction_event

from fraud.features import FEATURE_NAMES
from millrace.events.kinds import encode, read_alarm
from serving.drift_detector.alarms import TYPE, cloud_event
from serving.drift_detector.events import Events
from serving.drift_detector.watch import Alarm
from serving.retraining_trigger.events import request_of


def alarm(kind: str, *, retrain: bool) -> dict[str, object]:
    stamp = "2018-09-30T12:00:00+00:00"
    return asdict(
        Alarm("0a1b", stamp, kind, ("amount",), "warning", "amount moved", "count", stamp, stamp, 1_500, "1", retrain)
    )


def test_an_event_as_orjson_writes_it_is_read_with_its_gaps():
    said = {"event_timestamp": "2018-09-30T12:00:00.123456+00:00", "decision": "review", "stage": "cache"}
    event = prediction_event(1, model_version="1", features=[None] * len(FEATURE_NAMES), **said) | {"id": "a:0"}

    rows = Events("fraud-detector", "fraud").read(encode(event))

    assert rows is not None
    assert [(row.id, row.model_version, row.review) for row in rows] == [("a:0", "1", True)]
    assert rows[0].event_us == 1_538_308_800_123_456


def test_trials_and_events_of_the_future_end_no_day_and_cost_their_neighbours_nothing():
    now = datetime.now(UTC)
    said = [
        {},
        {"event_timestamp": "2199-01-01T00:00:00Z"},
        {"dry_run": True},
        {"event_timestamp": (now + timedelta(seconds=400)).isoformat()},
        {"event_timestamp": (now + timedelta(seconds=200)).isoformat(), "dry_run": False},
    ]
    batch = [prediction_event(number, features=[None] * len(FEATURE_NAMES), **data) for number, data in enumerate(said)]

    found = [Events("fraud-detector", "fraud").read(encode(event)) for event in batch]

    assert [rows and rows[0].id for rows in found] == ["request-0:0", None, None, None, "request-4:0"]


@pytest.mark.parametrize(("kind", "retrain"), [("features", True), ("missing", False)])
def test_the_trigger_takes_an_alarm_and_knows_whether_to_retrain(kind, retrain):
    event = cloud_event(alarm(kind, retrain=retrain), "/millrace/drift-detector")

    workload, request = request_of(read_alarm(encode(event)), {"fraud-detector": "fraud"}, "fraud")

    assert event["type"] == TYPE
    assert (workload, request.id, request.wanted) == ("fraud", "0a1b", retrain)
