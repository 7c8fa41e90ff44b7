"""Samples of servers in Prometheus' text format, and what they say of one revision. Text and numbers; no I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from millrace.rollout.observations import Histogram, Observed

SCORES: Final = ("millrace_score_bucket", "millrace_quantity_bucket")
"""Of classes, and of a quantity."""
FAULTS: Final = "millrace_model_faults_total"
REPEATED: Final = "millrace_scores_repeated_total"
OF_VERSION: Final = (FAULTS, REPEATED)
"""Counters of a model version that have no other label that matters."""
DEATHS: Final = "millrace_process_deaths"
"""How often a revision's processes have ended, as the local runtime says it: no server's sample."""
WATCHED: Final = (
    "revision_request_count",
    "revision_request_latencies_bucket",
    "millrace_predictions_total",
    *SCORES,
    *OF_VERSION,
)
Samples = dict[str, float]
"""`name{label="value",…}` as the server writes it → value."""


def observed(samples: Samples, revision: str, version: str, *, decides: bool) -> Observed:
    """One revision's counts among samples that have grown."""
    answers: dict[str, float] = defaultdict(float)
    counted: dict[str, float] = defaultdict(float)
    latency: dict[float, float] = defaultdict(float)
    scores: dict[float, float] = defaultdict(float)
    for key, value in samples.items():
        name, labels = split(key)
        if labels.get("revision_name") == revision:
            if name == "revision_request_count":
                answers[labels["response_code_class"]] += value
            elif name == "revision_request_latencies_bucket":
                latency[float(labels["le"])] += value
            elif name == DEATHS:
                counted[DEATHS] += value
        elif labels.get("model_version") == version:
            if name in SCORES:
                scores[float(labels["le"])] += value
            elif name in OF_VERSION:
                counted[name] += value
            elif labels.get("decision") == "review":
                counted["review"] += value

    return Observed(
        requests=sum(answers.values()),
        errors=answers["5xx"],
        refused=answers["4xx"],
        unsound=counted[FAULTS],
        latency_ms=histogram(latency),
        scores=histogram(scores),
        repeated=counted[REPEATED],
        reviewed=counted["review"] if decides else None,
        deaths=counted[DEATHS],
    )


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


def told_apart(key: str, replica: str) -> str:
    """A sample's key with the process that said it: each begins again at 0 by itself."""
    return f'{key.removesuffix("}")},replica="{replica}"}}' if key.endswith("}") else f'{key}{{replica="{replica}"}}'


def split(key: str) -> tuple[str, dict[str, str]]:
    """`name{a="b",…}` → name, labels; no label that is watched has a comma or a quote in its value."""
    name, _, inside = key.partition("{")
    pairs: Iterable[str] = inside.rstrip("}").split(",") if inside else ()
    return name, {label: value.strip('"') for label, _, value in (pair.partition("=") for pair in pairs)}
