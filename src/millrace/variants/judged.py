"""`judging` of a variant: the base's, with slices by category, a day without one's own columns, and a caveat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millrace.extended import Extended
from millrace.variants.own import Own
from millrace.workload import Judging

LEVELS: Final = 6
"""Most frequent levels of a category that are slices."""
MISSING_STRESS: Final = "own_columns_missing"

Floats = NDArray[np.float32]


def judging(own: Own) -> Judging:
    base = own.base.judging
    given: dict[str, Any] = {
        "CAVEATS": (*base.CAVEATS, _told_in_words(own)),
        "STRESSES": {
            **{name: _of_base(stress) for name, stress in base.STRESSES.items()},
            MISSING_STRESS: lambda events: events.saying_nothing(),
        },
        "slices": partial(_slices, own),
        "what_if": lambda data, rows: Inputs.of(own, data, rows),
    }
    attacks = getattr(base, "ATTACKS", None)
    if attacks is not None:
        given["ATTACKS"] = {name: _each_of_base(attack) for name, attack in attacks.items()}
    return cast(Judging, Extended(base, **given))


@dataclass(frozen=True, slots=True)
class Inputs:
    """The base's view of B events (`millrace.workload.WhatIf`), and their own features beside it."""

    base: Any
    mine: Floats  # [B, F of its own]
    silent: Floats  # [F of its own]
    width: int
    """Features of the base."""

    @classmethod
    def of(cls, own: Own, data: Any, rows: NDArray[np.int64]) -> Inputs:
        width = len(own.base.features.FEATURE_NAMES)
        mine = np.array(data.features[rows][:, width:], np.float32)
        return cls(own.base.judging.what_if(data, rows), mine, own.nothing_said, width)

    @property
    def label(self) -> Any:
        return self.base.label

    @property
    def value(self) -> Any:
        return self.base.value

    def __len__(self) -> int:
        return len(self.mine)

    def where(self, mask: NDArray[np.bool_]) -> Self:
        return replace(self, base=self.base.where(mask), mine=self.mine[mask])

    def tensors(self, length: int) -> tuple[Floats, Floats | None]:
        made, history = self.base.tensors(length)
        return np.concatenate([made[:, : self.width], self.mine], axis=1), history

    def saying_nothing(self) -> Self:
        """The same events from a source that stopped sending what is one's own."""
        return replace(self, mine=np.broadcast_to(self.silent, self.mine.shape))


def _of_base(stress: Callable[[Any], Any]) -> Callable[[Inputs], Inputs]:
    return lambda events: replace(events, base=stress(events.base))


def _each_of_base(attack: Callable[[Any], Iterator[Any]]) -> Callable[[Inputs], Iterator[Inputs]]:
    return lambda events: (replace(events, base=changed) for changed in attack(events.base))


def _slices(own: Own, rows: pa.Table, features: Floats) -> dict[str, NDArray[np.bool_]]:
    """The base's, and the most frequent levels of each category."""
    found = dict(own.base.judging.slices(rows, features))
    for column in own.columns:
        if column.kind == "categorical":
            counted = pc.value_counts(rows[column.name].combine_chunks().drop_null()).to_pylist()
            frequent = sorted(counted, key=lambda one: (-one["counts"], one["values"]))[:LEVELS]
            for level in (one["values"] for one in frequent):
                mask = pc.fill_null(pc.equal(rows[column.name], level), False)
                found[f"{column.name}_is_{level}"] = mask.to_numpy().astype(bool)
    return found


def _told_in_words(own: Own) -> str:
    columns = ", ".join(f"{one.name} ({one.kind})" for one in own.columns)
    windows = ", ".join(one.name for one in own.aggregates)
    told = " and ".join(filter(None, (columns and f"the columns {columns}", windows and f"the aggregates {windows}")))
    return f"Besides what the workload reads, the model reads {told}, declared for this data set; each may be missing."
