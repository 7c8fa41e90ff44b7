"""Alert precision is read from a real prediction log with labels in; a canary that flags the wrong ones goes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from kubernetes import client
from logged import label_row

from millrace.events import log as prediction_log
from millrace.events.log import write_labels, write_predictions
from millrace.registry.models import Registry
from millrace.rollout import canary
from millrace.rollout.decision import Action, Decision
from millrace.rollout.observations import Alerts
from millrace.rollout.policy import RolloutPolicy
from millrace.settings import Settings
from serving.rollout import core
from serving.rollout.cluster import ClusterTarget, PrometheusMetrics
from serving.rollout.labels import LabelSource

BEGAN = datetime(2018, 9, 1, tzinfo=UTC)
NOW = BEGAN + timedelta(hours=2)
POLICY = RolloutPolicy(min_sample=100, min_labelled_alerts=30, min_step_s=10, max_step_s=86_400)
CANARY = "fraud-detector-predictor-00002"
Score = Callable[..., None]


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def score(home: Settings) -> Score:
    """`score("2", 40, frauds=10)`: so many transactions that a version flagged, labelled an hour later."""
    database = prediction_log.engine(home)
    prediction_log.migrate(database)
    numbers = iter(range(100_000))

    def write(version: str, rows: int, frauds: int = 0, *, at: datetime = BEGAN, decision: str = "review",
              known: datetime | None = BEGAN + timedelta(hours=1)) -> None:  # fmt: skip
        ids = [next(numbers) for _ in range(rows)]
        about = {"scored_at": at + timedelta(minutes=1), "model_version": version, "decision": decision}
        about["workload"] = "fraud"
        write_predictions(database, [about | {"prediction_id": str(n), "event_id": n} for n in ids])
        if known is not None:
            fraud = [place < frauds for place in range(rows)]
            told = zip(ids, fraud, strict=True)
            write_labels(database, [label_row(n, yes, known) for n, yes in told])

    yield write
    database.dispose()


def counted(home: Settings, version: str) -> tuple[int, int]:
    found = LabelSource(home).known(version, BEGAN.timestamp(), NOW.timestamp())
    assert isinstance(found, Alerts)
    return found.labelled, found.true


def test_flagged_transactions_with_a_known_label_are_counted_and_nothing_else(home: Settings, score: Score) -> None:
    score("2", 40, frauds=10)
    score("1", 7, frauds=7)
    score("2", 5, frauds=5, decision="approve")
    score("2", 5, frauds=5, at=BEGAN - timedelta(days=1))
    score("2", 5, known=None)
    score("2", 5, frauds=5, known=NOW + timedelta(minutes=1))

    assert (counted(home, "2"), counted(home, "1"), counted(home, "3")) == ((40, 10), (7, 7), (0, 0))


def test_a_label_that_was_corrected_counts_as_it_is_known_now(home: Settings, score: Score) -> None:
    score("2", 10, frauds=10)
    database = prediction_log.engine(home)
    later = BEGAN + timedelta(minutes=90)
    write_labels(database, [label_row(0, False, later)])
    database.dispose()

    assert counted(home, "2") == (10, 9)


def test_a_log_that_is_not_there_or_cannot_be_read_knows_no_labels(home: Settings, capsys) -> None:
    assert counted(home, "2") == (0, 0)
    assert not (home.prediction_log / "log.db").exists()

    home.prediction_log.mkdir()
    (home.prediction_log / "log.db").write_bytes(b"")

    assert counted(home, "2") == (0, 0)
    assert "labels_unknown" in capsys.readouterr().err


@dataclass(frozen=True, slots=True)
class Cluster:
    """A service with a canary that has its first step's traffic; what is observed of it is healthy."""

    target: ClusterTarget
    metrics: PrometheusMetrics
    registry: Registry

    def start(self) -> None:
        core.start(self.target, self.registry, POLICY, BEGAN.timestamp)
        self.look(BEGAN + timedelta(seconds=20))

    def look(self, now: datetime = NOW) -> Decision:
        _, decision = core.step(self.target, self.metrics, self.registry, POLICY, now.timestamp())
        return decision


@pytest.fixture
def cluster(home: Settings, registry: Registry, api_server: Any, prometheus: Any) -> Cluster:
    for revision, version in (("fraud-detector-predictor-00001", "1"), (CANARY, "2")):
        prometheus.has(revision, version)
    api = client.ApiClient(client.Configuration(host=api_server.url))
    target = ClusterTarget("fraud-detector", "millrace", client.CustomObjectsApi(api))
    return Cluster(target, PrometheusMetrics(prometheus.url, "millrace", "fraud-detector", LabelSource(home)), registry)


@pytest.mark.parametrize(("frauds", "action"), [(40, Action.ROLL_BACK), (78, Action.ADVANCE)])
def test_a_canary_whose_alerts_are_less_precise_is_rolled_back(
    cluster: Cluster, score: Score, api_server: Any, frauds: int, action: Action
) -> None:
    """Whatever else is measured is healthy; the labels come while the canary has its first step's traffic."""
    cluster.start()
    score("1", 100, frauds=80)
    score("2", 100, frauds=frauds)

    decision = cluster.look()

    assert decision.action is action, decision.reason
    assert "alert precision drop" in decision.reason
    assert canary.serving(api_server.document) == ((1 if action is Action.ROLL_BACK else 2), ANY)


@pytest.mark.parametrize(("frauds", "action"), [(40, Action.ROLL_BACK), (78, Action.ADVANCE)])
def test_labels_decide_where_the_scores_of_a_canary_are_spread_otherwise(
    cluster: Cluster, score: Score, prometheus: Any, frauds: int, action: Action
) -> None:
    prometheus.has(CANARY, "2", scores=(0, 0, 0.1, 0.3, 0.3, 0.2, 0.1, 0))
    score("1", 100, frauds=80)
    score("2", 100, frauds=frauds)
    cluster.start()

    decision = cluster.look()

    assert decision.action is action, decision.reason
    told = "score PSI" if action is Action.ADVANCE else "alert precision drop"
    assert told in decision.reason
