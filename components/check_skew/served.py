"""The store that serves, where it is not the one that the pipeline filled: Redis on a cluster. Rules out.

It is live: events have been pushed and refreshed views renewed since `as_of`, so whole inputs cannot be compared. What
can: of a recent view what a state holds up to `as_of`; of a refreshed one its integers, at the refresh they are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.check_skew.paths import entity_rows
from components.feast_store import answering, opened
from millrace.errors import NotFound
from millrace.fields import View
from millrace.inputs import RecentEvents
from millrace.installed import Workload, load
from millrace.instants import microseconds
from millrace.judge.gates import Rule
from millrace.lake.manifest import Manifest
from millrace.lake.states import refreshed_states
from millrace.lookup import recent_of
from millrace.registry.model_spec import GENERATION

Integers = tuple[int, ...]
Held = Mapping[str, tuple[datetime, Integers]]
"""Entity of a refreshed view → the refresh that its state is of, and the state."""


def rules(
    configuration: Path, feature_set: Manifest, filled_from: Manifest, keys: Mapping[str, list[str]], share: float
) -> Iterator[Rule]:
    """Whether the store has what `filled_from` was to put there; at most `share` of the states may differ.

    `keys`: entity → ids of B events that are looked up. Raises NotFound when the store holds no state of them,
    Unavailable when it does not answer.
    """
    workload = load(filled_from.workload)
    answer = _looked_up(configuration, workload, str(filled_from.facts[GENERATION]), keys)
    recent: dict[View, dict[str, RecentEvents]] = {}
    refreshed: dict[View, Held] = {}
    for view in workload.features.VIEWS:
        if view.recent:
            recent[view] = dict(zip(keys[view.entity], recent_of(answer, view), strict=True))
        else:
            refreshed[view] = _held(view, keys[view.entity], answer)

    any_recent = any(len(state) for states in recent.values() for state in states.values())
    if not any_recent and not any(refreshed.values()):
        raise NotFound(
            f"the online store of {configuration} holds no state of the entities of "
            f"{len(next(iter(keys.values())))} events: it was never filled, was emptied, or is another one. "
            "Fill it: python -m components.materialize.refresh "
            "(on a cluster: kubectl -n millrace create job --from=cronjob/feast-materialize refill)."
        )
    for view, states in recent.items():
        yield from _recent_rules(workload, view, states, filled_from, share)
    for view, held in refreshed.items():
        yield from refreshed_rules(workload, view, held, keys[view.entity], feature_set, filled_from, share)


def _looked_up(
    configuration: Path, workload: Workload, generation: str, keys: Mapping[str, list[str]]
) -> Mapping[str, list[Any]]:
    with answering(configuration):
        store = opened(configuration, workload.name, generation)
        service = store.get_feature_service(workload.features.FEATURE_SERVICE)
        found = store.get_online_features(service, entity_rows(workload, keys))
        answer: dict[str, list[Any]] = found.to_dict(include_event_timestamps=True)
    return answer


def _recent_rules(
    workload: Workload, view: View, held: Mapping[str, RecentEvents], filled_from: Manifest, share: float
) -> Iterator[Rule]:
    """States up to `as_of`. One that has lost entries of that time to later pushes is compared as far as it goes."""
    as_of_us = microseconds(datetime.fromisoformat(filled_from.facts["as_of"]))
    key = workload.entity(view.entity).key
    table = pq.read_table(filled_from.path(f"{view.name}.parquet"), filters=[(key, "in", list(held))])
    wanted = dict(zip(table[key].to_pylist(), recent_of(table.to_pydict(), view), strict=True))
    missing = [name for name in wanted if not len(held[name])]
    yield Rule(f"{view.name} missing in the serving store", float(len(missing)), "==", 0.0, _first(missing, wanted))

    differ = [
        name
        for name, state in wanted.items()
        if name not in missing and not _same(state, held[name].before(np.iinfo(np.int64).min, as_of_us))
    ]

    value = len(differ) / len(wanted) if wanted else None
    yield Rule(f"{view.name} that differs in the serving store", value, "<=", share, _first(differ, wanted))


def _same(wanted: RecentEvents, held: RecentEvents) -> bool:
    """Whether both agree in the newest entries, as many as both have: a state may have lost its oldest to pushes."""
    length = min(len(wanted), len(held))
    if not length:
        return False
    pairs = zip(wanted.arrays(), held.arrays(), strict=True)
    return all(np.allclose(one[-length:], other[-length:], rtol=1e-5, atol=0, equal_nan=True) for one, other in pairs)


def _held(view: View, ids: list[str], answer: Mapping[str, list[Any]]) -> Held:
    """Without those that the store does not know."""
    columns = [answer[name] for name in view.fields]
    times = answer[f"{next(iter(view.fields))}__ts"]  # Feast's name for the time of a state, seconds since 1970
    return {
        name: (datetime.fromtimestamp(seconds, UTC), tuple(integers))
        for name, seconds, *integers in zip(ids, times, *columns, strict=True)
        if integers[0] is not None
    }


def refreshed_rules(
    workload: Workload,
    view: View,
    held: Held,
    ids: list[str],
    feature_set: Manifest,
    filled_from: Manifest,
    share: float,
) -> Iterator[Rule]:
    """States at the refresh that they are of, which must not be before that of `filled_from`."""
    key = workload.entity(view.entity).key
    table = pq.read_table(filled_from.path(f"{view.name}.parquet"))
    since = {name: at for name, at, *_ in _rows(key, view, table, ids)}
    missing = [name for name in since if name not in held]
    yield Rule(f"{view.name} missing in the serving store", float(len(missing)), "==", 0.0, _first(missing, since))
    older = [name for name, at in since.items() if name in held and held[name][0] < at]
    yield Rule(
        f"{view.name} of an earlier refresh in the serving store", float(len(older)), "==", 0.0, _first(older, since)
    )

    known = _known(workload, view, feature_set, {at for at, _ in held.values()}, ids)
    compared = {name: found for name, (at, found) in held.items() if (name, at) in known}
    differ = [name for name, found in compared.items() if known[name, held[name][0]] != found]
    detail = _first(differ, compared) or f"{len(held) - len(compared)} are of a refresh after this feature set"
    value = len(differ) / len(compared) if compared else 0.0
    yield Rule(f"{view.name} that differs in the serving store", value, "<=", share, detail)


def _known(
    workload: Workload, view: View, feature_set: Manifest, refreshes: set[datetime], ids: list[str]
) -> dict[tuple[str, datetime], Integers]:
    """(entity, refresh) → state, as the feature set has them."""
    key = workload.entity(view.entity).key
    files = [(path, at) for at in refreshes for path in feature_set.table(view.name, at.date(), at.date())]
    rows = (row for path, at in files for row in _rows(key, view, refreshed_states(workload, view, path, at), ids))
    return {(name, at): tuple(integers) for name, at, *integers in rows}


def _rows(key: str, view: View, table: pa.Table, ids: list[str]) -> Iterator[tuple[Any, ...]]:
    """Id, refresh and fields of these entities."""
    found = table.filter(pc.is_in(table[key], pa.array(ids)))
    return zip(*(found[name].to_pylist() for name in (key, "event_timestamp", *view.fields)), strict=True)


def _first(names: list[str], of: Mapping[str, Any]) -> str:
    return f"first: {names[0]}; {len(names)} of {len(of)}" if names else ""
