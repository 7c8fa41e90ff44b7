"""What is seen of both revisions during a step of a rollout. Where it comes from is `serving/rollout`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts per bucket: counts[i] for values in (bounds[i-1], bounds[i]]; the last count is above every bound."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """The value below which a share `q` lies, linear inside a bucket; the last bound for what is above it."""
        rank, below = q * self.total, 0.0
        for i, count in enumerate(self.counts[: len(self.bounds)]):
            if below + count >= rank and count > 0:
                low = self.bounds[i - 1] if i else 0.0
                return low + (self.bounds[i] - low) * (rank - below) / count
            below += count
        return self.bounds[-1] if self.bounds else math.nan

    def above(self, value: float) -> float:
        """How many lie above `value`, linear inside a bucket; past the last bound, all that are above that."""
        beyond = self.counts[-1] if len(self.counts) > len(self.bounds) else 0.0
        for i, bound in enumerate(self.bounds):
            low = self.bounds[i - 1] if i else 0.0
            if bound > value:
                beyond += self.counts[i] * min(1.0, (bound - value) / (bound - low))
        return beyond


@dataclass(frozen=True, slots=True)
class Alerts:
    """Flagged events of a rollout whose label is known."""

    labelled: float = 0.0
    true: float = 0.0
    """Positives among them."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute errors of a rollout's answers whose label, a quantity, is known."""

    labelled: float = 0.0
    mean: float = 0.0
    variance: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """One revision since the step began."""

    requests: float = 0.0
    errors: float = 0.0
    """Answers with 5xx, or none; also those that came after the caller had given up."""
    refused: float = 0.0
    """Answers with 4xx."""
    unsound: float = 0.0
    """Answers that were no scores: not finite, out of range, of another shape, for other features."""
    latency_ms: Histogram = field(default_factory=Histogram)
    scores: Histogram = field(default_factory=Histogram)
    repeated: float = 0.0
    """Number of the scores that were equal to the one before."""
    reviewed: float | None = None
    """Number of the scored events that were decided `review`; None where the task has no decisions."""
    labels: Alerts | Errors | None = None
    """What labels say; None where nobody was asked."""
    deaths: float = 0.0
    """How often one of its processes has ended by itself since the rollout began."""
    last_death: str = ""
    """How, in words."""
    memory_mb: float | None = None
    """Most that one of its processes has had in memory, in MB (10⁶ bytes); None where nobody can say."""


@dataclass(frozen=True, slots=True)
class Observations:
    stable: Observed = field(default_factory=Observed)
    canary: Observed = field(default_factory=Observed)
    canary_ready: bool = True
    """Whether the canary has become ready; until then it gets no traffic."""
