"""Events of a quantity go the way that a ranking's go: log, readers, detector, comparison, monitoring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from components.monitor.config import MonitorConfig
from components.monitor.core import monitor
from millrace.errors import InvalidInput
from millrace.events.kinds import encode
from millrace.events.log import engine, migrate, write_labels, write_predictions
from millrace.events.prediction import event_of
from millrace.events.table import read_predictions, schema_of
from millrace.installed import load
from millrace.rollout.observations import Errors
from millrace.settings import Settings
from run.compare import main as compare
from serving.cloudevents import BATCH
from serving.drift_detector.backends import Streaming
from serving.drift_detector.core import fit
from serving.drift_detector.events import Events as DetectorEvents
from serving.drift_detector.judgement import Reference, Window
from serving.logged_rows import Bodies
from serving.posted import Posted
from serving.prediction_log.core import decode_labels, row_of
from serving.prediction_log.labels import read_csv
from serving.rollout.labels import LabelSource

TRIPS = load("trips")
NAMES = TRIPS.features.FEATURE_NAMES
START = datetime(2021, 2, 1, tzinfo=UTC)
HEADERS = {b"content-type": BATCH.encode()}


def event(number: int, **changes: Any) -> dict[str, Any]:
    """A trip that was predicted to take 14 minutes."""
    data: dict[str, Any] = {
        "workload": "trips", "event_id": number, "event_timestamp": "2021-02-01T08:00:00Z",
        "keys": {"pickup_zone": "74", "dropoff_zone": "42"}, "fields": {"passenger_count": None, "trip_distance": 2.5},
        "model_name": TRIPS.model_name, "model_version": "1", "score": 14.5, "low": 9.0, "high": 22.0,
        "degraded": False, "stage": "full", "arm": "champion", "latency_ms": 2.0,
        "features": [1.0] * len(NAMES), "feature_service": TRIPS.features.FEATURE_SERVICE,
    }  # fmt: skip
    return event_of(data | changes, request_id=f"r{number}", row=0, scored_at="2021-02-01T08:00:01Z")


def taken(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return Posted(Bodies("fraud", b"key")).read(HEADERS, json.dumps(events).encode(), START)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    monkeypatch.setenv("MILLRACE_WORKLOAD", "trips")
    return Settings()


@pytest.fixture
def log(home: Settings) -> Iterator[sa.Engine]:
    made = engine(home)
    migrate(made)
    yield made
    made.dispose()


def fill(log: sa.Engine, days: int, versions: tuple[tuple[str, str, float], ...], slower_from: int = 10**6) -> None:
    """Days of trips, each scored by every (arm, version, noise); their labels came when they ended."""
    rng = np.random.default_rng(3)
    for day in range(days):
        truth = rng.gamma(3, 5, 300) + 1
        begin = [START + timedelta(days=day, minutes=4.8 * place) for place in range(300)]
        zone = rng.integers(1, 60, 300)
        for arm, version, noise in versions:
            answer = truth * rng.normal(1, noise, 300)
            write_predictions(log, [
                {
                    "prediction_id": f"{arm}{day}-{i}", "request_id": "r", "scored_at": begin[i], "workload": "trips",
                    "event_id": day * 1000 + i, "event_timestamp": begin[i], "model_name": TRIPS.model_name,
                    "keys": {"pickup_zone": str(zone[i]), "dropoff_zone": "42"}, "fields": {"trip_distance": 2.0},
                    "model_version": version, "score": answer[i], "low": 0.6 * answer[i], "high": 1.5 * answer[i],
                    "degraded": False, "stage": "full", "arm": arm, "latency_ms": 2.0, "features": [1.0] * len(NAMES),
                    "feature_service": TRIPS.features.FEATURE_SERVICE,
                }
                for i in range(300)
            ])  # fmt: skip
        minutes = truth * (1.4 if day >= slower_from else 1.0)
        write_labels(log, [
            {"workload": "trips", "event_id": day * 1000 + i, "value": minutes[i],
             "label_timestamp": begin[i] + timedelta(minutes=minutes[i])}
            for i in range(300)
        ])  # fmt: skip


def test_an_event_of_a_quantity_is_logged_and_read_by_the_workloads_names(log: sa.Engine) -> None:
    write_predictions(log, [row_of(record) for record in taken(event(1))])
    label = decode_labels(b'{"labels": [{"trip_id": 1, "duration_min": 12.25}]}', START, "trips")[0]["data"]
    write_labels(log, [{name: label[name] for name in ("workload", "event_id", "value", "label_timestamp")}])

    (row,) = read_predictions(log, "trips", with_labels_known_at=datetime.now(UTC)).to_pylist()

    assert "decision" not in schema_of("trips").names
    assert (row["trip_id"], row["pickup_zone"], row["passenger_count"], row["trip_distance"]) == (1, "74", None, 2.5)
    assert (row["score"], row["low"], row["high"], row["duration_min"]) == (14.5, 9.0, 22.0, 12.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 30.0}, "low and high"),
        ({"fields": {"amount": 1.0}}, "fields.amount is unknown"),
        ({"keys": {"pickup_zone": "74"}}, "keys are of"),
        ({"workload": "nobody"}, "there is no workload 'nobody'"),
    ],
)
def test_what_does_not_fit_the_workload_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        taken(event(1, **changes))


def test_labels_of_a_quantity_are_numbers() -> None:
    (record,) = read_csv(b"trip_id;duration_min\n7;12.5\n", START, "trips")

    assert (record["data"]["event_id"], record["data"]["value"]) == (7, 12.5)
    with pytest.raises(InvalidInput, match="duration_min"):
        read_csv(b"trip_id,duration_min\n7,inf\n", START, "trips")


def test_the_detector_judges_scores_of_any_range_and_knows_no_decisions() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(0, 1, (3_000, len(NAMES))).astype(np.float32)
    features[:, NAMES.index(TRIPS.watch.HOUR)] = rng.integers(0, 24, 3_000)
    features[:, NAMES.index(TRIPS.watch.WEEKEND)] = 0
    minutes = rng.gamma(3, 5, 3_000).astype(np.float32)
    reference = Reference("1", NAMES, features[:2_000], minutes[:2_000], None, TRIPS.watch)
    detector = fit(reference, Streaming())

    reader = DetectorEvents(TRIPS.model_name, "trips")
    rows, others = (reader.read(encode(one)) for one in (event(1), event(2, model_name="another")))
    same, slower = (
        detector.judge(Window(features[2_000:], minutes[2_000:] * factor, np.zeros(1_000, bool)))
        for factor in (1.0, 1.6)
    )

    assert rows is not None
    assert (len(rows), rows[0].score, others) == (1, 14.5, None)
    assert "decision" not in [item.name for item in same.comparisons]
    assert not same.drifted
    assert [finding.kind for finding in slower.findings][:1] == ["score"]


def test_a_canarys_error_is_read_from_labels(home: Settings, log: sa.Engine) -> None:
    fill(log, 2, (("champion", "1", 0.1), ("challenger", "2", 0.4)))
    source = LabelSource(home)
    now = (START + timedelta(days=3)).timestamp()

    stable, canary = (source.known(version, START.timestamp(), now) for version in ("1", "2"))

    assert isinstance(stable, Errors)
    assert isinstance(canary, Errors)
    assert stable.labelled == canary.labelled == 600
    assert canary.mean > 3 * stable.mean


def test_two_sides_are_compared_by_their_error(home: Settings, log: sa.Engine, capsys: Any) -> None:
    fill(log, 3, (("champion", "1", 0.1), ("shadow", "2", 0.3)))

    status = compare(["champion", "shadow"])

    document = json.loads((home.reports / "comparison.json").read_text())
    assert status == 0
    assert "Mean absolute error, B - A" in (said := capsys.readouterr().out)
    assert "A is better" in said
    assert document["metrics"]["mean absolute error"]["difference"]["low"] > 0
    assert document.keys().isdisjoint({"decisions", "agreement", "positives"})


@pytest.mark.parametrize(("slower_from", "decayed"), [(10**6, False), (10, True)])
def test_monitoring_tells_a_slower_world_from_the_old_one(
    home: Settings, log: sa.Engine, slower_from: int, decayed: bool
) -> None:
    fill(log, 16, (("champion", "1", 0.2),), slower_from)

    report = monitor(home, START + timedelta(days=16), MonitorConfig.load(overrides={"resamples": 20}))

    facts, page = report.facts, report.path("report.html").read_text()
    assert facts["retrain"] is decayed, facts["failed"]
    assert {"mae_v1", "coverage_v1"} <= facts["metrics"].keys()
    assert "mean absolute error" in page
    assert "precision" not in page
