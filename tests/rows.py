"""Rows of the workload `machines`, made by a formula with noise, as a training set gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from millrace.lake.manifest import Manifest
from millrace.workload import Workload

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class MachineRows:
    """Hours follow from heat and load, with noise that grows with age; three quarters are training rows."""

    workload: Workload
    count: int = 4_000
    features: np.ndarray = field(init=False)
    label: np.ndarray = field(init=False)
    split: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        features = rng.random((self.count, 3)).astype(np.float32)
        heat, load, age = features.T
        hours = 10 + 8 * heat * load + 6 * (load > 0.7) + (0.5 + 2 * age) * rng.normal(0, 1, self.count)
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "label", hours.astype(np.float32))
        object.__setattr__(self, "split", rng.choice(3, self.count, p=(0.75, 0.15, 0.1)))

    @property
    def manifest(self) -> Manifest:
        return Manifest(kind="training_set", id="t" * 16, workload=self.workload.name, uri=".")

    def rows_of(self, split: str) -> np.ndarray:
        return np.flatnonzero(self.split == SPLITS.index(split))

    def batch(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, Any]:
        assert length == 0
        return self.features[rows], None
