"""Rows as they were scored, in a form that can be changed and scored again: what stress tests work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from millrace.features.table import Table


@dataclass(frozen=True, slots=True)
class Scored:
    """B events as features and labels."""

    label: NDArray[Any]  # [B]
    features: NDArray[np.float32]  # [B, F]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def value(self) -> NDArray[Any]:
        """Every event counts as much as another."""
        return np.ones(len(self.label))

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """Only the events of mask[B]."""
        return replace(self, label=self.label[mask], features=self.features[mask])

    def tensors(self, length: int) -> tuple[NDArray[np.float32], None]:  # noqa: ARG002 - no history is read
        return self.features, None


def scored(data: Any, rows: NDArray[np.int64]) -> Scored:
    """Rows[B] of a training set, unchanged."""
    return Scored(np.asarray(data.label[rows]), np.array(data.features[rows], np.float32))


def stresses_of(table: Table) -> Mapping[str, Callable[[Scored], Scored]]:
    """Bad days of any table: the online store knows nobody; for each number, a source that stopped sending it."""
    nobody = [table.names.index(name) for entity in table.entities for name in table.past(entity)]
    stresses = {"no_state": _stress(dict.fromkeys(nobody, 0.0))}
    for name in table.numbers:
        column, flag = table.names.index(f"{name}_value"), table.names.index(f"{name}_missing")
        stresses[f"{name}_missing"] = _stress({column: 0.0, flag: 1.0})
    return stresses


def _stress(columns: Mapping[int, float]) -> Callable[[Scored], Scored]:
    """The same events with these values in these columns of the features."""

    def stressed(events: Scored) -> Scored:
        features = events.features.copy()
        features[:, list(columns)] = list(columns.values())
        return replace(events, features=features)

    return stressed
