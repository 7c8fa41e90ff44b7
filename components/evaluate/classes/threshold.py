"""What a model's decision threshold does on the judged rows. Rows and scores in, figures out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from millrace.judge.ranking import Judged
from millrace.judge.rows import Floats


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """What the model's own decision threshold does on the judged rows."""

    threshold: float
    precision: float
    recall: float
    flagged_units_per_day: float
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """Rows negative, positive; columns passed, flagged."""


def at_threshold(rows: Judged, scores: Floats, threshold: float) -> AtThreshold:
    """Precision, recall and daily load of flagging every score at or above `threshold`."""
    flagged = scores >= threshold
    caught = int((flagged & rows.label).sum())
    positives = int(rows.label.sum())
    alarms = int(flagged.sum())
    false_alarms = alarms - caught
    days = len(np.unique(rows.day))
    units = len(np.unique(np.stack([rows.day[flagged], rows.unit[flagged]]), axis=1).T)
    return AtThreshold(
        threshold=threshold,
        precision=caught / alarms if alarms else math.nan,
        recall=caught / positives if positives else math.nan,
        flagged_units_per_day=units / days if days else math.nan,
        confusion=((len(rows) - positives - false_alarms, false_alarms), (positives - caught, caught)),
    )
