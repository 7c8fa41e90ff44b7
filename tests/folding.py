"""The state that entries make, one appended after another: what records in a store have to agree with."""

from __future__ import annotations

from collections.abc import Sequence

from millrace.appended.records import Entry
from millrace.inputs import RecentEvents


def folded(state: RecentEvents, entries: Sequence[Entry], capacity: int) -> RecentEvents:
    for entry in entries:
        state = state.append(entry.event_id, entry.event_us, entry.values, capacity)
    return state
