"""The population stability index: how far a sample's histogram is from another's. Counts in, a number out."""

from __future__ import annotations

import math
from collections.abc import Sequence


def stability_index(expected: Sequence[float], got: Sequence[float]) -> float:
    """Σ (q - p) ln(q / p) over the bins of both, half a count added to each. Above 0.1 is worth a look."""
    bins = len(expected)
    index = 0.0
    for one, other in zip(expected, got, strict=True):
        p, q = (one + 0.5) / (sum(expected) + 0.5 * bins), (other + 0.5) / (sum(got) + 0.5 * bins)
        index += (q - p) * math.log(q / p)
    return index
