"""What the splitter saw of each revision, under the names that Knative's queue proxy gives on a cluster.

Plain numbers, written out as Prometheus' text when asked: counting must not cost what a small model does.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

LATENCY_BOUNDS_MS: Final = (
    0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 500, 750, 1000, 2000, 5000, 10000, 30000,
)  # fmt: skip
"""Finer at the low end than Knative's, which begin at 5 ms: an answer here takes 1."""


@dataclass(slots=True)
class _Figures:
    classes: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))
    sum_ms: float = 0.0


class RevisionMetrics:
    """Counts of every revision that has answered since the runtime started."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Figures] = {}

    def record(self, service: str, revision: str, status: int, seconds: float) -> None:
        figures = self._seen.get((service, revision))
        if figures is None:
            figures = self._seen[service, revision] = _Figures()
        kind = f"{status // 100}xx"
        figures.classes[kind] = figures.classes.get(kind, 0) + 1
        milliseconds = seconds * 1000
        figures.buckets[bisect_left(LATENCY_BOUNDS_MS, milliseconds)] += 1
        figures.sum_ms += milliseconds

    def text(self) -> str:
        """Prometheus' text format, version 0.0.4."""
        count, latency = "revision_request_count", "revision_request_latencies"
        lines = [f"# HELP {count} Answers of a revision", f"# TYPE {count} counter"]
        for (service, revision), figures in self._seen.items():
            labels = f'service_name="{service}",revision_name="{revision}"'
            lines += [f'{count}{{{labels},response_code_class="{k}"}} {n}' for k, n in figures.classes.items()]
        lines += [f"# HELP {latency} Milliseconds from a request to its answer", f"# TYPE {latency} histogram"]
        for (service, revision), figures in self._seen.items():
            labels, below = f'service_name="{service}",revision_name="{revision}"', 0
            for bound, number in zip((*LATENCY_BOUNDS_MS, "+Inf"), figures.buckets, strict=True):
                below += number
                lines.append(f'{latency}_bucket{{{labels},le="{bound}"}} {below}')
            lines += [f"{latency}_sum{{{labels}}} {figures.sum_ms:.3f}", f"{latency}_count{{{labels}}} {below}"]
        return "\n".join(lines) + "\n"
