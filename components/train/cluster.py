"""Training processes as a job on a Kubernetes cluster: created, followed, deleted; its pods share the lake's volume.

The job's name follows from the model's id, so a launcher that was itself started again attaches to the job that runs.
A pod's failure ends with its log in what `lines` gives; the job is deleted when the launcher leaves, however it leaves.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from components.train.jobs import KINDS, JobKind
from millrace.errors import Unavailable
from millrace.observe.progress import log
from millrace.settings import Settings

POLL_S: Final = 5.0
PATIENCE_S: Final = 300.0
"""How long the API server may be away."""
LOG_LINES: Final = 60
NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
STUCK: Final = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError"}
"""Reasons of a waiting container that do not go away by waiting."""

T = TypeVar("T")


class ClusterJob:
    """One training job: its object, its pods, their logs."""

    def __init__(self, kind: JobKind, name: str, namespace: str, settings: Settings) -> None:
        from kubernetes import client

        self.kind, self.name, self.namespace = kind, name, namespace
        self._settings = settings
        self._objects, self._core = client.CustomObjectsApi(), client.CoreV1Api()
        self._well: bool | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self._well else 1

    def start(self, work: Path) -> None:
        """Create it; attach when it runs already, replace it when it ended without a model."""
        from kubernetes.client import ApiException

        manifest = self.kind.manifest(self.name, work, self._settings)
        for _ in range(2):
            try:
                self._objects.create_namespaced_custom_object(*self._collection, manifest)
                log("training job created", kind=manifest["kind"], name=self.name, namespace=self.namespace)
                return
            except ApiException as error:
                if error.status != 409:
                    raise _explained(error, self.kind, self.namespace) from error
            if self._patiently(lambda: self.kind.ended(self._get())) is None:
                log("training job attached", kind=manifest["kind"], name=self.name, namespace=self.namespace)
                return
            self.delete()
        raise Unavailable(f"training job {self.name} ended and cannot be deleted; see: kubectl describe")

    def lines(self) -> Iterator[str]:
        """What changes at the job and its pods, an empty line for each look without news, a failing pod's log last."""
        begin = time.monotonic()
        seen = ""
        while (ended := self._patiently(lambda: self.kind.ended(self._get()))) is None:
            phases, waiting = self._patiently(self._pods)
            if phases != seen:
                seen = phases
                yield f"training job {self.name}: {phases}\n"
            self._give_up(begin, phases, waiting)
            yield ""
            time.sleep(POLL_S)

        self._well, said = ended
        if not self._well:
            yield f"training job {self.name} failed: {said}\n"
            yield from self._log_of_failure()

    def delete(self) -> None:
        """Deletes the job with its pods; returns when the API server has forgotten it, or after half a minute."""
        from kubernetes.client import ApiException

        with suppress(ApiException):
            self._objects.delete_namespaced_custom_object(
                *self._collection, self.name, propagation_policy="Foreground", grace_period_seconds=10
            )
        for _ in range(60):
            try:
                self._get()
            except ApiException:
                return
            time.sleep(POLL_S / 10)

    def _patiently(self, look: Callable[[], T]) -> T:
        """What `look` gives; an API server that is away for a while does not end a training that goes on without it."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return look()
            except (ApiException, HTTPError) as error:
                lasting = isinstance(error, ApiException) and error.status < 500 and error.status != 429
                if lasting or time.monotonic() > deadline:
                    raise _explained(error, self.kind, self.namespace) from error
                log("API server away", error=str(error)[:200])
                time.sleep(POLL_S)

    @property
    def _collection(self) -> tuple[str, str, str, str]:
        return self.kind.group, self.kind.version, self.namespace, self.kind.plural

    def _get(self) -> dict[str, Any]:
        job: dict[str, Any] = self._objects.get_namespaced_custom_object(*self._collection, self.name)
        return job

    def _list_pods(self) -> list[Any]:
        selector = f"{self.kind.pod_label}={self.name}"
        return list(self._core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def _pods(self) -> tuple[str, str]:
        """Phases of the pods, such as `2 Running`, and why one waits (empty when none does)."""
        phases: dict[str, int] = {}
        waiting = ""

        for pod in self._list_pods():
            phases[pod.status.phase] = phases.get(pod.status.phase, 0) + 1
            for condition in pod.status.conditions or []:
                if condition.type == "PodScheduled" and condition.status == "False":
                    waiting = f"{condition.reason}: {condition.message}"
            for container in pod.status.container_statuses or []:
                if container.state.waiting and container.state.waiting.reason in STUCK:
                    waiting = f"{container.state.waiting.reason}: {container.state.waiting.message}"

        return ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items())) or "no pods yet", waiting

    def _give_up(self, begin: float, phases: str, waiting: str) -> None:
        """Raise Unavailable when nothing started, or ended, in the time that settings give it."""
        waited = time.monotonic() - begin
        if waited > self._settings.train_start_timeout_s and "Running" not in phases and "Succeeded" not in phases:
            raise Unavailable(
                f"training job {self.name} did not start in {self._settings.train_start_timeout_s:g} s ({phases}): "
                f"{waiting or 'the operator made no pods; is it installed and running?'} "
                f"Free resources or mend the image ({self._settings.train_image}), "
                "or wait longer: MILLRACE_TRAIN_START_TIMEOUT_S"
            )

        if waited > self._settings.train_timeout_s:
            raise Unavailable(
                f"training job {self.name} ran longer than MILLRACE_TRAIN_TIMEOUT_S "
                f"({self._settings.train_timeout_s:g} s); its checkpoints stay, a rerun goes on from them"
            )

    def _log_of_failure(self) -> Iterator[str]:
        """The last lines of the pod that failed first."""
        from kubernetes.client import ApiException

        failed = [pod for pod in self._list_pods() if pod.status.phase == "Failed"]
        for pod in sorted(failed, key=lambda pod: str(pod.status.start_time))[:1]:
            yield f"last lines of pod {pod.metadata.name}:\n"
            try:
                text = self._core.read_namespaced_pod_log(pod.metadata.name, self.namespace, tail_lines=LOG_LINES)
            except ApiException as error:
                text = f"(its log cannot be read: {error.status})"
            yield from text.splitlines(keepends=True)


@contextmanager
def on_cluster(work: Path, identity: str, settings: Settings) -> Iterator[ClusterJob]:
    """A job of the kind that `MILLRACE_TRAIN_LAUNCHER` names; deleted on the way out, on SIGTERM too."""
    _connect()
    namespace = settings.train_namespace or _own_namespace()
    job = ClusterJob(KINDS[settings.train_launcher], f"train-{identity}", namespace, settings)
    with _ended_by_sigterm():
        try:
            job.start(work)
            yield job
        finally:
            job.delete()


def _connect() -> None:
    from kubernetes import config

    try:
        config.load_config()
    except config.ConfigException as error:
        raise Unavailable(
            f"no Kubernetes cluster to train on: {error}. "
            "Run inside one, set KUBECONFIG, or MILLRACE_TRAIN_LAUNCHER=torchrun"
        ) from error


def _own_namespace() -> str:
    return NAMESPACE_FILE.read_text(encoding="utf-8").strip() if NAMESPACE_FILE.is_file() else "millrace"


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A pod that is deleted gets SIGTERM, which Python would die of without leaving any context."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: _stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop() -> None:
    raise SystemExit(143)


def _explained(error: Any, kind: JobKind, namespace: str) -> Unavailable:
    """What the API server refused, and what to do about it."""
    advice = {
        401: "the service account's token is not accepted",
        403: f"the step's service account may not manage {kind.plural} in {namespace}; apply manifests/base/pipelines",
        404: f"no such job, or the cluster does not know {kind.plural}.{kind.group}: install its operator",
        422: "the API server refuses the object",
    }
    return Unavailable(
        f"Kubernetes answered {error.status} for {kind.plural}: {advice.get(error.status, error.reason)}. "
        f"{str(error.body or '')[:300]}"
        if hasattr(error, "status")
        else f"the Kubernetes API server cannot be reached: {error}"
    )
