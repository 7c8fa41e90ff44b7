"""The InferenceService as local commands: what is rewritten, what is left alone, what is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from millrace.errors import ConfigError, NotFound
from millrace.installed import load
from millrace.rollout import service as templates
from serving.local.addresses import rewritten
from serving.local.manifest import Logger, Service, read_service
from serving.local.revisions import Revisions

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def read(tmp_path) -> Callable[[Change], Service]:
    """`read(change)` → the base manifest with a model of its own and that change, as a Service."""

    def make(change: Change = lambda _: None) -> Service:
        document = yaml.safe_load(templates.inference_service(load("fraud")))
        environment(document)["STORAGE_URI"]["value"] = tmp_path.as_uri()
        document["metadata"]["annotations"]["millrace.io/model-version"] = "12"
        change(document)
        path = tmp_path / "service.yaml"
        path.write_text(yaml.safe_dump(document))
        return read_service(path, tmp_path / "home")

    return make


def container(document: dict[str, Any], part: str = "predictor") -> dict[str, Any]:
    return document["spec"][part]["containers"][0]


def environment(document: dict[str, Any], part: str = "predictor") -> dict[str, Any]:
    return {item["name"]: item for item in container(document, part)["env"]}


def test_the_same_commands_run_with_other_ports_hosts_and_model_folder(read, tmp_path):
    service = read()

    predictor = service.predictor.with_ports(1, 2, "h:1")
    transformer = service.transformer.with_ports(3, 4, "h:1")

    assert predictor == [
        *(sys.executable, "-m", "serving.predictor.server", "--model_name=fraud-detector", f"--model_dir={tmp_path}"),
        *("--host=127.0.0.1", "--http_port=1", "--grpc_port=2"),
    ]
    assert transformer == [
        *(sys.executable, "-m", "serving.transformer.server", "--model_name=fraud-detector"),
        *("--host=127.0.0.1", "--http_port=3", "--grpc_port=4", "--predictor_host=h:1"),
    ]
    assert (service.name, service.model_version, service.timeout_s) == ("fraud-detector", "12", 30)
    assert service.predictor.readiness == "/v2/models/fraud-detector/ready"


def test_the_environment_is_the_containers_with_this_home(read, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_PSEUDONYM_KEY", "from outside")

    service = read()

    assert service.predictor.env["MODEL_VERSION"] == "unset"
    assert service.predictor.env["MILLRACE_HOME"] == str(tmp_path / "home")
    assert "STORAGE_URI" not in service.predictor.env
    assert service.transformer.env["PYTHONOPTIMIZE"] == "1"
    assert service.transformer.env["MILLRACE_PSEUDONYM_KEY"] == "from outside"


def test_another_text_is_another_thing_to_run(read):
    assert read().hash == read().hash
    assert read().hash != read(lambda document: document["spec"]["predictor"].update(timeout=5)).hash


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d["spec"].update(explainer={}), "spec.explainer"),
        (lambda d: d["spec"]["predictor"].update(canaryTrafficPercent="10"), "canaryTrafficPercent is '10'"),
        (lambda d: d["spec"]["predictor"].update(canaryTrafficPercent=101), "wanted an integer from 0 to 100"),
        (lambda d: d["spec"]["transformer"].update(canaryTrafficPercent=10), "spec.transformer.canaryTrafficPercent"),
        (lambda d: d["spec"]["transformer"].update(logger={"url": "http://x", "a": 1}), "spec.transformer.logger.a"),
        (lambda d: d["spec"]["transformer"].update(logger={"mode": "all"}), "wanted a url"),
        (lambda d: d["spec"]["predictor"].update(logger={"url": "http://x"}), "spec.predictor.logger"),
        (lambda d: d["spec"]["transformer"].update(batcher={}), "spec.transformer.batcher"),
        (lambda d: container(d).update(lifecycle={}), r"spec.predictor.containers\[0\].lifecycle"),
        (lambda d: container(d).update(envFrom=[]), "envFrom"),
        (
            lambda d: environment(d)["MODEL_VERSION"].update(valueFrom={"fieldRef": {}}),
            r"env\[MODEL_VERSION\].valueFrom.fieldRef",
        ),
        (
            lambda d: d["spec"]["transformer"]["volumes"].append({"name": "v", "hostPath": {"path": "/"}}),
            r"spec.transformer.volumes\[v\]: hostPath",
        ),
        (lambda d: d["spec"]["predictor"]["containers"].append({"name": "x"}), "has 2 entries"),
        (lambda d: container(d).pop("command"), "command is missing"),
        (lambda d: container(d).update(args=["--http_port", "8080"]), "write --name=value"),
        (
            lambda d: environment(d)["STORAGE_URI"].update(value="s3://bucket/model"),
            "STORAGE_URI is 's3://bucket/model'",
        ),
        (lambda d: environment(d)["STORAGE_URI"].update(value="unset"), "wants file:///"),
        (lambda d: d["spec"].pop("predictor"), "spec.predictor is missing"),
        (lambda d: d.update(kind="DaemonSet"), "holds a DaemonSet; wanted one InferenceService, Deployment"),
        (lambda d: d["metadata"].pop("name"), "metadata.name is missing"),
    ],
)
def test_what_cannot_be_honoured_here_is_refused_by_name(read, change, field):
    with pytest.raises(ConfigError, match=field):
        read(change)


def test_what_is_not_there_is_named(read, tmp_path):
    with pytest.raises(NotFound, match="Promote a model first"):
        read_service(tmp_path / "none.yaml", tmp_path)
    with pytest.raises(NotFound, match="no such folder"):
        read(lambda d: environment(d)["STORAGE_URI"].update(value="file:///nowhere/at/all"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_service(tmp_path / "bad.yaml", tmp_path)


def test_a_predictor_alone_is_a_service(read):
    assert read(lambda document: document["spec"].pop("transformer")).transformer is None


def test_traffic_and_logger_are_read(read):
    def change(document: dict[str, Any]) -> None:
        document["spec"]["predictor"]["canaryTrafficPercent"] = 10
        document["spec"]["transformer"]["logger"] = {"url": "http://sink:80/"}

    service = read(change)

    assert service.canary_percent == 10
    assert service.logger == Logger("http://sink:80/", "all")


def deployment(**container: Any) -> dict[str, Any]:
    base = {
        "name": "log",
        "image": "i",
        "command": ["python", "-m", "serving.prediction_log.server"],
        "args": ["--http_port=8080"],
        "env": [{"name": "MILLRACE_LOG_FORMAT", "value": "json"}, {"name": "HOME", "value": "/tmp"}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
    }
    pod = {"securityContext": {}, "containers": [base | container]}
    spec = {"replicas": 1, "selector": {}, "template": {"metadata": {}, "spec": pod}}
    return {"kind": "Deployment", "metadata": {"name": "prediction-log"}, "spec": spec}


def test_a_deployment_is_a_command_with_its_port_and_readiness(tmp_path):
    path = tmp_path / "deployment.yaml"
    path.write_text(yaml.safe_dump(deployment(readinessProbe={"httpGet": {"path": "/ready", "port": "http"}})))

    service = read_service(path, tmp_path)

    expected = [sys.executable, "-m", "serving.prediction_log.server", "--host=127.0.0.1", "--http_port=7"]
    assert service.predictor.with_ports(7, 8, "") == expected
    assert service.predictor.readiness == "/ready"
    assert "HOME" not in service.predictor.env
    assert (service.kind, service.name, service.transformer) == ("Deployment", "prediction-log", None)


def test_what_a_deployment_has_beyond_a_command_is_refused_by_name(tmp_path):
    path = tmp_path / "deployment.yaml"
    path.write_text(yaml.safe_dump(deployment(envFrom=[{}])))

    with pytest.raises(ConfigError, match=r"spec.template.spec.containers\[0\].envFrom"):
        read_service(path, tmp_path)


@pytest.mark.parametrize(
    ("value", "here"),
    [
        ("http://prediction-log.millrace.svc.cluster.local", "http://127.0.0.1:7"),
        ("http://prediction-log:8080/,http://fraud-detector-drift-events:8080/", "http://127.0.0.1:7/"),
        ("http://fraud-detector-shadow-predictor.millrace/v2/models/x/infer", "http://127.0.0.1:9/v2/models/x/infer"),
        ("http://prediction-log-2.millrace.svc/x", ""),
        ("http://example.org/a,http://localhost:1/", "http://example.org/a,http://localhost:1/"),
        ("no address", "no address"),
        ("", ""),
    ],
)
def test_cluster_names_become_local_addresses_and_those_that_nobody_has_are_left_out(value, here):
    assert rewritten(value, {"prediction-log": 7, "fraud-detector-shadow-predictor": 9}) == here


def test_a_change_of_what_runs_makes_a_revision_and_a_change_of_traffic_does_not(read):
    first = Revisions.following(None, read().document)
    traffic = read(lambda d: d["spec"]["predictor"].update(canaryTrafficPercent=10, maxReplicas=9)).document
    other = read(lambda d: environment(d)["MODEL_VERSION"].update(value="2")).document

    same = Revisions.following(first, traffic)
    canary = Revisions.following(first, other)
    again = Revisions.following(canary, other)
    back = Revisions.following(canary, read().document)
    rolled = canary.rolled()

    assert (same, again) == (first, canary)
    assert (canary.rolled_out.name, canary.newest.name) == (
        "fraud-detector-predictor-00001",
        "fraud-detector-predictor-00002",
    )
    assert back.newest == back.rolled_out == first.rolled_out
    assert rolled.rolled_out.number == 2
    assert Revisions.following(back, other).newest.number == 3


def test_revisions_are_remembered_and_a_broken_file_is_none(read, tmp_path):
    path = tmp_path / "revisions" / "x.json"
    made = Revisions.following(None, read().document)

    made.write(path)

    assert Revisions.read(path) == made
    path.write_text("{")
    assert Revisions.read(path) is None
