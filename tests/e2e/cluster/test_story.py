"""docs/cluster.md on the current kube context: applied, trained, asked, a canary, back, removed (`make test-cluster`).

It changes that cluster, so it wants to be asked: MILLRACE_TEST_CLUSTER=1. The tests are the steps, in this order; those
that need pods want a node, those that train HOST (Kubeflow Pipelines), SOURCE (events that its steps can read) and
GATEWAY (Knative's ingress).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[3]
OVERLAY: Final = os.environ.get("OVERLAY", "kind")
FOLDER: Final = ROOT / "manifests" / "overlays" / OVERLAY
NAMESPACE: Final = "millrace"
SERVICE: Final = "fraud-detector"
SERVERS: Final = (
    "statefulset/postgres", "statefulset/redis", "statefulset/prediction-log", "deployment/mlflow",
    "deployment/rollout", "deployment/retraining-trigger",
)  # fmt: skip
TRANSACTION: Final = {"transaction_id": 1, "customer_id": "596", "terminal_id": "3156", "amount": 57.16}
START_S: Final = 900
TRAIN_S: Final = 3600
CANARY_S: Final = 3600

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> None:
    if os.environ.get("MILLRACE_TEST_CLUSTER") != "1":
        pytest.skip("it changes the current kube context's cluster: make test-cluster asks for that")
    asked = kubectl("get", "--raw", "/version", check=False)
    if asked.returncode:
        pytest.skip(f"no cluster in the current kube context: {asked.stderr.strip()}")


@pytest.fixture(scope="module")
def _nodes(_cluster: None) -> None:
    if "True" not in kubectl("get", "nodes", "-o", ready_condition()).stdout:
        pytest.skip("no node of this cluster is ready, so that no pod can run")


@pytest.fixture(scope="module")
def host(_nodes: None) -> str:
    return given("HOST", "the URL of Kubeflow Pipelines")


@pytest.fixture(scope="module")
def gateway(_nodes: None) -> str:
    return given("GATEWAY", "the URL of Knative's ingress")


def given(name: str, what: str) -> str:
    if not (value := os.environ.get(name, "")):
        pytest.skip(f"{name} is not set; wanted {what}")
    return value


def kubectl(*arguments: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done


def ready_condition() -> str:
    return "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"


def python(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def service() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("-n", NAMESPACE, "get", "isvc", SERVICE, "-o", "json").stdout)
    return found


def rollout_phase() -> str:
    return str(service()["metadata"].get("annotations", {}).get("rollout.millrace.io/phase", ""))


def served_version() -> str:
    containers = service()["spec"]["predictor"]["containers"]
    return next((v["value"] for v in containers[0].get("env", []) if v["name"] == "MODEL_VERSION"), "")


def until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {timeout_s:g} s"
        time.sleep(5)


def post(gateway: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"{gateway}{path}", json.dumps(body).encode())
    request.add_header("content-type", "application/json")
    request.add_header("host", service()["status"]["url"].split("/")[2])
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def test_the_cluster_lacks_nothing() -> None:
    python("manifests/check_cluster.py", OVERLAY, timeout_s=300)


def test_the_overlay_applies_without_a_warning_and_a_second_time_changes_nothing() -> None:
    first = python("manifests/apply.py", OVERLAY, timeout_s=600)
    objects = kubectl("get", "-k", str(FOLDER), "-o", VERSIONS).stdout

    second = python("manifests/apply.py", OVERLAY, timeout_s=600)

    assert "Warning" not in first.stderr + second.stderr
    assert spec_versions(kubectl("get", "-k", str(FOLDER), "-o", VERSIONS).stdout) == spec_versions(objects)
    assert python("manifests/apply.py", OVERLAY, "--diff", timeout_s=600).stdout == ""


VERSIONS: Final = "custom-columns=KIND:.kind,NAME:.metadata.name,GENERATION:.metadata.generation"


def spec_versions(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if not line.endswith("<none>"))


def test_the_controllers_may_do_what_they_do_and_no_more() -> None:
    """By the server's own authorizer; the verbs are those of the code."""

    def may(account: str, verb: str, what: str, *more: str) -> bool:
        account = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
        return (
            kubectl("auth", "can-i", verb, what, *more, "-n", NAMESPACE, account, check=False).stdout.strip() == "yes"
        )

    allowed = [may("rollout", verb, f"inferenceservices.serving.kserve.io/{SERVICE}") for verb in ("get", "update")]
    for verb in ("create", "get", "delete"):
        allowed += [may("pipeline-runner", verb, "pytorchjobs.kubeflow.org")]
        allowed += [may("pipeline-runner", verb, "trainjobs.trainer.kubeflow.org")]
    allowed += [may("pipeline-runner", "list", "pods"), may("pipeline-runner", "get", "pods", "--subresource=log")]
    refused = [may("rollout", verb, "inferenceservices.serving.kserve.io/another") for verb in ("update", "delete")]
    refused += [may("fraud-detector", "get", "secrets"), may("retraining-trigger", "list", "pods")]
    refused += [may("millrace-train", "get", "pods")]

    assert all(allowed)
    assert not any(refused)


@pytest.mark.usefixtures("_nodes")
def test_the_servers_become_ready() -> None:
    for name in SERVERS:
        kubectl("-n", NAMESPACE, "rollout", "status", name, f"--timeout={START_S}s", timeout_s=START_S + 30)

    counts = "jsonpath={.status.readyReplicas} {.spec.replicas}"
    replicas = {name: kubectl("-n", NAMESPACE, "get", name, "-o", counts).stdout.split() for name in SERVERS}
    assert all(ready == wanted for ready, wanted in replicas.values()), replicas


def test_a_training_run_puts_a_model_into_service(host: str, gateway: str) -> None:
    source = given("SOURCE", "raw events that steps can read")

    python("-m", "run.submit", "training", f"--host={host}", f"--param=source={source}", timeout_s=TRAIN_S)
    until(lambda: served_version() == "1", START_S, "the controller serves version 1")
    kubectl(
        "-n",
        NAMESPACE,
        "wait",
        "--for=condition=Ready",
        f"isvc/{SERVICE}",
        f"--timeout={START_S}s",
        timeout_s=START_S + 30,
    )

    (answer,) = post(gateway, f"/v1/models/{SERVICE}:predict", {"instances": [TRANSACTION]})["predictions"]
    assert 0 <= answer["score"] <= 1
    assert answer["model_version"] == "1"
    assert not answer["degraded"]


def test_v2_gives_the_same_score(gateway: str) -> None:
    (wanted,) = post(gateway, f"/v1/models/{SERVICE}:predict", {"instances": [TRANSACTION]})["predictions"]
    kinds = {int: "INT64", float: "FP64", str: "BYTES"}
    inputs = [
        {"name": name, "shape": [1], "datatype": kinds[type(value)], "data": [value]}
        for name, value in TRANSACTION.items()
    ]

    answer = post(gateway, f"/v2/models/{SERVICE}/infer", {"inputs": inputs})

    (score,) = (tensor["data"][0] for tensor in answer["outputs"] if tensor["name"] == "score")
    assert score == pytest.approx(wanted["score"], abs=1e-4)


def test_a_challenger_gets_a_canary_that_goes_back_when_told(host: str) -> None:
    before = served_version()
    source = given("SOURCE", "raw events that steps can read")
    arguments = (f"--param=source={source}", "--param=as_of=", "--no-cache")

    python("-m", "run.submit", "training", f"--host={host}", *arguments, timeout_s=TRAIN_S)
    until(lambda: rollout_phase() == "progressing", CANARY_S, "the canary began")
    kubectl("-n", NAMESPACE, "exec", "deployment/rollout", "--", *ABORT)

    until(lambda: rollout_phase() == "rolled_back", START_S, "the canary went back")
    assert served_version() == before


ABORT: Final = ("python", "-m", "serving.rollout", "--abort", "--reason", "test-cluster")


def test_it_can_be_removed() -> None:
    """All but the namespace, which other things may lie in, and the volumes, which its deletion would take with it."""
    built = kubectl("kustomize", str(FOLDER)).stdout
    kinds = "inferenceservice,deployment,statefulset,cronjob,networkpolicy"
    kubectl("delete", kinds, "-n", NAMESPACE, "-l", "app.kubernetes.io/part-of=millrace", "--wait=false")

    assert "kind: InferenceService" in built
    until(lambda: kubectl("-n", NAMESPACE, "get", "isvc", SERVICE, check=False).returncode != 0, START_S, "it is gone")
