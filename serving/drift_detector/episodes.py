"""From judgements to alarms: a finding is believed when it comes back, and raised once while it lasts.

One window in some hundreds is flagged by chance; the same feature in two windows running hardly ever. An episode
ends when its kind has not been found for a while; with a new model version everything begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from serving.drift_detector.judgement import Finding

CONFIRMATIONS: Final = {
    "features": 2,
    "aggregates": 2,
    "score": 2,
    "decision": 2,
    "joint": 3,
    "outliers": 2,
    "missing": 2,
}
"""Judgements in a row that must find the same, by kind."""
BY_TIME: Final = dict.fromkeys(CONFIRMATIONS, 1) | {"joint": 3, "decision": 2}
"""A window by time is large and comes once a day. The multivariate test is too coarse to be believed at once; decisions
are few in a day and come in bursts of one key, which a test of independent rows takes for a shift."""
CALM_JUDGEMENTS: Final = 8
"""Judgements in a row without a finding of its kind that end an episode."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An episode that begins now."""

    finding: Finding
    judgements: int
    """In how many judgements running it was found."""


@dataclass(slots=True)
class Episodes:
    """Runs of findings of one model version, one kind of window; JSON in and out, so that it survives a restart."""

    confirmations: Mapping[str, int] = field(default_factory=lambda: CONFIRMATIONS)
    runs: dict[str, dict[str, int]] = field(default_factory=dict)
    """By kind, by feature ('' for a kind without features): judgements running that found it."""
    calm: dict[str, int] = field(default_factory=dict)
    """Open episodes: judgements since the last finding of their kind."""

    def add(self, findings: Sequence[Finding], judged: Sequence[str]) -> list[Confirmed]:
        """Findings of one judgement, of the kinds that were `judged` → the episodes that begin with it."""
        by_kind = {finding.kind: finding for finding in findings}
        begun = []
        for kind in judged:
            finding = by_kind.get(kind)
            before = self.runs.get(kind, {})
            subjects = (finding.features or ("",)) if finding else ()
            self.runs[kind] = {subject: before.get(subject, 0) + 1 for subject in subjects}
            longest = max(self.runs[kind].values(), default=0)
            if kind in self.calm:
                self._continue(kind, found=finding is not None)
            elif finding and longest >= self.confirmations[kind]:
                self.calm[kind] = 0
                begun.append(Confirmed(finding, longest))
        return begun

    def open(self, kind: str) -> bool:
        return kind in self.calm

    def lasts(self, kind: str) -> bool:
        """Open, and found by the last judgement."""
        return self.calm.get(kind) == 0

    def _continue(self, kind: str, *, found: bool) -> None:
        self.calm[kind] = 0 if found else self.calm[kind] + 1
        if self.calm[kind] >= CALM_JUDGEMENTS:
            del self.calm[kind]

    def document(self) -> dict[str, Any]:
        return {"runs": self.runs, "calm": self.calm}

    def restore(self, document: dict[str, Any]) -> None:
        self.runs, self.calm = document["runs"], document["calm"]
