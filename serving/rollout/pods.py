"""What Kubernetes knows of a revision's containers: how often they have ended, and why.

A revision that is killed for its memory, or that ends and is started again, answers in between; its counters begin anew
each time, so that only the API server can say how often.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from millrace.observe.progress import log

REVISION_LABEL: Final = "serving.knative.dev/revision"
FAILED_STARTS: Final = 3
TIMEOUT_S: Final = 10
MAX_MESSAGE: Final = 300


class Pods:
    """Of one namespace. Where they cannot be listed (an older Role), a line says so and nothing has ended."""

    def __init__(self, namespace: str, api: client.CoreV1Api) -> None:
        self._namespace, self._api = namespace, api
        self._said = ""

    def deaths(self, revision: str, since: float) -> tuple[float, str]:
        """How often containers of a revision have ended since then (seconds since the epoch), and how the last did."""
        ended, how = 0.0, ""
        for pod, container in self._containers(revision):
            last = _last_end(container)
            if container.restart_count and last is not None and _seconds(last.finished_at) >= since:
                # Of a pod that is older only the last one's time is known.
                ended += container.restart_count if _seconds(pod.metadata.creation_timestamp) >= since else 1
                how = _how(last)
        return ended, how

    def failed_start(self, revision: str) -> str:
        """Why a revision will not become ready; empty while it may."""
        for _, container in self._containers(revision):
            if not container.ready and container.restart_count >= FAILED_STARTS:
                last = _last_end(container)
                said = f"its container {container.name} ended {container.restart_count} times before it was ready"
                return said if last is None else f"{said}, {_how(last)}"
        return ""

    def _containers(self, revision: str) -> Iterator[tuple[Any, Any]]:
        """(pod, status) of every container, those that only prepare the pod first."""
        try:
            found = self._api.list_namespaced_pod(
                self._namespace, label_selector=f"{REVISION_LABEL}={revision}", _request_timeout=TIMEOUT_S
            )
        except (ApiException, HTTPError) as error:
            text = f"{getattr(error, 'status', '')} {getattr(error, 'reason', error)}"
            if text != self._said:
                self._said = text
                log("pods_not_seen", namespace=self._namespace, error=text)
            return
        for pod in found.items:
            for container in [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]:
                yield pod, container


def _last_end(container: Any) -> Any | None:
    return container.last_state.terminated if container.last_state is not None else None


def _how(ended: Any) -> str:
    message = f": {ended.message.strip()[-MAX_MESSAGE:]}" if ended.message else ""
    return f"{ended.reason}, exit code {ended.exit_code}{message}"


def _seconds(at: datetime | None) -> float:
    return 0.0 if at is None else at.astimezone(UTC).timestamp()
