"""The cluster's feature store, by its own manifests: Redis filled by the CronJob's command, a registry in PostgreSQL.

The transformer's store reads there what it reads in the embedded SQLite store, and pushes as it does here; the skew
gate judges what is in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import feast
import httpx
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast.errors import FeatureServiceNotFoundException
from folding import folded
from rows import readings
from stores import RedisServer, free_port, postgres_server, redis_server

from components import feast_store
from components.build_features.core import build_features
from components.check_skew import served
from components.materialize.refresh import refresh
from fraud.features import FEATURE_SERVICE, VIEWS
from millrace.appended.records import Entry
from millrace.errors import ConfigError, NotFound, Unavailable
from millrace.inputs import RecentEvents, States
from millrace.installed import Workload, load
from millrace.judge.gates import Rule
from millrace.lake.feast_home import repository
from millrace.lake.manifest import Manifest, list_manifests
from millrace.lookup import empty
from millrace.settings import Settings
from serving.transformer.networked import NetworkedStore
from serving.transformer.store import Lookups, OnlineStore, open_store

CUSTOMERS, TERMINALS = VIEWS
NOBODY = {"customer": ["nobody"], "terminal": ["nowhere"]}
ROOT = Path(__file__).parents[2]
FEATURE_STORE = ROOT / "manifests" / "base" / "feature_store"
N = 6
OPTIONS = "socket_timeout=0.5,socket_connect_timeout=0.5,retry=null"
"""Of Redis's connection: without them a lookup waits for a dead Redis for seconds, for a lost node without end."""

pytestmark = pytest.mark.skip(reason="no version here names a generation yet; test_generations_redis.py has two")


@dataclass(frozen=True)
class Cluster:
    embedded: Path
    """Home of the pipeline, its online store in SQLite."""
    repository: Path
    """What a pod has at <home>/feast/fraud: the ConfigMap's feature_store.yaml."""
    redis: RedisServer
    registry: str
    """URL of the registry's database."""
    environment: dict[str, str]
    """What containers get of it."""
    filled: Manifest
    """What both stores were filled from."""

    @property
    def configuration(self) -> Path:
        return self.repository / "feature_store.yaml"

    def refresh(self) -> subprocess.CompletedProcess[str]:
        """Runs what the CronJob's container runs, in an environment as it has."""
        container = container_of("materialize/cronjob.yaml")
        named = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        assert {"FEAST_REDIS", "FEAST_REGISTRY_URL"} <= named.keys()
        assert Path(named["MILLRACE_FEATURE_STORE"]).name == self.configuration.name
        return subprocess.run(
            container["command"],
            cwd=ROOT,
            env=self.environment
            | {"MILLRACE_HOME": str(self.embedded), "MILLRACE_FEATURE_STORE": str(self.configuration)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    @contextmanager
    def feature_server(self) -> Iterator[str]:
        """Runs what the feature server's Deployment runs; its URL."""
        container, port = container_of("feature-server/deployment.yaml"), free_port()
        arguments = [word.replace("0.0.0.0", "127.0.0.1").replace("6566", str(port)) for word in container["args"]]
        program, option, _, verb = container["command"]
        command = [program, option, str(self.repository / "feature_store.yaml"), verb, *arguments]
        command.remove("--metrics")  # on a port of its own, which may be taken here
        environment = self.environment | {"MILLRACE_HOME": str(self.embedded)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                until(lambda: status(f"http://127.0.0.1:{port}/health") == 200)
                yield f"http://127.0.0.1:{port}"
            finally:
                server.terminate()


def container_of(manifest: str) -> dict[str, Any]:
    spec = yaml.safe_load((FEATURE_STORE / manifest).read_text())["spec"]
    template = spec.get("jobTemplate", {}).get("spec", spec)["template"]
    (container,) = template["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the deadline passed"


def status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, simulated_days: list[pa.Table], snapshot_of: Callable[..., Manifest]
) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with redis_server(folder) as redis, postgres_server() as server, pytest.MonkeyPatch.context() as environment:
        with closing(psycopg.connect(server, autocommit=True)) as connection:
            connection.execute("CREATE DATABASE feast")
        registry = server.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", "/feast?")
        build_features(snapshot_of(folder / "lake", simulated_days), folder / "lake", history_length=N)
        refreshed = refresh(Settings(home=folder), datetime.now(UTC))
        assert refreshed is not None
        pod = repository(folder / "pod", "fraud")
        pod.mkdir(parents=True)
        shutil.copy(FEATURE_STORE / "feature_store.yaml", pod)
        environment.setenv("MILLRACE_WORKLOAD", "fraud")
        environment.setenv("FEAST_REGISTRY_URL", registry)
        environment.setenv("FEAST_REDIS", f"{redis.address},{OPTIONS}")
        pods = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONOPTIMIZE": "1",
            "FEAST_USAGE": "False",
            "MILLRACE_WORKLOAD": "fraud",
            "FEAST_REGISTRY_URL": registry,
            "FEAST_REDIS": redis.address,
        }
        made = Cluster(folder, pod, redis, registry, pods, refreshed.filled)
        ended = made.refresh()
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert RedisServer.PASSWORD not in ended.stdout + ended.stderr
        yield made


@pytest.fixture(scope="module")
def store(cluster: Cluster) -> NetworkedStore:
    return networked(cluster)


def networked(cluster: Cluster) -> NetworkedStore:
    """The transformer's store, with connections of its own."""
    made = opened(cluster.repository)
    assert isinstance(made, NetworkedStore)
    return made


def opened(folder: Path) -> OnlineStore:
    """The transformer's store; Feast's registry would leave connections and timers behind."""
    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(feast.FeatureStore, "__init__", noting(feast.FeatureStore.__init__, made))
        store = open_store(folder, load("fraud"), N, folder / "lake")
    for one in made:
        one.registry._exit_handler()
        one.registry.write_engine.dispose()
    return store


def noting(init: Callable[..., None], made: list[Any]) -> Callable[..., None]:
    def note(self: Any, *positional: Any, **named: Any) -> None:
        init(self, *positional, **named)
        made.append(self)

    return note


def names(cluster: Cluster, view: str) -> list[str]:
    found: list[str] = pq.read_table(repository(cluster.embedded, "fraud") / "sources" / f"{view}_state.parquet")[
        f"{view}_id"
    ].to_pylist()
    return found


def entries(key: str, *ids: int) -> list[Entry]:
    return [Entry(number, key, number * 1_000_000, (number, number)) for number in ids]


def events_of(store: OnlineStore, *keys: str) -> list[list[int]]:
    return [state.event_ids.tolist() for state in store.read_recent(keys)]


def by_feast(store: NetworkedStore, *keys: str) -> list[RecentEvents]:
    """Feast's row alone, through Feast."""
    return store._of_recent()[0].rows.read_recent(keys)


def overwrite(store: NetworkedStore, states: dict[str, RecentEvents]) -> None:
    """Write rows as somebody would who knows Feast and nothing of appended events."""
    rows = store._of_recent()[0].rows
    rows.config.online_store.skip_dedup = True
    rows.write_recent(states)


def pushed_by(store: OnlineStore) -> int:
    count = 0
    while done := store.push():
        count += done
    return count


def test_redis_gives_every_state_as_the_embedded_store_does(cluster: Cluster, store: NetworkedStore) -> None:
    customers, terminals = [*names(cluster, "customer"), "nobody"], [*names(cluster, "terminal"), "nowhere"]
    pairs = max(len(customers), len(terminals))
    rows = {
        "customer": [customers[at % len(customers)] for at in range(pairs)],
        "terminal": [terminals[at % len(terminals)] for at in range(pairs)],
    }

    answer = store.read(rows)

    held = opened(repository(cluster.embedded, "fraud")).read(rows)
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
    return list(served.rules(cluster.configuration, feature_set, cluster.filled, keys, 0.05))


def test_two_workloads_share_redis_and_registry_and_no_state(
    cluster: Cluster,
    store: NetworkedStore,
    machines: Workload,
    tmp_path: Path,
    snapshot_of: Callable[..., Manifest],
) -> None:
    """Each is a project of Feast's; filling one leaves the other's states and definitions as they were."""
    customers = names(cluster, "customer")[6:9]
    before = [state.event_ids.tolist() for state in by_feast(store, *customers)]
    build_features(snapshot_of(tmp_path / "lake", readings(), "machines"), tmp_path / "lake", history_length=1)
    settings = Settings(home=tmp_path, feature_store=cluster.configuration, workload="machines")

    assert refresh(settings, datetime.now(UTC)) is not None

    other = feast_store.opened(cluster.configuration, "machines")
    rows = {"machine": ["3"], "post": ["3|north"]}
    answer = other.get_online_features(other.get_feature_service("machine_hours_v1"), rows).to_dict()
    assert answer["machine_readings"][0] > answer["post_readings"][0] > 0
    assert [state.event_ids.tolist() for state in by_feast(store, *customers)] == before
    with pytest.raises(FeatureServiceNotFoundException):
        feast_store.opened(cluster.configuration, "fraud").get_feature_service("machine_hours_v1")


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

    here = feast_store.opened(cluster.configuration, "fraud")
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
