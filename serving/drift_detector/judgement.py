"""What a detector is given and what it says: the reference, a window of requests, and the judgement of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from millrace.errors import InvalidInput
from millrace.workload import Watch

SCORE, DECISION = "score", "decision"
PER_REQUEST, AGGREGATE, SHOWN = "per_request", "aggregate", "shown"
"""Roles of features."""
KINDS: Final = ("features", "aggregates", "score", "decision", "joint", "outliers", "missing")


@dataclass(frozen=True, slots=True)
class Window:
    """W requests in the order they were scored."""

    features: NDArray[np.float32]  # [W, F], NaN where unknown
    scores: NDArray[np.float32]  # [W]
    review: NDArray[np.bool_]  # [W], decided to review; not read where the task has no decisions

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a model version was validated on."""

    model_version: str
    names: tuple[str, ...]
    features: NDArray[np.float32]  # [R, F]
    scores: NDArray[np.float32]  # [R]
    threshold: float | None
    """A score at or above it is reviewed; None where the task has no decisions."""
    watch: Watch
    """Which features are judged, and how; which say when."""

    def review(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """[N] which of these scores would be reviewed."""
        return np.zeros(len(scores), bool) if self.threshold is None else scores >= self.threshold

    def role_of(self, feature: str) -> str:
        """`per_request`, `aggregate` or `shown` (not judged)."""
        if feature in self.watch.PER_REQUEST:
            return PER_REQUEST
        return AGGREGATE if feature in self.watch.AGGREGATE else SHOWN

    def __post_init__(self) -> None:
        if len(self.features) < 100:
            raise InvalidInput(
                f"the reference window of version {self.model_version} has {len(self.features)} rows; wanted at least "
                "100. Train on more validation days."
            )


@dataclass(frozen=True, slots=True)
class Comparison:
    """One column of a window against the reference."""

    name: str
    role: str
    """`per_request`, `aggregate`, `score`, `decision`, or `shown`: compared, never judged."""
    statistic: float | None
    """Kolmogorov-Smirnov distance, or chi-squared for the decision; absent where too much is missing."""
    p_value: float | None
    drifted: bool
    missing: float = 0.0
    """Share of the window's rows without a value."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of drift in one window."""

    kind: str
    """One of KINDS."""
    features: tuple[str, ...]
    severity: str
    """`warning`, or `critical` where a distance is past twice its usual size or a feature is gone."""
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything that was found in one window."""

    model_version: str
    rows: int
    comparisons: tuple[Comparison, ...]
    joint_statistic: float | None = None
    """Maximum mean discrepancy; absent where it was not asked for."""
    joint_p_value: float | None = None
    outliers: tuple[int, ...] = ()
    """Rows of the window that are outlying."""
    findings: tuple[Finding, ...] = field(default=())

    @property
    def drifted(self) -> bool:
        return bool(self.findings)

    @property
    def severity(self) -> str:
        found = {finding.severity for finding in self.findings}
        return "critical" if "critical" in found else "warning" if found else "none"

    @property
    def reason(self) -> str:
        return "; ".join(finding.reason for finding in self.findings) or "as the reference"


def as_document(judgement: Judgement) -> Mapping[str, Any]:
    """The judgement as JSON values."""
    return asdict(judgement) | {
        "drifted": judgement.drifted,
        "severity": judgement.severity,
        "reason": judgement.reason,
    }
