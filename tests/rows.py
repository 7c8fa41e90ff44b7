"""Rows of the workload `machines`, made by a formula with noise, as a training set gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from machines import schema

from millrace.installed import Workload
from millrace.instants import DAY_US
from millrace.lake.manifest import Manifest

FIRST_US = 1_748_736_000_000_000
"""2025-06-01."""
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


def readings(days: int = 6, machines: int = 12, a_day: int = 60) -> list[pa.Table]:
    """Days of readings as a snapshot has them: of a few machines in two halls, some without a load."""
    rng = np.random.default_rng(0)
    tables = []
    for day in range(days):
        start = FIRST_US + day * DAY_US
        event_us = np.sort(start + rng.integers(0, DAY_US, a_day))
        heat, load = rng.random(a_day), rng.random(a_day)
        columns = {
            "reading_id": np.arange(a_day) + day * a_day,
            "event_timestamp": pa.array(event_us, pa.timestamp("us", tz="UTC")),
            "machine": [str(machine) for machine in rng.integers(0, machines, a_day)],
            "hall": ["north" if hall else "south" for hall in rng.integers(0, 2, a_day)],
            "heat": heat,
            "load": pa.array(load, mask=rng.random(a_day) < 0.1),
            "hours": 10 + 8 * heat,
            "label_timestamp": pa.array(event_us + 3_600_000_000, pa.timestamp("us", tz="UTC")),
        }
        tables.append(pa.table(columns, schema=schema.EVENTS))
    return tables
