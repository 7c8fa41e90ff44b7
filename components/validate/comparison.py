"""A snapshot beside what it is compared with, and what the rules about both have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as default

import numpy as np
from numpy.typing import NDArray

from components.validate.profile import Counts, Floats, Measured, Profile
from millrace.instants import date_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A snapshot beside what it is compared with."""

    snapshot: Profile
    judged: NDArray[np.bool_]
    """[D] days of the snapshot judged one by one."""
    current: NDArray[np.bool_]
    """[D] days of the snapshot judged as a whole."""
    reference: Profile
    measured: Measured
    activity: dict[str, dict[str, Counts]]
    """Entity → `profile.entity_activity`."""
    quarantined: int = 0
    previous_last_day: int | None = None
    """Day number; absent without a predecessor."""
    rows_lost_share: float | None = None
    """Absent when no day is held by both."""
    columns_lost: tuple[str, ...] = ()
    usual_new: dict[str, float] = default(default_factory=dict)
    """Entity → share of the reference's newer rows whose id is in none of its older ones."""
    first_seen: dict[str, Counts] = default(default_factory=dict)
    """For the page only: entity → [D] how many ids appear for the first time."""


def same_weekday(reference: Profile, days: Counts | list[int]) -> NDArray[np.bool_]:
    """[R] reference days with a weekday of `days`; all of them when there are fewer than two."""
    same = np.isin(reference.days % 7, np.asarray(days, np.int64) % 7)
    return same if same.sum() >= 2 else np.ones(len(reference), bool)


def share_of(part: NDArray[np.int64] | Floats, whole: NDArray[np.int64] | Floats) -> float:
    """Sum of a part over that of the whole; NaN where the whole is nothing."""
    total = float(whole.sum())
    return float(part.sum()) / total if total else float("nan")


def new_share(activity: Mapping[str, Counts]) -> float:
    """Share of the current rows whose entity was never seen before, of what `profile.entity_activity` gives."""
    return share_of(activity["current"] * (activity["seen"] == 0), activity["current"])


def worst(values: Floats, days: Counts, choose: Callable[[Floats], np.intp]) -> tuple[float | None, str]:
    """The extreme value that `choose` (argmin or argmax) finds, and its day; absent when there is none."""
    if not len(values) or not np.isfinite(values).all():
        return None, "not every day could be measured"
    place = choose(values)
    return float(values[place]), str(date_of(days[place]))
