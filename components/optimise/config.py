"""The limits that decide what is served, and how what is beside the network is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.optimise.cascade import CascadeConfig
from components.optimise.student import StudentConfig
from millrace.tabular.boosting import BoostConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiseConfig:
    """Limits that decide what is served. Reviews, int8, students and a cascade are of a ranking."""

    review_capacity: int = 100
    """Units that analysts can look at in a day."""
    max_review_share: float = 0.05
    """At most this part of a day's units is reviewed, so that the threshold means something in a small world."""
    parity_limit: float = 1e-4
    """Largest difference between a score of the graph and of torch; of a quantity, in the middle half of its labels."""
    parity_rows: int = 4096
    ap_budget: float = 0.002
    """Average precision that a cheaper graph may lose on the validation rows: upper end of a 95 % interval."""
    min_speedup: float = 1.1
    """How much faster it must be at one of `batches`, without being slower at another."""
    batches: tuple[int, ...] = (1, 8, 64)
    """Batch sizes whose latency is measured, rows."""
    repeats: int = 100
    """Timed calls per graph and batch size."""
    resamples: int = 100
    """Resamples of units, for the intervals."""
    reference_rows: int = 10_000
    """Rows of the reference window."""
    calibration_rows: int = 1024
    """Training rows that fix the ranges of int8."""
    seed: int = 0
    """Seed of the sample in the reference window."""
    boosting: BoostConfig | None = None
    """Trees that are served beside the network, where validation rows say so; None: the workload's."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The small model that learns the served scores."""
    cascade: CascadeConfig = field(default_factory=CascadeConfig)
    """When a cheap first model is served before the full one."""
