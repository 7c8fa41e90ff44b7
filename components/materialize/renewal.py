"""Refreshed views from refresh to refresh, between two fills of the store: what changed, and no recent view.

Recent views are kept current by what is pushed after each score. Refreshed ones change whenever a refresh sees more
events or labels, but few of their entities do in one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.materialize.store import Aside, applied, replace_rows
from millrace.fields import View
from millrace.installed import Workload, load
from millrace.instants import last_refresh, start_of
from millrace.lake.atomic import exclusive
from millrace.lake.feast_home import fill_of
from millrace.lake.manifest import Manifest
from millrace.lake.states import refreshed_states
from millrace.observe.progress import log


def knows_events(feature_set: Manifest, lake: Path, repo: Path, as_of: datetime) -> Manifest | None:
    """The artifact of a generation, when its recent views know all events of this feature set before `as_of`."""
    filled = _filled(feature_set, lake, repo)
    if filled is None or not any(view.recent for view in load(feature_set.workload).features.VIEWS):
        return filled

    end = start_of(date.fromisoformat(feature_set.facts["last_day"])) + timedelta(days=1)
    known = datetime.fromisoformat(filled.facts["as_of"]) >= min(as_of, end)
    return filled if known else None


def renewable(feature_set: Manifest, lake: Path, repo: Path, as_of: datetime) -> bool:
    """Whether refreshed views are all that a generation lacks: it was filled from this feature set, by `as_of`.

    And the feature set holds that refresh: one that ends days before `as_of` does not.
    """
    filled, refresh = _filled(feature_set, lake, repo), _refresh(feature_set, as_of)
    tables, views = feature_set.facts["tables"], load(feature_set.workload).features.VIEWS
    held = all(str(refresh.date()) in tables[view.name] for view in views if not view.recent)
    return filled is not None and held and _own(filled) <= refresh


def renew(
    feature_set: Manifest,
    lake: Path,
    repo: Path,
    as_of: datetime,
    *,
    serving: Path | None = None,
    aside: Aside | None = None,
) -> int:
    """Renew the refreshed views of a `renewable` generation to the last refresh by `as_of`.

    Returns how many states changed. A reader sees the states of before or those of after. `serving` as in
    `materialize`: it gets the same rows. Raises AlreadyRunning when another process fills the store, Unavailable when
    the serving one does not answer.
    """
    with exclusive(repo / ".lock", f"filling generation {repo.name} of the online store"):
        filled = _filled(feature_set, lake, repo)
        assert filled is not None, "ask `renewable` first"
        return put_refreshed(feature_set, filled, repo, as_of, serving=serving, aside=aside)


def put_refreshed(
    feature_set: Manifest,
    filled: Manifest,
    repo: Path,
    as_of: datetime,
    *,
    serving: Path | None = None,
    aside: Aside | None = None,
) -> int:
    """Like `renew`, also back to an earlier refresh, for who holds the lock of a generation `filled` with that."""
    workload = load(feature_set.workload)
    refresh, own = _refresh(feature_set, as_of), _own(filled)
    content = fill_of(repo)
    assert content is not None, "it was filled"
    held = own if content.renewed_to is None else datetime.fromisoformat(content.renewed_to)
    if held == refresh:
        return 0

    rows = dict(_changes(feature_set, workload, held, refresh))
    if serving is not None:
        _write_serving(serving, workload, repo.name, rows)
    with ExitStack() as stack:
        kept = aside or stack.enter_context(closing(Aside(workload)))
        renewed = None if refresh == own else refresh.isoformat()
        replace_rows(repo, rows, replace(content, id=filled.id, renewed_to=renewed), kept)
    count = sum(map(len, rows.values()))
    log("refreshed views renewed", as_of=refresh.isoformat(), changed=count)
    return count


def states(feature_set: Manifest, view: View, refresh: datetime) -> pa.Table:
    """Every entity of a refreshed view as of a refresh: its key, event_timestamp, the view's fields."""
    (path,) = feature_set.table(view.name, refresh.date(), refresh.date())
    return refreshed_states(load(feature_set.workload), view, path, refresh)


def changed(key: str, view: View, before: pa.Table, after: pa.Table) -> pa.Table:
    """The rows of `after` that are new, or not what they were in `before`; zeros, which say unknown, for those gone."""
    place = pc.index_in(after[key], before[key]).combine_chunks()
    differs: NDArray[np.bool_] = place.is_null().to_numpy(zero_copy_only=False)
    known = np.flatnonzero(~differs)
    at = place.drop_null().to_numpy()
    for name in view.fields:
        differs[known] |= after[name].to_numpy()[known] != before[name].to_numpy()[at]

    gone = before.filter(pc.invert(pc.is_in(before[key], after[key])))
    for name in view.fields:
        at_name = gone.schema.get_field_index(name)
        gone = gone.set_column(at_name, gone.schema.field(name), pa.array(np.zeros(len(gone), np.int64)))
    return pa.concat_tables([after.filter(pa.array(differs)), gone])


def _changes(
    feature_set: Manifest, workload: Workload, held: datetime, refresh: datetime
) -> Iterator[tuple[str, pa.Table]]:
    """Refreshed view → its states that are others at `refresh` than at `held`."""
    for view in workload.features.VIEWS:
        if not view.recent:
            key = workload.entity(view.entity).key
            yield view.name, changed(key, view, states(feature_set, view, held), states(feature_set, view, refresh))


def _write_serving(configuration: Path, workload: Workload, generation: str, rows: dict[str, pa.Table]) -> None:
    from components.materialize import serving_store

    for view, table in rows.items():
        if table:
            serving_store.write(configuration, workload, generation, view, table)


def _filled(feature_set: Manifest, lake: Path, repo: Path) -> Manifest | None:
    """What a generation was filled from; None when that is another feature set's, or was never."""
    content = fill_of(repo)
    if content is None or not applied(repo, load(feature_set.workload)):
        return None

    filled = Manifest.find(lake, "online_store", content.id)
    return filled if filled is not None and filled.parents.get("feature_set") == feature_set.id else None


def _own(filled: Manifest) -> datetime:
    """The refresh that a fill itself is of."""
    return _refresh(filled, datetime.fromisoformat(filled.facts["as_of"]))


def _refresh(artifact: Manifest, as_of: datetime) -> datetime:
    return last_refresh(as_of.astimezone(UTC), load(artifact.workload).features.REFRESHES_PER_DAY)
