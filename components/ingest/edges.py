"""Days at either end of the data that are none: a few events with a wrong year, or past an export's last midnight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

STRAY = "event_timestamp_stray"
"""Reason of the events of such days."""


def edge_days(rows: Mapping[int, int], share: float) -> set[int]:
    """Days of `rows` (day → events) before the first and after the last that has `share` of an ordinary day's events.

    Half of all events lie on days with more events than the ordinary one, so that stray days, however many, do not
    decide what is ordinary.
    """
    days = np.array(sorted(day for day, count in rows.items() if count), np.int64)
    counts = np.array([rows[day] for day in days.tolist()], np.int64)
    if not len(days):
        return set()
    by_size = np.sort(counts)
    ordinary = by_size[np.searchsorted(by_size.cumsum(), by_size.sum() / 2)]

    real = np.flatnonzero(counts >= share * ordinary)
    return set(days[: real[0]].tolist()) | set(days[real[-1] + 1 :].tolist())
