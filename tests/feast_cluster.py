"""The cluster's feature store on this machine: a real Redis and PostgreSQL, filled by the manifests' own commands.

`running` starts it around a home whose champion reads one generation; `networked` opens the transformer's store of it.
The rest are questions that tests ask such a store, and what they write into it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import feast
import httpx
import psycopg
import pyarrow.parquet as pq
import pytest
import yaml
from stores import RedisServer, free_port, postgres_server, redis_server

from components.build_features.core import build_features
from components.materialize.refresh import refresh
from fraud.features import FEATURE_SERVICE
from millrace.appended.records import Entry
from millrace.inputs import RecentEvents
from millrace.installed import load
from millrace.lake.feast_home import repository, workload_folder
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry import model_spec
from millrace.registry.models import Registry
from millrace.rollout import canary
from millrace.rollout import service as templates
from millrace.settings import Settings
from serving.transformer.networked import NetworkedStore
from serving.transformer.store import OnlineStore, open_store

ROOT = Path(__file__).parents[1]
FEATURE_STORE = ROOT / "manifests" / "base" / "feature_store"
N = 6
GENERATION = "served"
"""Name of the state that the champion reads."""
OPTIONS = "socket_timeout=0.5,socket_connect_timeout=0.5,retry=null"
"""Of Redis's connection: without them a lookup waits for a dead Redis for seconds, for a lost node without end."""


@dataclass(frozen=True)
class Cluster:
    embedded: Path
    """Home of the pipeline, its online store in SQLite."""
    repository: Path
    """Folder of the ConfigMap's feature_store.yaml, <home>/feast/fraud in a pod's home."""
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
        environment = self.environment | {
            "MILLRACE_HOME": str(self.embedded),
            "MILLRACE_WORKLOAD": f"fraud_{GENERATION}",  # which project of Feast's, as docs/cluster.md says
        }
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                until(lambda: status(f"http://127.0.0.1:{port}/health") == 200)
                yield f"http://127.0.0.1:{port}"
            finally:
                server.terminate()


@contextmanager
def running(folder: Path, snapshot: Callable[[Path], Manifest]) -> Iterator[Cluster]:
    """Servers and a home in a folder that has MLflow's tables: a champion, and both stores filled with what it reads.

    `snapshot` writes the events into the lake that it is given.
    """
    with redis_server(folder) as redis, postgres_server() as server, pytest.MonkeyPatch.context() as environment:
        with closing(psycopg.connect(server, autocommit=True)) as connection:
            connection.execute("CREATE DATABASE feast")
        registry = server.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", "/feast?")

        build_features(snapshot(folder / "lake"), folder / "lake", history_length=N)
        admit(Settings(home=folder), GENERATION, FEATURE_SERVICE)
        (refreshed,) = refresh(Settings(home=folder), datetime.now(UTC))

        pod = workload_folder(folder / "pod", "fraud")
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


def admit(settings: Settings, generation: str, feature_service: str) -> None:
    """A champion of the workload that reads that generation, as `promote` leaves one."""
    registry, workload = Registry(settings), load(settings.workload)
    version = registry.register(f"model-of-{generation}", {}).version
    folder = registry.folder(version)
    folder.mkdir(parents=True)
    spec = {
        "name": settings.model_name,
        "workload": workload.name,
        "task": "ranking",
        "feature_service": feature_service,
        "feature_names": list(workload.features.FEATURE_NAMES),
    }
    (folder / "model.json").write_text(json.dumps(spec))
    files, facts = hash_files(folder), {model_spec.GENERATION: generation}
    Manifest(kind="model", id=generation, workload=workload.name, uri=str(folder), files=files, facts=facts).write()
    document = canary.pointed(yaml.safe_load(templates.inference_service(workload)), version, registry.uri(version))
    registry.rendered_path(version).write_text(yaml.safe_dump(document))
    registry.admit(version)


def networked(cluster: Cluster) -> NetworkedStore:
    """The transformer's store, with connections of its own."""
    made = opened(cluster.repository.parents[1])
    assert isinstance(made, NetworkedStore)
    return made


def opened(home: Path) -> OnlineStore:
    """The transformer's store; Feast's registry would leave connections and timers behind."""
    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(feast.FeatureStore, "__init__", noting(feast.FeatureStore.__init__, made))
        store = open_store(home, load("fraud"), GENERATION, N)
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
    sources = repository(cluster.embedded, "fraud", GENERATION) / "sources"
    found: list[str] = pq.read_table(sources / f"{view}_state.parquet")[f"{view}_id"].to_pylist()
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
