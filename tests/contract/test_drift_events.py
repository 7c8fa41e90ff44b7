"""What the transformer sends is what the detector reads; what the detector raises is what the trigger takes."""

from __future__ import annotations

from dataclasses import asdict

import orjson
import pytest

from fraud.features import FEATURE_NAMES
from serving.drift_detector.alarms import TYPE, cloud_event
from serving.drift_detector.events import BATCH, PREDICTION, Events
from serving.drift_detector.watch import Alarm
from serving.retraining_trigger.events import EVENT_TYPE, alarms
from serving.transformer.events import CONTENT_TYPE
from serving.transformer.events import EVENT_TYPE as SENT_TYPE


def alarm(kind: str, *, retrain: bool) -> dict[str, object]:
    stamp = "2018-09-30T12:00:00+00:00"
    return asdict(
        Alarm("0a1b", stamp, kind, ("amount",), "warning", "amount moved", "count", stamp, stamp, 1_500, "1", retrain)
    )


def test_the_two_sides_call_a_prediction_event_the_same():
    assert (SENT_TYPE, CONTENT_TYPE.decode()) == (PREDICTION, BATCH)


def test_an_event_as_orjson_writes_it_is_read_with_its_gaps():
    data = {
        "transaction_id": 1, "event_timestamp": "2018-09-30T12:00:00.123456+00:00", "model_name": "fraud-detector",
        "model_version": "1", "score": 0.5, "decision": "review", "degraded": False, "stage": "full", "arm": "champion",
        "features": [None] * len(FEATURE_NAMES), "amount": 1.5, "latency_ms": 2.0,
    }  # fmt: skip
    event = {"specversion": "1.0", "type": PREDICTION, "id": "a:0", "source": "/millrace/fraud-detector", "data": data}

    rows = Events("fraud-detector", FEATURE_NAMES).read(orjson.dumps([event]), {"content-type": BATCH})

    assert [(row.id, row.model_version, row.review) for row in rows] == [("a:0", "1", True)]
    assert rows[0].event_us == 1_538_308_800_123_456


@pytest.mark.parametrize(("kind", "retrain"), [("features", True), ("missing", False)])
def test_the_trigger_takes_an_alarm_and_knows_whether_to_retrain(kind, retrain):
    event = cloud_event(alarm(kind, retrain=retrain), "/millrace/drift-detector")

    found = alarms({b"content-type": EVENT_TYPE}, orjson.dumps(event), "fraud-detector")

    assert event["type"] == TYPE
    assert [(request.id, request.wanted) for request in found] == [("0a1b", retrain)]
