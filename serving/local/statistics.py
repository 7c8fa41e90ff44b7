"""What Envoy counted of each revision, under the names that Knative's queue proxy gives on a cluster. Text in, text
out.

Envoy counts by cluster, and a revision is one (over gRPC a second one). What failed and was asked again counts as well,
as a 5xx of the revision that failed. So does a caller that gives up, which to Envoy is a connection (HTTP/1.1) or a
stream (HTTP/2) that it closed itself without a timeout of its own. A gRPC call that fails is an answer with status 200
to HTTP: its own status says what it was.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

REVISION: Final = r"(?P<revision>(?P<service>[a-z0-9-]+)-predictor-\d{5})(?:_grpc)?"
COUNTED: Final = (
    r"(upstream_rq_([1-5]xx|time|retry|tx_reset|timeout)|upstream_cx_destroy_local_with_active_rq|grpc\.[0-9]*)$"
)
WANTED: Final = r"^cluster\.[a-z0-9-]*-predictor-[0-9]{5}(_grpc)?\." + COUNTED
"""Envoy's own names of what is read."""
SAMPLE: Final = re.compile(r"envoy_cluster_(?P<name>\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)")
LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
OF_A_REVISION: Final = re.compile(REVISION)
FAILED: Final = ("upstream_rq_retry", "upstream_rq_tx_reset", "upstream_cx_destroy_local_with_active_rq")
CALLERS_FAULT: Final = ("grpc_3", "grpc_5")
"""INVALID_ARGUMENT and NOT_FOUND, where HTTP would have answered 4xx; every other failure is 5xx."""

Key = tuple[str, str]
"""Service, revision."""


def knative(text: str) -> str:
    """Prometheus' text of Envoy → `revision_request_count` and `revision_request_latencies` (milliseconds)."""
    classes: dict[Key, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    latency: dict[Key, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for key, name, labels, value in _samples(text):
        if name == "upstream_rq_xx":
            classes[key][f"{labels['envoy_response_code_class']}xx"] += value
        elif name in FAILED:
            classes[key]["5xx"] += value
        elif name == "upstream_rq_timeout":
            classes[key]["5xx"] -= value  # it is among those that Envoy closed, and was answered with 504
        elif name.startswith("grpc_") and name != "grpc_0":
            classes[key]["2xx"] -= value
            classes[key]["4xx" if name in CALLERS_FAULT else "5xx"] += value
        elif name.startswith("upstream_rq_time_"):
            latency[key][labels.get("le", name.rpartition("_")[2])] += value
    return "\n".join([*_counts(classes), *_histograms(latency)]) + "\n"


def _samples(text: str) -> Iterator[tuple[Key, str, dict[str, str], float]]:
    for found in SAMPLE.finditer(text):
        labels = dict(LABEL.findall(found["labels"]))
        revision = OF_A_REVISION.fullmatch(labels.get("envoy_cluster_name", ""))
        if revision is not None:
            yield (revision["service"], revision["revision"]), found["name"], labels, float(found["value"])


def _counts(classes: dict[Key, dict[str, float]]) -> Iterator[str]:
    name = "revision_request_count"
    yield f"# HELP {name} Answers of a revision"
    yield f"# TYPE {name} counter"
    for key, counts in classes.items():
        for kind, count in sorted(counts.items()):
            if count > 0:
                yield f'{name}{{{_labels(key)},response_code_class="{kind}"}} {count:.0f}'


def _histograms(latency: dict[Key, dict[str, float]]) -> Iterator[str]:
    name = "revision_request_latencies"
    yield f"# HELP {name} Milliseconds from a request to its answer"
    yield f"# TYPE {name} histogram"
    for key, values in latency.items():
        for bound, count in values.items():
            if bound not in ("sum", "count"):
                yield f'{name}_bucket{{{_labels(key)},le="{bound}"}} {count:.0f}'
        yield f"{name}_sum{{{_labels(key)}}} {values['sum']:.3f}"
        yield f"{name}_count{{{_labels(key)}}} {values['count']:.0f}"


def _labels(key: Key) -> str:
    service, revision = key
    return f'service_name="{service}",revision_name="{revision}"'
