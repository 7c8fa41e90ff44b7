"""Traffic and metrics of the local runtime: its manifest file, and what its servers say under /metrics.

The file is written aside and renamed; the runtime follows it. Counters only grow until a server starts again: what they
have grown by since a step began is kept in `<home>/serving/rollout/<name>.json`, as Prometheus would keep it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import yaml

from millrace.direct import open_directly
from millrace.errors import NotFound, Unavailable
from millrace.lake.atomic import exclusive, write_text
from millrace.rollout.canary import Document, Rollout
from millrace.rollout.observations import Histogram, Observations, Observed
from serving.local.state import AGENT, LocalState, Place
from serving.rollout.core import Change, RevisionNames
from serving.rollout.labels import LabelSource

TIMEOUT_S: Final = 3.0
FAILED_STARTS: Final = 3
WATCHED: Final = (
    "revision_request_count",
    "revision_request_latencies_bucket",
    "millrace_score_bucket",
    "millrace_quantity_bucket",
    "millrace_predictions_total",
)
SCORES: Final = ("millrace_score_bucket", "millrace_quantity_bucket")
"""Of classes, and of a quantity."""
Samples = dict[str, float]
"""`name{label="value",…}` as the server writes it → value."""


class LocalTarget:
    """The InferenceService file in `<home>/serving`."""

    def __init__(self, place: Place, name: str) -> None:
        self._place = place
        self._name = name
        self._path = place.manifest(name)

    def read(self) -> Document:
        try:
            document: Document = yaml.safe_load(self._path.read_text())
        except FileNotFoundError as error:
            raise NotFound(f"no manifest at {self._path}. Promote a model first: make run") from error
        return document

    def change(self, change: Change) -> Document:
        with exclusive(self._place.folder / "rollout.lock", f"a change to {self._path}"):
            before = self.read()
            after = change(before)
            if after != before:
                write_text(self._path, yaml.safe_dump(after, sort_keys=False, width=120))
        return after

    def revisions(self, rollout: Rollout) -> RevisionNames:
        service = _running(self._place).find(self._name)
        by_version = {item.model_version: item for item in service.revisions} if service else {}
        stable = by_version.get(rollout.stable_version)
        newest = by_version.get(rollout.canary_version)
        if stable is None or newest is None:
            return RevisionNames("", "", canary_ready=False)  # the runtime has not looked at the file yet
        failed = f"its server ended {newest.failed_starts} times before it was ready"
        return RevisionNames(
            stable.name,
            newest.name,
            canary_ready=newest.percent > 0,
            failed=failed if newest.failed_starts >= FAILED_STARTS else "",
        )


class LocalMetrics:
    """Scrapes the agent and the transformers; adds up what has grown since the step began."""

    def __init__(self, place: Place, name: str, labels: LabelSource | None = None, *, decides: bool = True) -> None:
        self._place = place
        self._name = name
        self._labels, self._decides = labels, decides
        self._path = place.folder / "rollout" / f"{name}.json"

    def observe(self, rollout: Rollout, names: RevisionNames, now: float) -> Observations:
        grown = self._grown(rollout, self._scrape())

        def side(revision: str, version: str) -> Observed:
            found = observed(grown, revision, version, decides=self._decides)
            return (
                replace(found, labels=self._labels.known(version, rollout.state.began, now)) if self._labels else found
            )

        return Observations(side(names.stable, rollout.stable_version), side(names.canary, rollout.canary_version))

    def _scrape(self) -> Samples:
        """The watched samples of the agent and of each transformer, as they are now; raises Unavailable."""
        samples: Samples = {}
        for process in _running(self._place).processes:
            scored = process.service == self._name and process.role == "transformer" and process.state == "ready"
            if scored or process.role == AGENT:
                found = parsed(_get(f"http://127.0.0.1:{process.http_port}/metrics"))
                samples |= {told_apart(key, process.replica): value for key, value in found.items()}
        return samples

    def _grown(self, rollout: Rollout, now_is: Samples) -> Samples:
        """What each counter has grown by in this step; one that is smaller than before began again at 0."""
        step = f"{rollout.began} {rollout.step_began} {rollout.canary_version}"
        known = _memory(self._path)
        if known.get("step") != step:
            known = {"step": step, "last": now_is, "grown": {}}
        last: Samples = known["last"]
        grown: Samples = known["grown"]
        for key, value in now_is.items():
            before = last.get(key, 0.0)
            grown[key] = grown.get(key, 0.0) + (value - before if value >= before else value)
        write_text(self._path, json.dumps({"step": step, "last": last | now_is, "grown": grown}) + "\n")
        return grown


def observed(samples: Samples, revision: str, version: str, *, decides: bool) -> Observed:
    """One revision's counts among samples that have grown."""
    requests, errors, reviewed = 0.0, 0.0, 0.0
    latency: dict[float, float] = defaultdict(float)
    scores: dict[float, float] = defaultdict(float)
    for key, value in samples.items():
        name, labels = split(key)
        if labels.get("revision_name") == revision and name == "revision_request_count":
            requests += value
            errors += value if labels["response_code_class"] == "5xx" else 0.0
        elif labels.get("revision_name") == revision and name == "revision_request_latencies_bucket":
            latency[float(labels["le"])] += value
        elif labels.get("model_version") == version and name in SCORES:
            scores[float(labels["le"])] += value
        elif labels.get("model_version") == version and labels.get("decision") == "review":
            reviewed += value
    return Observed(requests, errors, histogram(latency), histogram(scores), reviewed if decides else None)


def histogram(cumulative: Mapping[float, float]) -> Histogram:
    """Prometheus' cumulative buckets as counts per bucket; what rounding makes negative is nothing."""
    bounds = sorted(cumulative)
    below = [cumulative[bound] for bound in bounds]
    counts = tuple(max(0.0, n - before) for n, before in zip(below, [0.0, *below], strict=False))
    return Histogram(tuple(bounds[:-1]), counts)


def parsed(text: str) -> Samples:
    """The watched samples in Prometheus' text format."""
    samples: Samples = {}
    for line in text.splitlines():
        if line.startswith(WATCHED):
            key, _, value = line.rpartition(" ")
            samples[key] = float(value)
    return samples


def told_apart(key: str, replica: int) -> str:
    """A sample's key with the process that said it: each begins again at 0 by itself."""
    return f'{key.removesuffix("}")},replica="{replica}"}}' if key.endswith("}") else f'{key}{{replica="{replica}"}}'


def split(key: str) -> tuple[str, dict[str, str]]:
    """`name{a="b",…}` → name, labels; no label that is watched has a comma or a quote in its value."""
    name, _, inside = key.partition("{")
    pairs: Iterable[str] = inside.rstrip("}").split(",") if inside else ()
    return name, {label: value.strip('"') for label, _, value in (pair.partition("=") for pair in pairs)}


def _running(place: Place) -> LocalState:
    state = place.read() if place.alive() else None
    if state is None:
        raise Unavailable(f"nothing is running for {place.home}. Start it with: make up")
    return state


def _get(url: str) -> str:
    try:
        with open_directly(url, TIMEOUT_S) as answer:
            text: str = answer.read().decode()
            return text
    except OSError as error:
        raise Unavailable(f"{url} cannot be read: {error}") from error


def _memory(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        return document
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
