"""Curves thinned to what a plot or a browser can show. Labels and scores in, a few hundred points out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats


@dataclass(frozen=True, slots=True)
class Curve:
    """Points [P] from the highest threshold down; at each, everything that scores at least `threshold` is flagged."""

    threshold: Floats
    caught: Floats  # share of positives: recall, true positive rate
    false_alarms: Floats  # share of negatives: false positive rate
    precision: Floats

    def thinned(self, points: int) -> Curve:
        """At most `points` points, the first and last kept, dense where the curve is steep."""
        if len(self.threshold) <= points:
            return self
        # Equal steps along the curve, half by recall and half by false alarms.
        way = self.caught + self.false_alarms
        chosen = np.unique(np.searchsorted(way, np.linspace(way[0], way[-1], points)))
        return Curve(*(values[chosen] for values in (self.threshold, self.caught, self.false_alarms, self.precision)))


def curve(rows: Judged, scores: Floats) -> Curve:
    """One point per distinct score; empty without rows of both kinds."""
    positives, negatives = int(rows.label.sum()), int((~rows.label).sum())
    if not positives or not negatives:
        return Curve(*(np.empty(0) for _ in range(4)))
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    caught = rows.label[order].cumsum()[last].astype(np.float64)
    flagged = last + 1.0
    return Curve(scores[order][last], caught / positives, (flagged - caught) / negatives, caught / flagged)
