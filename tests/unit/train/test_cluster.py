"""Training jobs on a cluster, against an API server that keeps and validates what Kubernetes does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kubernetes_api import SCHEMAS, KubernetesApi, schema_problem

from components.train import cluster
from components.train.cluster import on_cluster
from components.train.jobs import KINDS
from millrace.errors import Unavailable
from millrace.settings import Settings

LABEL = {"pytorchjob": "training.kubeflow.org/job-name", "trainjob": "jobset.sigs.k8s.io/jobset-name"}
NAME = "train-abc"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(cluster, "POLL_S", 0.02)


@pytest.fixture
def api(tmp_path, monkeypatch):
    with KubernetesApi.running(tmp_path) as running:
        use_kubeconfig(monkeypatch, running.kubeconfig)
        yield running


def use_kubeconfig(monkeypatch, path: Path) -> None:
    """The client reads KUBECONFIG when it is imported, into two modules."""
    for module in ("kubernetes.config", "kubernetes.config.kube_config"):
        monkeypatch.setattr(f"{module}.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


def settings_for(kind: str, **changes: object) -> Settings:
    return Settings(home="/var/lib/millrace", train_launcher=kind, train_namespace="millrace", **changes)


def launched(settings: Settings) -> tuple[list[str], int]:
    with on_cluster(Path("/var/lib/millrace/lake/models/.abc.run"), "abc", settings) as job:
        return [line for line in job.lines() if line], job.exit_code


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)


def operator(api: KubernetesApi, kind: str, *steps: object) -> threading.Thread:
    """Does the operator's part once the object is there: each step is a call."""

    def act() -> None:
        wait_for(lambda: (KINDS[kind].plural, NAME) in api.objects)
        for step in steps:
            step()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"no schemas at {SCHEMAS}; set MILLRACE_SCHEMAS")
def test_the_object_is_one_that_the_api_server_takes(kind):
    manifest = KINDS[kind].manifest(NAME, Path("/var/lib/millrace/work"), settings_for(kind, train_nodes=3))

    assert schema_problem(manifest) == ""


@pytest.mark.parametrize(("kind", "good"), [("pytorchjob", "Succeeded"), ("trainjob", "Complete")])
def test_a_job_is_created_followed_and_deleted(api, kind, good):
    plural = KINDS[kind].plural
    thread = operator(
        api,
        kind,
        lambda: api.add_pod("p-0", "Running", {LABEL[kind]: NAME}),
        lambda: time.sleep(0.1),
        lambda: api.set_condition(plural, NAME, good),
    )

    lines, code = launched(settings_for(kind))

    thread.join()
    assert code == 0
    assert any("1 Running" in line for line in lines)
    assert api.deleted == [(plural, NAME)]


def test_a_failed_job_gives_the_log_of_the_pod_that_failed(api):
    labels = {LABEL["pytorchjob"]: NAME}
    thread = operator(
        api,
        "pytorchjob",
        lambda: api.add_pod("p-1", "Failed", labels, log="Traceback\nValueError: no rows\n"),
        lambda: api.add_pod("p-0", "Running", labels, log="fine\n"),
        lambda: api.set_condition("pytorchjobs", NAME, "Failed", "backoff limit"),
    )

    lines, code = launched(settings_for("pytorchjob"))

    thread.join()
    assert code == 1
    assert "ValueError: no rows\n" in lines
    assert any("backoff limit" in line for line in lines)
    assert "fine\n" not in lines


def test_a_launcher_that_comes_back_attaches_to_the_job_that_runs(api):
    settings = settings_for("pytorchjob")
    job = KINDS["pytorchjob"].manifest(NAME, Path("/var/lib/millrace/other"), settings)
    api.objects["pytorchjobs", NAME] = api.stamp(job)
    attached = lambda: any(method == "GET" and path.endswith("/pods") for method, path in api.requests)  # noqa: E731
    end = lambda: api.set_condition("pytorchjobs", NAME, "Succeeded")  # noqa: E731
    thread = operator(api, "pytorchjob", lambda: wait_for(attached), end)

    _, code = launched(settings)

    thread.join()
    assert code == 0
    assert len(api.deleted) == 1


def test_a_job_that_failed_before_is_replaced(api):
    settings = settings_for("pytorchjob")
    api.objects["pytorchjobs", NAME] = api.stamp(KINDS["pytorchjob"].manifest(NAME, Path("/x"), settings))
    api.set_condition("pytorchjobs", NAME, "Failed")

    def succeed_when_new() -> None:
        wait_for(lambda: api.deleted and ("pytorchjobs", NAME) in api.objects)
        api.set_condition("pytorchjobs", NAME, "Succeeded")

    thread = threading.Thread(target=succeed_when_new, daemon=True)
    thread.start()

    _, code = launched(settings)

    thread.join()
    assert code == 0


def test_a_job_that_never_starts_says_why_and_is_deleted(api):
    unschedulable = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]
    pending = lambda: api.add_pod("p-0", "Pending", {LABEL["pytorchjob"]: NAME}, conditions=unschedulable)  # noqa: E731
    thread = operator(api, "pytorchjob", pending)

    with pytest.raises(Unavailable, match=r"1 Pending.*Unschedulable: 0/3 nodes.*MILLRACE_TRAIN_START_TIMEOUT_S"):
        launched(settings_for("pytorchjob", train_start_timeout_s=0.3))

    thread.join()
    assert api.deleted == [("pytorchjobs", NAME)]


def test_an_image_that_cannot_be_pulled_is_named(api):
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}
    statuses = [{"name": "pytorch", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": waiting}]
    pod = lambda: api.add_pod("p-0", "Pending", {LABEL["pytorchjob"]: NAME}, containerStatuses=statuses)  # noqa: E731
    thread = operator(api, "pytorchjob", pod)

    with pytest.raises(Unavailable, match=r"ImagePullBackOff: manifest unknown.*millrace/train"):
        launched(settings_for("pytorchjob", train_start_timeout_s=0.3))

    thread.join()


def test_a_job_that_takes_too_long_is_ended(api):
    thread = operator(api, "pytorchjob", lambda: api.add_pod("p-0", "Running", {LABEL["pytorchjob"]: NAME}))

    with pytest.raises(Unavailable, match="MILLRACE_TRAIN_TIMEOUT_S"):
        launched(settings_for("pytorchjob", train_timeout_s=0.3))

    thread.join()
    assert api.deleted


def test_an_api_server_that_is_away_for_a_moment_ends_nothing(api):
    def away() -> None:
        api.refuse += [500, 503]

    thread = operator(
        api, "pytorchjob", away, lambda: time.sleep(0.2), lambda: api.set_condition("pytorchjobs", NAME, "Succeeded")
    )

    _, code = launched(settings_for("pytorchjob"))

    thread.join()
    assert code == 0


@pytest.mark.parametrize(("status", "advice"), [(403, "may not manage pytorchjobs"), (404, "install its operator")])
def test_what_the_api_server_refuses_comes_with_advice(api, status, advice):
    api.refuse = [status]

    with pytest.raises(Unavailable, match=advice):
        launched(settings_for("pytorchjob"))


def test_no_cluster_at_all_says_so(monkeypatch, tmp_path):
    use_kubeconfig(monkeypatch, tmp_path / "none")

    with pytest.raises(Unavailable, match="MILLRACE_TRAIN_LAUNCHER=torchrun"):
        launched(settings_for("pytorchjob"))


LAUNCH = """
from pathlib import Path
from components.train import cluster
from millrace.settings import settings
cluster.POLL_S = 0.02
with cluster.on_cluster(Path("/x"), "abc", settings()) as job:
    for line in job.lines():
        pass
"""


def test_a_launcher_that_is_told_to_stop_deletes_its_job(api):
    environment = os.environ | {
        "KUBECONFIG": str(api.kubeconfig),
        "MILLRACE_TRAIN_LAUNCHER": "pytorchjob",
        "MILLRACE_TRAIN_NAMESPACE": "millrace",
    }
    with subprocess.Popen([sys.executable, "-c", LAUNCH], env=environment) as launcher:
        operator(api, "pytorchjob").join()
        launcher.send_signal(signal.SIGTERM)
        code = launcher.wait(20)

    assert code == 143
    assert api.deleted == [("pytorchjobs", NAME)]
