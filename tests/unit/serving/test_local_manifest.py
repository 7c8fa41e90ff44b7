"""The InferenceService as local commands: what is rewritten, what is left alone, what is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.errors import ConfigError, NotFound
from serving.local.manifest import Service, read_service

BASE = Path(__file__).parents[3] / "manifests" / "base" / "serving" / "fraud-detector.yaml"
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def read(tmp_path) -> Callable[[Change], Service]:
    """`read(change)` → the base manifest with a model of its own and that change, as a Service."""

    def make(change: Change = lambda _: None) -> Service:
        document = yaml.safe_load(BASE.read_text())
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
        (lambda d: d["spec"]["predictor"].update(canaryTrafficPercent=10), "spec.predictor.canaryTrafficPercent"),
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
        (lambda d: d.update(kind="Deployment"), "holds a Deployment; wanted one InferenceService"),
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
