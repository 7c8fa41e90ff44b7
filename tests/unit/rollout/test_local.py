"""The local side: what a canary looks like in the file, and counts from what servers say under /metrics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import yaml

from millrace.errors import ConfigError, NotFound, Unavailable
from millrace.lake.atomic import exclusive
from millrace.rollout import canary
from millrace.rollout.observations import Histogram
from serving.local.state import LocalState, Place, ProcessState, RevisionState, ServiceState
from serving.local.statistics import knative
from serving.rollout import core
from serving.rollout.core import RevisionNames
from serving.rollout.growth import Growth
from serving.rollout.local import LocalMetrics, LocalTarget
from serving.rollout.samples import histogram, observed, parsed, told_apart

NOW = 1_700_000_000.0


def test_a_canary_is_started_moved_and_ended_in_the_document(document):
    started = canary.started(document, (2, "file:///models/2"), 10, NOW)
    ready = canary.ready(started, NOW + 5)
    advanced = canary.advanced(ready, 50, NOW + 60, "healthy")
    promoted = canary.promoted(advanced, NOW + 120, "healthy")
    rolled_back = canary.rolled_back(advanced, NOW + 120, "slow")

    assert canary.read(document) is None
    assert [d["spec"]["predictor"].get("canaryTrafficPercent") for d in (started, advanced, promoted, rolled_back)] == [
        *(10, 50, None, 0)
    ]
    assert [canary.serving(d) for d in (started, promoted)] == [(2, "file:///models/2")] * 2
    assert canary.serving(rolled_back) == canary.serving(document) == (1, "file:///models/1")
    assert [canary.stable_version(d) for d in (document, started, advanced, promoted, rolled_back)] == [1, 1, 1, 2, 1]
    state = canary.read(advanced).state
    assert (state.percent, state.began, state.step_began) == (50, NOW, NOW + 60)
    assert canary.read(ready).state.step_began == NOW + 5
    assert canary.read(rolled_back).reason == "slow"


def test_where_a_rollout_is_is_said_in_one_line(document):
    started = canary.started(document, (2, "file:///models/2"), 10, NOW)
    rolled_back = canary.rolled_back(canary.ready(started, NOW + 5), NOW + 9, "memory MB 990 (limit 413, stable 157)")

    said = [core.told(item) for item in (document, started, canary.ready(started, NOW + 5), rolled_back)]

    assert said == [
        "fraud-detector: nothing has been rolled out in steps. Start a canary with: make canary",
        "fraud-detector: version 2 beside 1, at 10 % since 2023-11-14T22:13:20.000+00:00, is starting: started",
        "fraud-detector: version 2 beside 1, at 10 % since 2023-11-14T22:13:25.000+00:00: started",
        "fraud-detector: version 2 beside 1, rolled back since 2023-11-14T22:13:29.000+00:00: "
        "memory MB 990 (limit 413, stable 157)",
    ]


def test_the_document_that_was_given_is_left_as_it_was(document):
    before = yaml.safe_dump(document)

    canary.rolled_back(canary.started(document, (2, "u"), 10, NOW), NOW, "x")

    assert yaml.safe_dump(document) == before


def test_annotations_that_cannot_be_read_are_named(document):
    started = canary.started(document, (2, "u"), 10, NOW)
    del started["metadata"]["annotations"]["rollout.millrace.io/began"]

    with pytest.raises(ConfigError, match="start the canary again"):
        canary.read(started)
    with pytest.raises(ConfigError, match="no rollout is under way"):
        canary.promoted(document, NOW, "")


def test_a_document_without_a_version_serves_none(document):
    del document["metadata"]["annotations"]["millrace.io/model-version"]

    assert canary.serves(document) is None
    with pytest.raises(ConfigError, match="serves no version yet"):
        canary.started(document, (2, "u"), 10, NOW)


ENVOY = """\
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="fraud-predictor-00001"} 3
envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="fraud-predictor-00001"} 1
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="fraud-predictor-00001",le="1"} 1
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="fraud-predictor-00001",le="3"} 3
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="fraud-predictor-00001",le="+Inf"} 4
envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="fraud-predictor-00001"} 70005.4
envoy_cluster_upstream_rq_time_count{envoy_cluster_name="fraud-predictor-00001"} 4
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="fraud-transformer-01234567"} 9
"""


def test_what_envoy_counts_is_what_the_controller_sees():
    scores = (
        'millrace_score_bucket{le="0.5",model_version="1"} 3.0\n'
        'millrace_score_bucket{le="+Inf",model_version="1"} 4.0\n'
        'millrace_predictions_total{decision="review",degraded="False",model_version="1"} 1.0\n'
        'millrace_predictions_total{decision="approve",degraded="False",model_version="1"} 3.0\n'
        "# HELP python_info x\npython_info 1.0\n"
    )

    seen = observed(parsed(knative(ENVOY) + scores), "fraud-predictor-00001", "1", decides=True)

    assert (seen.requests, seen.errors, seen.reviewed) == (4, 1, 1)
    assert (seen.latency_ms.total, seen.latency_ms.counts[0], seen.latency_ms.counts[-1]) == (4, 1, 1)
    assert seen.scores == Histogram((0.5,), (3, 1))
    assert observed({}, "x", "9", decides=True).requests == 0
    assert observed({}, "x", "9", decides=False).reviewed is None


def test_two_replicas_of_a_transformer_are_added_up():
    first = parsed(
        'millrace_score_bucket{le="0.5",model_version="1"} 3\nmillrace_score_bucket{le="+Inf",model_version="1"} 4'
    )
    both = {told_apart(key, replica): value for replica in "12" for key, value in first.items()}

    assert observed(both, "fraud-predictor-00001", "1", decides=True).scores == Histogram((0.5,), (6, 2))


def test_cumulative_buckets_become_counts():
    assert histogram({1.0: 2.0, 2.0: 5.0, float("inf"): 6.0}) == Histogram((1.0, 2.0), (2.0, 3.0, 1.0))
    assert histogram({}).total == 0


def test_only_what_has_grown_since_a_mark_counts_and_a_restart_loses_nothing(tmp_path):
    growth, key = (
        Growth(tmp_path / "growth.json"),
        'revision_request_count{revision_name="r",response_code_class="2xx"}',
    )

    grown = [growth.since("step 1", {key: value}).get(key) for value in (100.0, 130.0, 5.0)]
    resumed = Growth(tmp_path / "growth.json").since("step 1", {key: 6.0})[key]
    next_step = [growth.since("step 2", {key: value}).get(key) for value in (8.0, 10.0)]

    assert grown == [0.0, 30.0, 35.0]
    assert resumed == 36.0
    assert next_step == [0.0, 2.0]


def test_a_runtime_that_is_not_there_is_named(tmp_path, document):
    place = Place(tmp_path)
    rollout = canary.read(canary.started(document, (2, "u"), 10, NOW))
    target = LocalTarget(place, "fraud-detector")

    with pytest.raises(NotFound, match="make run"):
        target.read()
    with pytest.raises(Unavailable, match="make up"):
        target.revisions(rollout)
    with pytest.raises(Unavailable, match="make up"):
        LocalMetrics(place, "fraud-detector").observe(rollout, RevisionNames("a", "b", canary_ready=True), NOW)


def test_the_runtime_says_which_revisions_there_are_and_when_one_will_not_start(tmp_path, document):
    place = Place(tmp_path)
    rollout = canary.read(canary.started(document, (2, "u"), 10, NOW))
    target = LocalTarget(place, "fraud-detector")

    log = tmp_path / "r2.log"
    log.write_text("loading\nmillrace.errors.SchemaMismatch: other features\n\n")
    process = ProcessState("predictor", revision="r2", ended="with status 1", log=str(log))

    def names(*revisions: RevisionState) -> RevisionNames:
        service = ServiceState("fraud-detector", "InferenceService", revisions=list(revisions))
        place.write(LocalState(1, "", "", "fraud-detector", "1", processes=[process], services=[service]))
        return target.revisions(rollout)

    with exclusive(place.lock, "the runtime"):
        stable = RevisionState("r1", "1", 90, ready=True)
        assert not names(stable).canary_ready
        assert not names(stable, RevisionState("r2", "2", 0, ready=False)).canary_ready
        assert names(stable, RevisionState("r2", "2", 10, ready=True)) == RevisionNames("r1", "r2", canary_ready=True)
        failed = names(stable, RevisionState("r2", "2", 0, ready=False, failed_starts=3)).failed

    said = "its server ended 3 times before it was ready, with status 1: millrace.errors.SchemaMismatch: other features"
    assert failed == said


def test_a_change_is_written_aside_and_no_change_not_at_all(tmp_path, document: dict[str, Any]):
    place = Place(tmp_path)
    path = place.manifest("fraud-detector")
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(document))
    target = LocalTarget(place, "fraud-detector")
    before = path.stat().st_ino

    target.change(lambda found: found)
    same = path.stat().st_ino
    target.change(lambda found: canary.started(found, (2, "u"), 10, NOW))

    assert same == before
    assert path.stat().st_ino != before
    assert asdict(canary.read(target.read()))["canary_version"] == "2"
