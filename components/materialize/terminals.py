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
from numpy.typing import NDArray

from components.materialize.store import Aside, applied, replace_rows
from fraud import online_sql
from fraud.features import TERMINAL_STATE_FIELDS, last_refresh
from millrace.lake.atomic import exclusive
from millrace.lake.feast_home import filled_with, repository, terminals_as_of
from millrace.lake.horizon import start_of
from millrace.lake.manifest import Manifest
from millrace.observe.progress import log

VIEW = "terminal_state"
KEY = "terminal_id"


def knows_customers(feature_set: Manifest, lake: Path, home: Path, as_of: datetime) -> Manifest | None:
    """What the home's store was filled from, where that is all of this feature set's transactions before `as_of`."""
    filled = _filled(feature_set, lake, home)
    end = start_of(date.fromisoformat(feature_set.facts["last_day"])) + timedelta(days=1)
    known = filled is not None and datetime.fromisoformat(filled.facts["as_of"]) >= min(as_of, end)
    return filled if known else None


def renewable(feature_set: Manifest, lake: Path, home: Path, as_of: datetime) -> bool:
    """Whether the home's store was filled from this feature set, as of then or before: terminals are all it lacks."""
    filled = _filled(feature_set, lake, home)
    return filled is not None and _own(filled) <= last_refresh(as_of.astimezone(UTC))


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
    with exclusive(repository(home) / ".lock", f"filling the online store of {home}"):
        filled = _filled(feature_set, lake, home)
        assert filled is not None, "ask `renewable` first"
        return put_terminals(feature_set, filled, home, as_of, serving=serving, aside=aside)


def put_terminals(
    feature_set: Manifest,
    filled: Manifest,
    home: Path,
    as_of: datetime,
    *,
    serving: Path | None = None,
    aside: Aside | None = None,
) -> int:
    """As `renew_terminals`, also back to an earlier refresh, for who holds the lock of a store `filled` with that."""
    from components.materialize import serving_store

    refresh, own = last_refresh(as_of.astimezone(UTC)), _own(filled)
    renewed = terminals_as_of(home)
    held = own if renewed is None else datetime.fromisoformat(renewed)
    if held == refresh:
        return 0
    rows = changed(states(feature_set, held), states(feature_set, refresh))
    if serving is not None and rows:
        serving_store.write(serving, VIEW, rows)
    with ExitStack() as stack:
        kept = aside or stack.enter_context(closing(Aside(home)))
        replace_rows(home, VIEW, rows, filled.id, None if refresh == own else refresh.isoformat(), kept)
    log("terminals renewed", as_of=refresh.isoformat(), changed=len(rows))
    return len(rows)


def states(feature_set: Manifest, refresh: datetime) -> pa.Table:
    """Every terminal as of a refresh: terminal_id, event_timestamp, TERMINAL_STATE_FIELDS."""
    (path,) = feature_set.table(VIEW, refresh.date(), refresh.date())
    return online_sql.terminal_states(path, refresh)


def changed(before: pa.Table, after: pa.Table) -> pa.Table:
    """The rows of `after` that are new, or not what they were in `before`; zeros, which say unknown, for those gone."""
    place = pc.index_in(after[KEY], before[KEY]).combine_chunks()
    differs: NDArray[np.bool_] = place.is_null().to_numpy(zero_copy_only=False)
    known = np.flatnonzero(~differs)
    at = place.drop_null().to_numpy()
    for name in TERMINAL_STATE_FIELDS:
        differs[known] |= after[name].to_numpy()[known] != before[name].to_numpy()[at]
    gone = before.filter(pc.invert(pc.is_in(before[KEY], after[KEY])))
    for name in TERMINAL_STATE_FIELDS:
        at_name = gone.schema.get_field_index(name)
        gone = gone.set_column(at_name, gone.schema.field(name), pa.array(np.zeros(len(gone), np.int64)))
    return pa.concat_tables([after.filter(pa.array(differs)), gone])


def _filled(feature_set: Manifest, lake: Path, home: Path) -> Manifest | None:
    """What the home's store was filled from; None when that is another feature set's, or was never."""
    identity = filled_with(home)
    filled = Manifest.find(lake / "online" / identity, "online_store") if identity and applied(home) else None
    return filled if filled is not None and filled.parents.get("feature_set") == feature_set.id else None


def _own(filled: Manifest) -> datetime:
    """The refresh that a fill itself is of."""
    return last_refresh(datetime.fromisoformat(filled.facts["as_of"]).astimezone(UTC))
