"""Events appended in the cluster's Redis: every replica serves them, one pushes them into Feast's rows.

None is lost when they come late, when a push is overtaken, and when a fill comes in between.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from feast_cluster import (
    Cluster,
    N,
    by_feast,
    entries,
    events_of,
    names,
    networked,
    overwrite,
    pushed_by,
    until,
)
from folding import folded

from fraud.features import VIEWS
from millrace.lookup import empty
from serving.transformer.networked import NetworkedStore

CUSTOMERS, _ = VIEWS


@pytest.fixture(scope="module")
def store(cluster: Cluster) -> NetworkedStore:
    return networked(cluster)


def test_what_one_replica_appended_another_serves_and_feast_gives_after_a_push(
    cluster: Cluster, store: NetworkedStore
) -> None:
    other = networked(cluster)

    store.append(entries("seen", 1, 3))
    store.append(entries("seen", 2))

    assert events_of(other, "seen") == [[1, 2, 3]]
    assert len(by_feast(other, "seen")[0]) == 0
    assert pushed_by(store) >= 1
    assert by_feast(other, "seen")[0].event_ids.tolist() == [1, 2, 3]
    assert by_feast(other, "seen")[0].values[1].dtype == np.float32
    assert store.unpushed() == 0


def test_a_row_has_what_was_there_and_what_was_appended(cluster: Cluster, store: NetworkedStore) -> None:
    customer = names(cluster, "customer")[3]
    before = store.read_recent([customer])[0].event_ids.tolist()
    number = int(datetime(2018, 5, 17, tzinfo=UTC).timestamp())

    store.append(entries(customer, number))

    assert events_of(store, customer) == [[*before, number]]
    pushed_by(store)
    assert by_feast(store, customer)[0].event_ids.tolist() == [*before, number]
    assert events_of(store, customer) == [[*before, number]]


def test_a_transaction_that_comes_late_is_not_lost(store: NetworkedStore) -> None:
    """The newest of the state stays as it was, and Feast on Redis drops a row that is not newer."""
    store.append(entries("late", 1, 3))
    pushed_by(store)

    store.append(entries("late", 2))
    pushed_by(store)

    assert by_feast(store, "late")[0].event_ids.tolist() == [1, 2, 3]


def test_one_replica_pushes_at_a_time_and_when_it_is_killed_another_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.appended.redis.LEASE_MS", 300)
    killed, other = networked(cluster), networked(cluster)
    until(lambda: killed.push() == 0 and killed._of_recent()[1].leads())
    killed.append(entries("leased", 1))

    assert other.push() == 0
    until(lambda: other.push() == 1)

    assert by_feast(other, "leased")[0].event_ids.tolist() == [1]


def test_a_push_that_was_overtaken_changes_nothing(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It read, stalled past its lease, and writes when another replica has pushed something newer."""
    monkeypatch.setattr("millrace.appended.redis.LEASE_MS", 1)
    slow, quick = networked(cluster), networked(cluster)
    view, events = slow._of_recent()
    until(lambda: events.leads() and pushed_by(slow) == 0 and slow.unpushed() == 0)
    slow.append(entries("overtaken", 1))
    encoded = view.rows.encoded

    def stalls(states: Any) -> Any:
        quick.append(entries("overtaken", 2))
        until(lambda: quick.push() == 1)
        return encoded(states)

    monkeypatch.setattr(view.rows, "encoded", stalls)

    assert slow.push() == 0
    assert by_feast(quick, "overtaken")[0].event_ids.tolist() == [1, 2]
    assert quick.unpushed() == 0


def test_a_push_leaves_a_row_alone_that_was_filled_since_it_was_read_and_adds_to_it_next_time(
    cluster: Cluster, store: NetworkedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: pushed_by(store) == 0 and store.unpushed() == 0)
    store.append(entries("filled", 1, 9))
    filled = store._of_recent()[0].rows
    encoded = filled.encoded
    batch = folded(empty(CUSTOMERS), entries("filled", 5, 7), N)

    def fills(states: Any) -> Any:
        monkeypatch.setattr(filled, "encoded", encoded)
        overwrite(store, {"filled": batch})
        return encoded(states)

    monkeypatch.setattr(filled, "encoded", fills)

    assert store.push() == 0
    assert by_feast(store, "filled")[0].event_ids.tolist() == [5, 7]
    assert events_of(store, "filled") == [[1, 5, 7, 9]]
    assert store.push() == 1
    assert by_feast(store, "filled")[0].event_ids.tolist() == [1, 5, 7, 9]


def test_filling_again_keeps_what_was_pushed_since_and_what_was_not(cluster: Cluster, store: NetworkedStore) -> None:
    customer, waiting = names(cluster, "customer")[0], names(cluster, "customer")[4]
    number = int(datetime(2018, 5, 17, tzinfo=UTC).timestamp())
    store.append(entries(customer, number))
    pushed_by(store)
    store.append(entries(waiting, number))

    ended = cluster.refresh()

    assert ended.returncode == 0, ended.stderr
    assert by_feast(store, customer)[0].event_ids.tolist()[-1] == number
    assert [state[-1] for state in events_of(store, customer, waiting)] == [number, number]
    assert len(store.read_recent(names(cluster, "customer")[1:2])[0]) == N
