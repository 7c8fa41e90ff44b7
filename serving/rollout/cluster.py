"""Traffic and metrics of a cluster: a KServe InferenceService in Knative mode, and Prometheus.

A change is written with the resourceVersion that it was made from; when somebody else was faster it is made again from
what is there now. Prometheus' `increase` handles counters that began again.
"""

from __future__ import annotations

import json
import math
import urllib.parse
from pathlib import Path
from typing import Any, Final

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from millrace.direct import open_directly
from millrace.errors import NotFound, Unavailable
from millrace.rollout.canary import Document, Rollout
from millrace.rollout.observations import Histogram, Observations, Observed
from serving.rollout.core import Change, RevisionNames
from serving.rollout.labels import LabelSource
from serving.rollout.pods import Pods
from serving.rollout.samples import FAULTS, REPEATED, histogram

GROUP: Final = {"group": "serving.kserve.io", "version": "v1beta1", "plural": "inferenceservices"}
NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
ATTEMPTS: Final = 5
TIMEOUT_S: Final = 10


def namespace_of(given: str) -> str:
    """The one that was named, else the pod's own, else `millrace`."""
    in_pod = NAMESPACE_FILE.read_text(encoding="utf-8").strip() if NAMESPACE_FILE.is_file() else "millrace"
    return given or in_pod


class ClusterTarget:
    """One InferenceService."""

    def __init__(self, name: str, namespace: str = "", api: client.CustomObjectsApi | None = None) -> None:
        self.namespace = namespace_of(namespace)
        self._name = name
        self._api = api or _api()
        self.pods = Pods(self.namespace, client.CoreV1Api(self._api.api_client))

    def read(self) -> Document:
        document: Document = self._call(self._api.get_namespaced_custom_object)
        return document

    def change(self, change: Change) -> Document:
        for _ in range(ATTEMPTS):
            before = self.read()
            after = change(before)
            if after == before:
                return after
            try:
                document: Document = self._call(self._api.replace_namespaced_custom_object, body=after)
                return document
            except _Conflict:
                continue
        raise Unavailable(f"{self._name} was changed by others {ATTEMPTS} times while it was being changed here")

    def revisions(self, rollout: Rollout) -> RevisionNames:  # noqa: ARG002
        """As KServe's status has them; the canary is ready once Knative sends it traffic."""
        status = (self.read().get("status") or {}).get("components", {}).get("predictor", {})
        stable = status.get("latestRolledoutRevision", "")
        newest = status.get("latestCreatedRevision", "")
        shares = {item.get("revisionName"): item.get("percent") or 0 for item in status.get("traffic") or ()}
        ready = bool(stable) and newest not in ("", stable) and newest == status.get("latestReadyRevision")
        failed = "" if ready or newest in ("", stable) else self.pods.failed_start(newest)
        return RevisionNames(stable, newest, canary_ready=ready and shares.get(newest, 0) > 0, failed=failed)

    def _call(self, method: Any, **more: Any) -> Any:
        """Raises NotFound, Unavailable, _Conflict."""
        try:
            return method(**GROUP, namespace=self.namespace, name=self._name, _request_timeout=TIMEOUT_S, **more)
        except ApiException as error:
            what = f"InferenceService {self.namespace}/{self._name}"
            if error.status == 409:
                raise _Conflict(what) from error
            if error.status == 404:
                raise NotFound(f"there is no {what}. Apply manifests/ first.") from error
            raise Unavailable(f"{what}: the API server answered {error.status}: {str(error.body)[:300]}") from error
        except HTTPError as error:
            raise Unavailable(f"the API server cannot be reached: {error}") from error


class _Conflict(Exception):
    """Somebody else wrote first."""


class PrometheusMetrics:
    """Counts since a step began, from Prometheus' HTTP API."""

    def __init__(
        self,
        url: str,
        namespace: str,
        model_name: str,
        labels: LabelSource | None = None,
        *,
        decides: bool = True,
        pods: Pods | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._namespace = namespace
        self._model_name, self._labels, self._decides, self._pods = model_name, labels, decides, pods

    def observe(self, rollout: Rollout, names: RevisionNames, now: float) -> Observations:
        window_s = max(1, math.ceil(now - rollout.state.step_began))
        return Observations(
            self._observed(names.stable, rollout.stable_version, rollout, window_s, now),
            self._observed(names.canary, rollout.canary_version, rollout, window_s, now),
        )

    def _observed(self, revision: str, version: str, rollout: Rollout, window_s: int, now: float) -> Observed:
        of_revision = f'namespace="{self._namespace}",revision_name="{revision}"'
        of_version = f'namespace="{self._namespace}",model_name="{self._model_name}",model_version="{version}"'
        requests = self._grown("revision_request_count", of_revision, "response_code_class", window_s, now)
        latency = self._grown("revision_request_latencies_bucket", of_revision, "le", window_s, now)
        of_scores = "millrace_score_bucket" if self._decides else "millrace_quantity_bucket"
        scores = self._grown(of_scores, of_version, "le", window_s, now)
        decisions = (
            self._grown("millrace_predictions_total", of_version, "decision", window_s, now) if self._decides else None
        )
        began = rollout.state.began
        deaths, how = self._pods.deaths(revision, began) if self._pods else (0.0, "")
        return Observed(
            requests=sum(requests.values()),
            errors=requests.get("5xx", 0.0),
            refused=requests.get("4xx", 0.0),
            unsound=sum(self._grown(FAULTS, of_version, "model_version", window_s, now).values()),
            latency_ms=_histogram(latency),
            scores=_histogram(scores),
            repeated=sum(self._grown(REPEATED, of_version, "model_version", window_s, now).values()),
            reviewed=decisions.get("review", 0.0) if decisions is not None else None,
            labels=self._labels.known(version, began, now) if self._labels else None,
            deaths=deaths,
            last_death=how,
            memory_mb=self._memory(of_revision, window_s, now),
        )

    def _memory(self, selector: str, window_s: int, now: float) -> float | None:
        """Most that a server of a revision had in memory in the window, in MB (10⁶ bytes)."""
        query = f"max by (revision_name) (max_over_time(process_resident_memory_bytes{{{selector}}}[{window_s}s]))"
        found = self._asked(query, "revision_name", now)
        return max(found.values()) / 1e6 if found else None

    def _grown(self, metric: str, selector: str, label: str, window_s: int, now: float) -> dict[str, float]:
        """Value of a label → how much the counter has grown in the window; raises Unavailable."""
        return self._asked(f"sum by ({label}) (increase({metric}{{{selector}}}[{window_s}s]))", label, now)

    def _asked(self, query: str, label: str, now: float) -> dict[str, float]:
        """Value of a label → what a query says of it; raises Unavailable."""
        address = f"{self._url}/api/v1/query?{urllib.parse.urlencode({'query': query, 'time': f'{now:.3f}'})}"
        try:
            with open_directly(address, TIMEOUT_S) as answer:
                document = json.loads(answer.read())
        except (OSError, json.JSONDecodeError) as error:
            raise Unavailable(f"Prometheus at {self._url} did not answer {query!r}: {error}") from error
        if document.get("status") != "success":
            raise Unavailable(f"Prometheus refused {query!r}: {document.get('error')}")
        found = {item["metric"].get(label, ""): float(item["value"][1]) for item in document["data"]["result"]}
        return {key: value for key, value in found.items() if math.isfinite(value)}


def _histogram(grown: dict[str, float]) -> Histogram:
    return histogram({float(bound): value for bound, value in grown.items()})


def _api() -> client.CustomObjectsApi:
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise Unavailable(f"no cluster is configured: {error}. Set KUBECONFIG, or use --target local.") from error
    return client.CustomObjectsApi()
