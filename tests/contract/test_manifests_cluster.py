"""check_cluster.py against a small API server: real kubectl, real HTTP, objects as a cluster would have them."""

from __future__ import annotations

import copy
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
Answers = dict[str, Any]


@pytest.fixture
def complete(overlays) -> Answers:
    """Path → object, of a cluster that lacks nothing for the kind overlay."""
    answers: Answers = {"/version": {"major": "1", "minor": "32+", "gitVersion": "v1.32.4"}}
    for item in overlays["kind"]:
        path = f"/apis/{item['apiVersion']}" if "/" in item["apiVersion"] else f"/api/{item['apiVersion']}"
        answers.setdefault(path, {"resources": []})["resources"].append({"kind": item["kind"]})
    for part in yaml.safe_load((MANIFESTS / "platform" / "versions.yaml").read_text()).values():
        space, name = part["deployment"].split("/")
        answers[f"/apis/apps/v1/namespaces/{space}/deployments/{name}"] = {"status": {"readyReplicas": 1}}
    for path in (MANIFESTS / "platform" / "knative").glob("config-*.yaml"):
        found = yaml.safe_load(path.read_text())
        answers[f"/api/v1/namespaces/knative-serving/configmaps/{found['metadata']['name']}"] = {"data": found["data"]}
    for path in (MANIFESTS / "platform" / "secrets.example").glob("millrace-*.yaml"):
        found = yaml.safe_load(path.read_text())
        answers[f"/api/v1/namespaces/millrace/secrets/{path.stem}"] = {
            "data": dict.fromkeys(found["stringData"], "eA==")
        }
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    answers["/apis/storage.k8s.io/v1/storageclasses"] = {
        "items": [{"metadata": {"name": "standard", "annotations": default}}]
    }
    return answers


@pytest.fixture
def check(tmp_path) -> Iterator[Callable[[Answers], subprocess.CompletedProcess[str]]]:
    """`check(answers)`: run the script against a server that knows just these paths."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; https://kubernetes.io/docs/tasks/tools/")
    known: Answers = {}

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = known.get(self.path)
            absent = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(found if found is not None else absent | {"message": "NotFound"}).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(answers: Answers, overlay: str = "kind") -> subprocess.CompletedProcess[str]:
        known.clear()
        known.update(answers)
        command = [
            sys.executable,
            "manifests/check_cluster.py",
            overlay,
            f"--server=http://127.0.0.1:{server.server_port}",
        ]
        environment = os.environ | {"KUBECONFIG": str(tmp_path / "none"), "PYTHONWARNINGS": "ignore"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    yield run
    server.shutdown()
    server.server_close()


def test_a_cluster_that_has_everything_is_told_how_to_go_on(check, complete):
    done = check(complete)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSING" not in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing missing: make apply OVERLAY=kind"


def test_each_thing_that_is_missing_is_named_with_what_to_do(check, complete):
    del complete["/apis/serving.kserve.io/v1beta1"]
    del complete["/apis/apps/v1/namespaces/kserve/deployments/kserve-controller-manager"]
    del complete["/api/v1/namespaces/millrace/secrets/millrace-redis"]
    complete["/api/v1/namespaces/millrace/secrets/millrace-prediction-log"] = {"data": {"password": "eA=="}}
    complete["/api/v1/namespaces/knative-serving/configmaps/config-features"] = {"data": {}}
    complete["/apis/storage.k8s.io/v1/storageclasses"] = {"items": []}
    complete["/version"]["minor"] = "27"

    done = check(complete)
    missing = [line for line in done.stdout.splitlines() if line.startswith("MISSING")]

    for what in (
        "serving.kserve.io/v1beta1 InferenceService: install it",
        "kserve: no Deployment kserve/kserve-controller-manager",
        "secret millrace-redis: key address, password",
        "secret millrace-prediction-log: key url",
        "Knative config-features: kubernetes.podspec-",
        "storage for millrace-home (ReadWriteOnce): no default StorageClass",
        "Kubernetes v1.32.4: wanted 1.30 or later",
    ):
        assert any(what in line for line in missing), what
    assert done.returncode == len(missing)


def test_a_pod_that_will_not_start_by_itself_is_named_with_what_to_do(check, complete):
    """A wrong image tag, a key that its secret lacks, and no room."""
    waiting = {
        "drift": ("ImagePullBackOff", "manifest for millrace/drift-detector:0.1 not found"),
        "mlflow": ("CreateContainerConfigError", "couldn't find key password in Secret millrace/millrace-mlflow"),
    }
    stuck = [
        {
            "metadata": {"name": name},
            "status": {
                "containerStatuses": [
                    {"name": "main", "image": "x:0.1", "state": {"waiting": {"reason": reason, "message": message}}}
                ]
            },
        }
        for name, (reason, message) in waiting.items()
    ]
    full = {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient memory"}
    stuck.append({"metadata": {"name": "redis-0"}, "status": {"conditions": [full]}})
    starting = {"name": "main", "image": "x:0.1", "state": {"waiting": {"reason": "ContainerCreating"}}}
    stuck.append({"metadata": {"name": "fine"}, "status": {"containerStatuses": [starting]}})
    complete["/api/v1/namespaces/millrace/pods"] = {"items": stuck}

    missing = [line for line in check(complete).stdout.splitlines() if line.startswith("MISSING")]

    assert len(missing) == 3
    assert "pod drift, container main: ImagePullBackOff (x:0.1)" in missing[0]
    assert "images: of the overlay" in missing[0]
    assert "secrets.example" in missing[1]
    assert "Insufficient memory" in missing[2]


def test_an_apply_carries_the_served_model_over(overlays):
    carried = runpy.run_path(str(MANIFESTS / "apply.py"))["carried"]
    wanted = next(o for o in overlays["kind"] if o["kind"] == "InferenceService")
    live = copy.deepcopy(wanted)
    model = [{"name": "STORAGE_URI", "value": "pvc://home/2"}, {"name": "MODEL_VERSION", "value": "2"}]
    live["metadata"]["resourceVersion"] = "77"
    container = live["spec"]["predictor"]["containers"][0]
    container["image"] = "millrace/predictor:0.0.9"
    container["env"] = [*model, {"name": "OURS_ONCE", "value": "1"}]

    made = carried(wanted, live)

    (before,), (after,) = (o["spec"]["predictor"]["containers"] for o in (wanted, made))
    assert after == before | {"env": [*model, *before["env"]]}
    assert made["metadata"] == wanted["metadata"] | {"resourceVersion": "77"}
    assert carried(made, live) == made


def test_a_class_for_shared_volumes_is_asked_for_by_name(check, complete):
    done = check(complete, "production")

    assert "storage for millrace-home (ReadWriteMany): no StorageClass shared; there are standard" in done.stdout


def test_no_cluster_and_no_such_overlay_are_said_in_one_sentence(check, complete):
    done = check(complete, "prod")
    assert (done.returncode, done.stderr) == (
        1,
        "check-cluster: no overlay 'prod'; there are kind, production, staging\n",
    )

    command = [sys.executable, "manifests/check_cluster.py", "kind", "--server=http://127.0.0.1:9"]
    nobody = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert nobody.returncode == 1
    assert "kubectl config use-context" in nobody.stderr
    assert "Traceback" not in nobody.stderr
