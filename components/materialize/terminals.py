"""Terminal states from refresh to refresh, between two fills of the store: what changed, and no customer.

Customers' states are kept current by what is pushed after each score. Terminals change with every label that becomes
known, on the hour, and of 10,000 a quarter does.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.materialize.store import Aside, applied, merge_rows
from millrace.artifacts import Manifest
from millrace.atomic import exclusive
from millrace.feast_home import filled_with, repository, terminals_as_of
from millrace.fraud.features import TERMINAL_STATE_FIELDS, last_refresh
from millrace.horizon import start_of
from millrace.progress import log

VIEW = "terminal_state"
KEY = "terminal_id"


def knows_customers(feature_set: Manifest, lake: Path, home: Path, as_of: datetime) -> Manifest | None:
    """What the home's store was filled from, where that is all of this feature set's transactions before `as_of`."""
    if not renewable(feature_set, lake, home, as_of):
        return None
    filled = Manifest.read(lake / "online" / str(filled_with(home)), "online_store")
    end = start_of(date.fromisoformat(feature_set.facts["last_day"])) + timedelta(days=1)
    return filled if datetime.fromisoformat(filled.facts["as_of"]) >= min(as_of, end) else None


def renewable(feature_set: Manifest, lake: Path, home: Path, as_of: datetime) -> bool:
    """Whether the home's store was filled from this feature set, as of then or before: terminals are all it lacks."""
    held = _held(feature_set, lake, home)
    return held is not None and held <= last_refresh(as_of.astimezone(UTC))


def renew_terminals(
    feature_set: Manifest,
    lake: Path,
    home: Path,
    as_of: datetime,
    *,
    serving: Path | None = None,
    aside: Aside | None = None,
) -> int:
    """Terminals as of the last refresh at or before `as_of`, in a store that is `renewable`; how many changed.

    A reader sees the states of before or those of after. `serving` as in `materialize`: it gets the same rows.
    Raises AlreadyRunning when another process fills the store, Unavailable when the serving one does not answer.
    """
    from components.materialize import serving_store

    refresh = last_refresh(as_of.astimezone(UTC))
    with exclusive(repository(home) / ".lock", f"filling the online store of {home}"):
        held = _held(feature_set, lake, home)
        assert held is not None, "ask `renewable` first"
        if held == refresh:
            return 0
        rows = changed(states(feature_set, held), states(feature_set, refresh))
        if serving is not None:
            serving_store.write(serving, VIEW, rows)
        with ExitStack() as stack:
            kept = aside or stack.enter_context(closing(Aside(home)))
            identity = filled_with(home)
            assert identity is not None
            merge_rows(home, VIEW, rows, identity, refresh.isoformat(), kept)
    log("terminals renewed", as_of=refresh.isoformat(), changed=len(rows))
    return len(rows)


def states(feature_set: Manifest, refresh: datetime) -> pa.Table:
    """Every terminal as of a refresh: terminal_id, event_timestamp, TERMINAL_STATE_FIELDS."""
    (path,) = feature_set.table(VIEW, refresh.date(), refresh.date())
    return pq.read_table(path, filters=[("event_timestamp", "=", refresh)])


def changed(before: pa.Table, after: pa.Table) -> pa.Table:
    """The rows of `after` that are new, or whose state is not what it was in `before`."""
    place = pc.index_in(after[KEY], before[KEY]).combine_chunks()
    differs: NDArray[np.bool_] = place.is_null().to_numpy(zero_copy_only=False)
    known = np.flatnonzero(~differs)
    at = place.drop_null().to_numpy()
    for name in TERMINAL_STATE_FIELDS:
        differs[known] |= after[name].to_numpy()[known] != before[name].to_numpy()[at]
    return after.filter(pa.array(differs))


def _held(feature_set: Manifest, lake: Path, home: Path) -> datetime | None:
    """The refresh that the store's terminals are of; None when it was filled from something else."""
    identity = filled_with(home)
    filled = Manifest.find(lake / "online" / identity, "online_store") if identity and applied(home) else None
    if filled is None or filled.parents.get("feature_set") != feature_set.id:
        return None
    return last_refresh(datetime.fromisoformat(terminals_as_of(home) or filled.facts["as_of"]).astimezone(UTC))
