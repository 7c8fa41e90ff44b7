"""The controller against an API server and a Prometheus over HTTP: traffic, conflicts, restarts, what is written."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from collector import collecting, tracing_to
from kubernetes import client

from millrace.errors import InvalidInput, NotFound, Unavailable
from millrace.lake.atomic import exclusive
from millrace.registry.models import CHALLENGER, CHAMPION, PREVIOUS, Registry
from millrace.rollout import canary
from millrace.rollout.decision import Action
from millrace.rollout.policy import RolloutPolicy
from serving.rollout import core
from serving.rollout.cluster import ClusterTarget, PrometheusMetrics
from serving.rollout.controller import Controller, serve_health

SCHEMAS = Path(os.environ.get("MILLRACE_SCHEMAS", Path(__file__).parents[4] / "shared" / "schemas"))
POLICY = RolloutPolicy(min_sample=100, min_step_s=10, max_step_s=100, max_start_s=50)
STABLE, CANARY = "fraud-detector-predictor-00001", "fraud-detector-predictor-00002"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def target(api_server) -> ClusterTarget:
    api = client.ApiClient(client.Configuration(host=api_server.url))
    return ClusterTarget("fraud-detector", "millrace", client.CustomObjectsApi(api))


@pytest.fixture
def make(target, prometheus, registry, clock):
    """A new controller, as after a restart."""

    def controller(**options: bool) -> Controller:
        metrics = PrometheusMetrics(prometheus.url, "millrace", "fraud-detector", pods=target.pods)
        return Controller(target, metrics, registry, POLICY, clock=clock, **options)

    return controller


def look(controller: Controller, clock: Clock, times: int = 1) -> list[tuple[str, int]]:
    """Look so many times, 20 s apart."""
    seen = []
    for _ in range(times):
        clock.now += 20
        _, decision = controller.look()
        seen.append((str(decision.action), decision.percent))
    return seen


def test_a_healthy_canary_is_promoted_by_a_new_controller_at_every_look(
    make, target, registry, prometheus, api_server, clock
):
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2")

    core.start(target, registry, POLICY, clock)
    started = api_server.traffic
    seen = [look(make(), clock)[0] for _ in range(5)]

    assert started == {STABLE: 90, CANARY: 10}
    assert seen == [("hold", 10), ("advance", 50), ("promote", 100), ("hold", 100), ("hold", 100)]
    assert api_server.traffic == {CANARY: 100}
    assert "canaryTrafficPercent" not in api_server.document["spec"]["predictor"]
    assert canary.serving(api_server.document) == (2, registry.uri(2))
    assert registry.aliases() == {CHAMPION: 2, PREVIOUS: 1}
    assert '"fraud-detector-predictor-00002"' in prometheus.queries[-1] or prometheus.queries


def test_every_move_of_traffic_is_a_trace(make, target, registry, prometheus, clock, monkeypatch):
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2", errors=200.0)

    with collecting() as collector, tracing_to(monkeypatch) as begin:
        begin(collector.url)
        core.start(target, registry, POLICY, clock)
        look(make(), clock, 3)

    spans = {item.name: item for item in collector.spans}
    assert set(spans) == {"rollout.start", "rollout.roll_back", "traffic", "registry"}
    assert spans["traffic"].span.parent_span_id == spans["rollout.roll_back"].span.span_id
    assert spans["rollout.roll_back"].attributes["millrace.rollout.canary"].int_value == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"errors": 200.0}, "error rate"),
        ({"latency": (0, 0, 0.1, 0.9, 0, 0)}, "latency"),
        ({"scores": (0, 0, 0.1, 0.3, 0.3, 0.2, 0.1, 0)}, "score PSI"),
        ({"requests": 4.0, "errors": 1.0, "faults": 1.0}, "answers that are no scores"),
        ({"requests": 12.0, "repeated": 11.0}, "equal scores"),
        ({"requests": 4.0, "memory_mb": 480.0}, "memory MB 480"),
    ],
)
def test_a_breach_gives_all_traffic_back_at_the_next_look(
    make, target, registry, prometheus, api_server, clock, changes, reason
):
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2", **changes)
    core.start(target, registry, POLICY, clock)

    seen = look(make(), clock, 3)

    assert seen == [("hold", 10), ("roll_back", 0), ("hold", 0)]
    assert api_server.traffic[STABLE] == 100
    assert canary.serving(api_server.document) == (1, "file:///models/1")
    assert reason in canary.read(api_server.document).reason
    assert registry.aliases() == {CHAMPION: 1}
    assert [item["action"] for item in registry.history()][-3:] == ["canary_started", "canary_roll_back", "reject"]


def pod(restarts: int, ready: bool, created: float, ended: float, reason: str = "OOMKilled") -> dict[str, Any]:
    """As the API server tells of one whose container has ended before."""

    def at(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    last = {"terminated": {"exitCode": 137, "reason": reason, "finishedAt": at(ended)}}
    container = {"name": "kserve-container", "image": "i", "imageID": "i", "ready": ready, "restartCount": restarts}
    status = {"containerStatuses": [container | {"lastState": last, "state": {}}]}
    return {"metadata": {"name": "p", "creationTimestamp": at(created)}, "status": status}


def test_a_canary_whose_containers_end_again_and_again_is_rolled_back_with_kubernetes_reason(
    make, target, registry, prometheus, api_server, clock
):
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2", requests=5.0)
    began = clock.now
    # The stable revision's has ended before the rollout, and once since.
    api_server.pods[STABLE] = [pod(9, True, began - 900, began - 800), pod(7, True, began - 900, began + 5)]
    api_server.pods[CANARY] = [pod(1, True, began + 1, began + 5)]
    core.start(target, registry, POLICY, clock)

    once = look(make(), clock, 2)
    api_server.pods[CANARY] = [pod(2, True, began + 1, began + 30)]
    again = look(make(), clock)

    assert (once, again) == ([("hold", 10), ("hold", 10)], [("roll_back", 0)])
    assert "ends of its processes 2 (limit 1, OOMKilled, exit code 137)" in canary.read(api_server.document).reason


def test_a_canary_whose_containers_end_before_they_are_ready_is_not_waited_for(
    make, target, registry, prometheus, api_server, clock
):
    api_server.canary_becomes_ready = False
    core.start(target, registry, POLICY, clock)

    api_server.pods[CANARY] = [pod(2, False, clock.now, clock.now, "Error")]
    starting = look(make(), clock)
    api_server.pods[CANARY] = [pod(3, False, clock.now, clock.now, "Error")]
    failed = look(make(), clock)

    assert (starting, failed) == ([("hold", 10)], [("roll_back", 0)])
    wanted = "its container kserve-container ended 3 times before it was ready, Error, exit code 137"
    assert canary.read(api_server.document).reason == wanted


def test_pods_that_may_not_be_listed_keep_no_canary_from_being_judged(
    make, target, registry, prometheus, api_server, clock, monkeypatch, capsys
):
    answer = type(api_server).answer
    forbidden = lambda self, method, path, body: (  # noqa: E731
        (403, {"reason": "Forbidden"}) if "/pods" in path else answer(self, method, path, body)
    )
    monkeypatch.setattr(type(api_server), "answer", forbidden)
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2")
    core.start(target, registry, POLICY, clock)
    controller = make()

    seen = look(controller, clock, 3)

    assert seen[-1] == ("promote", 100)
    assert capsys.readouterr().err.count("pods_not_seen") == 1


def test_every_object_written_is_valid_for_the_api_server(make, target, registry, prometheus, api_server, clock):
    path = SCHEMAS / "inferenceservice-serving.kserve.io-v1beta1.json"
    if not path.is_file():
        pytest.skip(f"no KServe schema at {path}; set MILLRACE_SCHEMAS to the folder that holds it")
    validator = jsonschema.Draft7Validator(json.loads(path.read_text()))
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2")
    core.start(target, registry, POLICY, clock)
    look(make(), clock, 3)

    core.start(target, registry, POLICY, clock, version=1)
    core.abort(target, registry, clock(), "a test")

    assert len(api_server.writes) == 6
    for written in api_server.writes:
        assert [error.message for error in validator.iter_errors(written)] == []


def test_somebody_elses_write_in_between_is_kept(target, registry, api_server, clock):
    def annotate() -> None:
        api_server.document["metadata"]["annotations"]["somebody"] = "else"
        api_server.touch()

    api_server.before_write.append(annotate)

    core.start(target, registry, POLICY, clock)

    annotations = api_server.document["metadata"]["annotations"]
    assert annotations["somebody"] == "else"
    assert api_server.traffic == {STABLE: 90, CANARY: 10}


def test_a_rollout_that_somebody_ended_meanwhile_is_not_moved_any_more(
    make, target, registry, prometheus, api_server, clock
):
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2")
    core.start(target, registry, POLICY, clock)
    controller = make()
    look(controller, clock)

    def abort() -> None:
        changed = canary.rolled_back(api_server.document, clock(), "by hand")
        changed["metadata"]["resourceVersion"] = api_server.document["metadata"]["resourceVersion"]
        api_server.document = changed
        api_server.touch()
        api_server._reconcile()

    api_server.before_write.append(abort)
    look(controller, clock)

    assert canary.read(api_server.document).phase == "rolled_back"
    assert api_server.traffic[STABLE] == 100


def test_a_canary_that_does_not_become_ready_is_rolled_back(make, target, registry, prometheus, api_server, clock):
    api_server.canary_becomes_ready = False
    core.start(target, registry, POLICY, clock)

    seen = look(make(), clock, 3)

    assert seen == [("hold", 10), ("hold", 10), ("roll_back", 0)]
    assert registry.was_rejected(2)


def test_without_metrics_it_waits_and_no_longer_than_it_may(make, target, registry, prometheus, api_server, clock):
    core.start(target, registry, POLICY, clock)
    controller = make()
    look(controller, clock)
    prometheus.close()

    seen = look(controller, clock, 6)

    assert seen == [("hold", 10)] * 5 + [("roll_back", 0)]


def test_the_registry_is_finished_by_whoever_comes_next(make, target, registry, prometheus, api_server, clock):
    """Killed after traffic was moved and before the aliases were."""
    core.start(target, registry, POLICY, clock)
    target.change(lambda found: canary.promoted(found, clock(), "healthy"))

    look(make(), clock)

    assert registry.aliases() == {CHAMPION: 2, PREVIOUS: 1}


def test_on_a_cluster_a_new_challenger_is_started_and_one_that_was_refused_is_not(
    make, target, registry, prometheus, api_server, clock
):
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2", errors=500.0)
    controller = make(adopting=True)

    seen = look(controller, clock, 4)

    assert seen == [("hold", 10), ("roll_back", 0), ("hold", 0), ("hold", 0)]
    assert CHALLENGER not in registry.aliases()
    with pytest.raises(InvalidInput, match="was rolled back before"):
        registry._store.set_alias(CHALLENGER, 2)
        core.start(target, registry, POLICY, clock)


def test_the_first_champion_is_pointed_at_without_a_canary(make, api_server, registry, clock):
    api_server.document["metadata"]["annotations"].pop("millrace.io/model-version")
    api_server.document["spec"]["predictor"]["containers"][0]["env"] = []

    look(make(adopting=True), clock)

    assert canary.serving(api_server.document) == (1, registry.uri(1))
    assert canary.read(api_server.document) is None


def test_what_is_not_there_is_named(target, api_server, tmp_path, registry, clock):
    with pytest.raises(NotFound, match="Apply manifests"):
        ClusterTarget("other", "millrace", target._api).read()
    with pytest.raises(NotFound, match="nothing is being rolled out"):
        core.abort(target, registry, clock(), "")
    away = client.Configuration(host="http://127.0.0.1:1")
    away.retries = False
    with pytest.raises(Unavailable, match="cannot be reached"):
        ClusterTarget("x", "y", client.CustomObjectsApi(client.ApiClient(away))).read()


def test_the_loop_survives_errors_and_ends_with_the_rollout(make, target, registry, prometheus, api_server, clock):
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2", errors=500.0)
    core.start(target, registry, POLICY, clock)
    read, calls = target.read, []

    def sometimes() -> dict:
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("not now")
        return read()

    target.read = sometimes

    last = make().run(0.01, threading.Event(), until_end=True)

    assert last.action is Action.ROLL_BACK


def test_health_is_told_over_http():
    import urllib.request

    server = serve_health(0)
    url = f"http://127.0.0.1:{server.server_address[1]}/healthz"

    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.status == 200
    server.shutdown()
    server.server_close()


def test_a_home_without_a_challenger_has_nothing_to_start(target, tmp_path, with_database, clock):
    registry = Registry(with_database(tmp_path / "other"))

    with pytest.raises(NotFound, match="no challenger"):
        core.start(target, registry, POLICY, clock)


def test_a_registry_that_is_away_keeps_no_canary_from_being_rolled_back(
    make, target, registry, prometheus, api_server, clock, monkeypatch
):
    prometheus.has(STABLE, "1")
    prometheus.has(CANARY, "2", errors=500.0)
    core.start(target, registry, POLICY, clock)

    def away() -> None:
        raise RuntimeError("MLflow is away")

    monkeypatch.setattr(registry, "aliases", away)
    controller = make(adopting=True)
    look(controller, clock)
    with pytest.raises(RuntimeError, match="away"):
        look(controller, clock)
    monkeypatch.undo()
    after = api_server.traffic[STABLE]
    look(make(), clock)

    assert after == 100
    assert registry.was_rejected(2)


def test_a_record_of_moved_traffic_waits_for_the_registrys_lock(target, registry, clock):
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(registry.home / "registry.lock", "test"):
            held.set()
            free.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    threading.Timer(0.3, free.set).start()

    core.start(target, registry, POLICY, clock)

    thread.join()
    assert registry.history()[-1]["action"] == "canary_started"


def test_a_canary_that_was_ended_by_hand_is_not_begun_again_before_the_registry_knows(
    make, target, registry, prometheus, api_server, clock
):
    controller = make(adopting=True)
    look(controller, clock)
    document = canary.rolled_back(api_server.document, clock(), "by hand")

    target.change(lambda _: document)  # as `abort` does first; the registry's refusal comes after it
    look(controller, clock)

    assert canary.read(api_server.document).phase == "rolled_back"
    assert api_server.traffic[STABLE] == 100
