"""The store that serves, where it is not the one that the pipeline filled: Redis on a cluster. Rules out.

It is live: transactions have been pushed and terminals renewed since `as_of`, so whole inputs cannot be compared. What
can: of a customer what the state holds up to `as_of`; of a terminal its counts, at the refresh that they are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.feast_store import answering, opened
from fraud import features as f
from fraud.features import VIEWS
from millrace.errors import NotFound
from millrace.inputs import RecentEvents, recent
from millrace.instants import microseconds
from millrace.judge.gates import Rule
from millrace.lake.manifest import Manifest
from millrace.lake.states import refreshed_states
from millrace.lookup import recent_of
from millrace.workload import load

TIME: Final = f"{f.TERMINAL_STATE_FIELDS[0]}__ts"
"""Feast's name for the time of a terminal's state, seconds since 1970."""
TIMED: Final = ("terminal_id", "event_timestamp", *f.TERMINAL_STATE_FIELDS)

Counts = tuple[int, ...]


CUSTOMERS, TERMINALS = VIEWS


def rules(
    configuration: Path, feature_set: Manifest, filled_from: Manifest, sample: pa.Table, share: float
) -> Iterator[Rule]:
    """Whether the store has what `filled_from` was to put there; at most `share` of the states may differ.

    Raises NotFound when it holds none of them, Unavailable when it does not answer.
    """
    answer = _looked_up(configuration, filled_from.workload, sample)
    customers = dict(zip(sample["customer_id"].to_pylist(), recent_of(answer, CUSTOMERS), strict=True))
    terminals = _terminals(sample["terminal_id"].to_pylist(), answer)
    if not any(map(len, customers.values())) and not terminals:
        raise NotFound(
            f"the online store of {configuration} holds none of {len(sample)} customers and terminals: it was never "
            "filled, was emptied, or is another one. Fill it: python -m components.materialize.refresh "
            "(on a cluster: kubectl -n millrace create job --from=cronjob/feast-materialize refill)."
        )
    yield from _customer_rules(customers, filled_from, share)
    yield from terminal_rules(terminals, sample["terminal_id"].to_pylist(), feature_set, filled_from, share)


def _looked_up(configuration: Path, workload: str, sample: pa.Table) -> Mapping[str, list[Any]]:
    rows = {name: sample[name].to_pylist() for name in ("customer_id", "terminal_id")}
    with answering(configuration):
        store = opened(configuration, workload)
        service = store.get_feature_service(f.FEATURE_SERVICE)
        answer: dict[str, list[Any]] = store.get_online_features(service, rows).to_dict(include_event_timestamps=True)
    return answer


def _customer_rules(customers: Mapping[str, RecentEvents], filled_from: Manifest, share: float) -> Iterator[Rule]:
    """States up to `as_of`. One that has lost entries of that time to later pushes is compared as far as it goes."""
    as_of_us = microseconds(datetime.fromisoformat(filled_from.facts["as_of"]))
    table = pq.read_table(filled_from.path("customer_state.parquet"), filters=[("customer_id", "in", list(customers))])
    wanted = dict(zip(table["customer_id"].to_pylist(), recent_of(table.to_pydict(), CUSTOMERS), strict=True))
    missing = [name for name in wanted if not len(customers[name])]
    yield Rule("customers missing in the serving store", float(len(missing)), "==", 0.0, _first(missing, wanted))
    differ = [
        name
        for name, state in wanted.items()
        if name not in missing and not _same(state, _until(customers[name], as_of_us))
    ]
    value = len(differ) / len(wanted) if wanted else None
    yield Rule("customers that differ in the serving store", value, "<=", share, _first(differ, wanted))


def _until(state: RecentEvents, as_of_us: int) -> RecentEvents:
    end = int(np.searchsorted(state.event_us, as_of_us))
    return recent(*(values[:end] for values in state.arrays()))


def _same(wanted: RecentEvents, held: RecentEvents) -> bool:
    """Of the newest entries, as many as both can have: a longer state goes further back, a pushed one less far."""
    length = min(len(wanted), len(held))
    if not length:
        return False
    pairs = zip(wanted.arrays(), held.arrays(), strict=True)
    return all(np.allclose(one[-length:], other[-length:], rtol=1e-5, atol=0) for one, other in pairs)


def _terminals(names: list[str], answer: Mapping[str, list[Any]]) -> dict[str, tuple[datetime, Counts]]:
    """Terminal → time of its state, and its counts; without those that the store does not know."""
    columns = [answer[name] for name in f.TERMINAL_STATE_FIELDS]
    return {
        name: (datetime.fromtimestamp(seconds, UTC), tuple(counts))
        for name, seconds, *counts in zip(names, answer[TIME], *columns, strict=True)
        if counts[0] is not None
    }


def terminal_rules(
    terminals: Mapping[str, tuple[datetime, Counts]],
    names: list[str],
    feature_set: Manifest,
    filled_from: Manifest,
    share: float,
) -> Iterator[Rule]:
    """Counts at the refresh that they are of, which must not be before that of `filled_from`."""
    table = pq.read_table(filled_from.path("terminal_state.parquet"), columns=list(TIMED))
    since = {name: at for name, at, *_ in _rows(table, names)}
    missing = [name for name in since if name not in terminals]
    yield Rule("terminals missing in the serving store", float(len(missing)), "==", 0.0, _first(missing, since))
    older = [name for name, at in since.items() if name in terminals and terminals[name][0] < at]
    yield Rule(
        "terminals of an earlier refresh in the serving store", float(len(older)), "==", 0.0, _first(older, since)
    )
    known = _known(feature_set, {at for at, _ in terminals.values()}, names)
    compared = {name: found for name, (at, found) in terminals.items() if (name, at) in known}
    differ = [name for name, found in compared.items() if known[name, terminals[name][0]] != found]
    detail = _first(differ, compared) or f"{len(terminals) - len(compared)} are of a refresh after this feature set"
    value = len(differ) / len(compared) if compared else 0.0
    yield Rule("terminals that differ in the serving store", value, "<=", share, detail)


def _known(feature_set: Manifest, refreshes: set[datetime], names: list[str]) -> dict[tuple[str, datetime], Counts]:
    """(terminal, refresh) → counts, as the feature set has them."""
    files = [(path, at) for at in refreshes for path in feature_set.table("terminal_state", at.date(), at.date())]
    workload = load(feature_set.workload)
    (view,) = (view for view in workload.features.VIEWS if view.name == "terminal_state")
    rows = (row for path, at in files for row in _rows(refreshed_states(workload, view, path, at), names))
    return {(name, at): tuple(counts) for name, at, *counts in rows}


def _rows(table: pa.Table, names: list[str]) -> Iterator[tuple[Any, ...]]:
    """Of these terminals, in the order of TIMED."""
    found = table.filter(pc.is_in(table["terminal_id"], pa.array(names)))
    return zip(*(found[name].to_pylist() for name in TIMED), strict=True)


def _first(names: list[str], of: Mapping[str, Any]) -> str:
    return f"first: {names[0]}; {len(names)} of {len(of)}" if names else ""
