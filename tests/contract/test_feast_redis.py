"""The cluster's feature store, by its own manifests: Redis filled by the CronJob's command, a registry in PostgreSQL.

The transformer's store reads there what it reads in the embedded SQLite store; the skew gate judges what is in it.
What is appended and pushed: `test_feast_redis_pushes.py`; two generations in one Redis: `test_generations_redis.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from feast.errors import FeatureServiceNotFoundException
from feast_cluster import (
    GENERATION,
    OPTIONS,
    ROOT,
    Cluster,
    N,
    admit,
    by_feast,
    entries,
    names,
    networked,
    opened,
    overwrite,
    pushed_by,
)
from rows import readings
from stores import redis_server

from components import feast_store
from components.build_features.core import build_features
from components.check_skew import served
from components.materialize.refresh import refresh
from fraud.features import FEATURE_SERVICE, VIEWS
from millrace.appended.records import Entry
from millrace.errors import ConfigError, NotFound, Unavailable
from millrace.inputs import States
from millrace.installed import Workload
from millrace.judge.gates import Rule
from millrace.lake.manifest import Manifest, list_manifests
from millrace.settings import Settings
from serving.transformer.networked import NetworkedStore
from serving.transformer.store import Lookups

CUSTOMERS, TERMINALS = VIEWS
NOBODY = {"customer": ["nobody"], "terminal": ["nowhere"]}


@pytest.fixture(scope="module")
def store(cluster: Cluster) -> NetworkedStore:
    return networked(cluster)


def test_redis_gives_every_state_as_the_embedded_store_does(cluster: Cluster, store: NetworkedStore) -> None:
    customers, terminals = [*names(cluster, "customer"), "nobody"], [*names(cluster, "terminal"), "nowhere"]
    pairs = max(len(customers), len(terminals))
    rows = {
        "customer": [customers[at % len(customers)] for at in range(pairs)],
        "terminal": [terminals[at % len(terminals)] for at in range(pairs)],
    }

    answer = store.read(rows)

    held = opened(cluster.embedded).read(rows)
    assert plain(answer) == plain(held)
    assert {name: mask.tolist() for name, mask in answer.unseen.items()} == {
        name: mask.tolist() for name, mask in held.unseen.items()
    }
    assert max(len(found) for found in answer.recent[CUSTOMERS.name]) == N
    assert answer.refreshed[TERMINALS.name].any(axis=1).sum() > 40


def plain(states: States) -> dict[str, Any]:
    """What can be compared."""
    recent = {name: [[values.tolist() for values in one.arrays()] for one in of] for name, of in states.recent.items()}
    return recent | {name: of.tolist() for name, of in states.refreshed.items()}


def test_an_unknown_entity_has_no_state_and_is_unseen(store: NetworkedStore) -> None:
    answer = store.read(NOBODY)

    assert answer.unseen[TERMINALS.name].tolist() == [True]

    assert not answer.refreshed[TERMINALS.name].any()
    assert len(answer.recent[CUSTOMERS.name][0]) == 0


def test_a_store_that_was_emptied_is_filled_whole(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home's store knows every customer and the last refresh, so that there is nothing that changed."""
    with redis_server(tmp_path) as empty:
        ended = replace(cluster, environment=cluster.environment | {"FEAST_REDIS": empty.address}).refresh()

        assert ended.returncode == 0, ended.stderr
        monkeypatch.setenv("FEAST_REDIS", f"{empty.address},{OPTIONS}")
        assert len(networked(cluster).read_recent(names(cluster, "customer")[:1])[0]) == N


def test_the_skew_gate_passes_a_live_store_and_blocks_what_was_changed_in_it(
    cluster: Cluster, store: NetworkedStore
) -> None:
    """Pushed transactions are no skew; a state with another amount is, and so is one that is gone."""
    customer = names(cluster, "customer")[2]
    kept = by_feast(store, customer)[0]
    later = int(datetime(2018, 5, 17, 1, tzinfo=UTC).timestamp() * 1e6)
    store.append([Entry(10**9, customer, later, (500, 0.0))])
    pushed_by(store)
    passed = {rule.name for rule in judged(cluster) if rule.passed}

    wrong = replace(kept, values=(kept.values[0] * 100, *kept.values[1:]))
    overwrite(store, dict.fromkeys(names(cluster, "customer")[2:6], wrong))
    blocked = {rule.name: rule for rule in judged(cluster) if not rule.passed}

    assert len(passed) == 5
    assert set(blocked) == {"customer_state that differs in the serving store"}
    assert "first: " in blocked["customer_state that differs in the serving store"].detail


def test_a_store_that_was_never_filled_fails_the_skew_gate_with_what_to_do(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server(tmp_path) as empty:
        monkeypatch.setenv("FEAST_REDIS", empty.address)
        with pytest.raises(NotFound, match=r"never.*filled.*components\.materialize\.refresh"):
            judged(cluster)
        assert cluster.filled.facts["states"]["customer_state"] > 0
    with pytest.raises(Unavailable, match="does not answer"):
        judged(cluster)
    monkeypatch.delenv("FEAST_REDIS")
    with pytest.raises(ConfigError, match="FEAST_REDIS"):
        judged(cluster)


def judged(cluster: Cluster) -> list[Rule]:
    """What the skew gate says of the serving store alone."""
    lake = cluster.embedded / "lake"
    (feature_set,) = list_manifests(lake / "feature_sets", "feature_set")
    people, places = names(cluster, "customer"), names(cluster, "terminal")
    keys = {"customer": people, "terminal": [places[at % len(places)] for at in range(len(people))]}
    filled = replace(cluster.filled, facts=cluster.filled.facts | {"generation": GENERATION})
    return list(served.rules(cluster.configuration, feature_set, filled, keys, 0.05))


def test_two_workloads_share_redis_and_registry_and_no_state(
    cluster: Cluster,
    store: NetworkedStore,
    machines: Workload,
    tmp_path: Path,
    snapshot_of: Callable[..., Manifest],
    with_database: Callable[[Path], Settings],
) -> None:
    """Each is a project of Feast's; filling one leaves the other's states and definitions as they were."""
    customers = names(cluster, "customer")[6:9]
    before = [state.event_ids.tolist() for state in by_feast(store, *customers)]
    build_features(snapshot_of(tmp_path / "lake", readings(), "machines"), tmp_path / "lake", history_length=1)
    settings = with_database(tmp_path).model_copy(
        update={"feature_store": cluster.configuration, "workload": "machines"}
    )
    admit(settings, GENERATION, "machine_hours_v1")

    (refreshed,) = refresh(settings, datetime.now(UTC))

    assert refreshed.generation == GENERATION
    other = feast_store.opened(cluster.configuration, "machines", GENERATION)
    rows = {"machine": ["3"], "post": ["3|north"]}
    answer = other.get_online_features(other.get_feature_service("machine_hours_v1"), rows).to_dict()
    assert answer["machine_readings"][0] > answer["post_readings"][0] > 0
    assert [state.event_ids.tolist() for state in by_feast(store, *customers)] == before
    with pytest.raises(FeatureServiceNotFoundException):
        feast_store.opened(cluster.configuration, "fraud", GENERATION).get_feature_service("machine_hours_v1")


def test_the_feature_server_answers_the_calls_of_the_readme(cluster: Cluster, store: NetworkedStore) -> None:
    readme = (ROOT / "feature_repo" / "README.md").read_text()
    customer, terminal = names(cluster, "customer")[1], names(cluster, "terminal")[0]
    (body,) = re.findall(r"-d '(\{.*?\})'", readme, re.DOTALL)
    asked = json.loads(body.replace("0f3a…", customer).replace("3156", terminal))
    service = {"feature_service": FEATURE_SERVICE, "entities": asked["entities"]}

    with cluster.feature_server() as url:
        listed, whole = (httpx.post(f"{url}/get-online-features", json=what).json() for what in (asked, service))
        unknown = httpx.post(
            f"{url}/get-online-features", json=asked | {"entities": {"customer_id": ["?"], "terminal_id": ["?"]}}
        )

    here = feast_store.opened(cluster.configuration, "fraud", GENERATION)
    wanted = here.get_online_features(here.get_feature_service(FEATURE_SERVICE), asked["entities"]).to_dict()
    assert columns(listed) == {name: wanted[name] for name in columns(listed)}
    assert set(columns(listed)) == {"customer_id", "terminal_id", "count_1d", "count_30d", "amount_cents"}
    assert columns(whole) == wanted
    assert columns(unknown.json())["count_1d"] == [None]


def columns(answer: dict[str, Any]) -> dict[str, list[Any]]:
    """As the README reads it."""
    names = answer["metadata"]["feature_names"]
    return {name: column["values"] for name, column in zip(names, answer["results"], strict=True)}


def test_a_dead_redis_fails_a_lookup_at_once_and_a_new_one_is_used_without_a_restart(
    cluster: Cluster, store: NetworkedStore
) -> None:
    cluster.redis.process.terminate()  # it writes what it holds, as in a cluster that drains a node
    cluster.redis.process.wait(20)
    took_s = []
    for _ in range(3):  # the quickest counts: retries would slow all of them, a busy machine one or two
        began = time.monotonic()
        with pytest.raises(Exception, match=r"onnect"):
            store.read(NOBODY)
        took_s.append(time.monotonic() - began)

    cluster.redis.start()

    assert min(took_s) < 1
    assert len(answered(store).recent[CUSTOMERS.name]) == 1


def test_a_redis_that_hangs_costs_a_lookup_its_timeout_only(cluster: Cluster, store: NetworkedStore) -> None:
    lookups = Lookups(store)
    cluster.redis.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            asyncio.run(lookups.read(NOBODY, 1, 0.1))
    finally:
        cluster.redis.process.send_signal(signal.SIGCONT)

    assert len(answered(store).recent[CUSTOMERS.name]) == 1


def test_lookups_go_on_without_the_registry(cluster: Cluster, store: NetworkedStore) -> None:
    """The last test: it drops the database."""
    with closing(psycopg.connect(cluster.registry.replace("+psycopg", "").replace("/feast?", "/postgres?"))) as server:
        server.autocommit = True
        server.execute("DROP DATABASE feast WITH (FORCE)")

    answer = store.read({"customer": names(cluster, "customer")[1:2], "terminal": names(cluster, "terminal")[:1]})

    assert len(answer.recent[CUSTOMERS.name][0]) == N
    store.append(entries("without-registry", 7))
    pushed_by(store)
    assert len(by_feast(store, "without-registry")[0]) == 1


def answered(store: NetworkedStore) -> States:
    """What the store says once its old connection has been found dead, if that takes one try."""
    try:
        return store.read(NOBODY)
    except Exception:  # noqa: BLE001 - the pool's connection is to the server that died
        return store.read(NOBODY)
