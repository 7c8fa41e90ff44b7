"""Rows as learning reads them: what a training set gives, and a network's inputs of some of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.installed import Workload

Floats = NDArray[np.float32]
Inputs = tuple[Floats, ...]
"""features[B, F], and history[B, L, C] where the network reads one; raw."""


class Rows(Protocol):
    """R rows in time order."""

    workload: Workload
    features: Floats
    """[R, F]"""
    label: NDArray[Any]
    """[R]"""

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """Row numbers of "train", "validation" or "test"."""

    def batch(self, rows: NDArray[np.int64], length: int) -> tuple[Floats, Floats | None]:
        """features[B, F], and history[B, length, C] of rows[B] where the workload has histories."""


def inputs_of(data: Rows, rows: NDArray[np.int64], sequence_length: int) -> Inputs:
    """What a network that reads so many events of the past (0: none) is given of rows[B]."""
    features, history = data.batch(rows, sequence_length) if sequence_length else (data.features[rows], None)
    return (features,) if history is None else (features, history)
