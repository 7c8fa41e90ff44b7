"""The registry's rules hold on the cluster's kind of database: MLflow's tables in PostgreSQL, over psycopg 3."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from stores import postgres_server

from millrace.errors import Unavailable
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.models import CHALLENGER, CHAMPION, PREVIOUS, Registry
from millrace.settings import Settings


@pytest.fixture(scope="module")
def tracking_uri() -> Iterator[str]:
    with postgres_server() as server:
        with closing(psycopg.connect(server, autocommit=True)) as connection:
            connection.execute("CREATE DATABASE mlflow")
        yield server.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", "/mlflow?")


def registry_in(home: Path, tracking_uri: str, name: str) -> Registry:
    return Registry(Settings(home=home, mlflow_tracking_uri=tracking_uri, model_name=name))


def register(registry: Registry, artifact_id: str) -> int:
    """A version with its folder and InferenceService in place, as `promote` leaves it."""
    number = registry.register(artifact_id, {"snapshot": "s1"}).version
    folder = registry.folder(number)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_text(artifact_id)
    Manifest(kind="model", id=artifact_id, workload="fraud", uri=str(folder), files=hash_files(folder)).write()
    registry.rendered_path(number).write_text(f"version {number}")
    return number


def test_versions_and_aliases_go_through_a_promotion_and_a_rollback(tmp_path: Path, tracking_uri: str) -> None:
    registry = registry_in(tmp_path, tracking_uri, "promoted")
    registry.admit(register(registry, "a"))
    registry.admit(register(registry, "b"))
    assert registry.aliases() == {CHAMPION: 1, CHALLENGER: 2}

    registry.make_champion(2, reason="better")
    assert registry.aliases() == {CHAMPION: 2, PREVIOUS: 1}
    registry.rollback()

    assert registry.aliases() == {CHAMPION: 1, PREVIOUS: 2}
    assert registry.served_path.read_text() == "version 1"
    assert registry.register("b", {}).version == 2
    assert registry_in(tmp_path, tracking_uri, "promoted").version(2).tags["snapshot"] == "s1"


def test_two_homes_that_register_at_once_get_numbers_of_their_own(tmp_path: Path, tracking_uri: str) -> None:
    homes = [registry_in(tmp_path / name, tracking_uri, "shared") for name in "ab"]
    homes[0].versions()  # loads MLflow, which two threads may not do at once

    with ThreadPoolExecutor(2) as threads:
        made = list(
            threads.map(lambda at: [homes[at].register(f"{at}-{turn}", {}).version for turn in range(3)], (0, 1))
        )

    assert sorted(made[0] + made[1]) == sorted(item.version for item in homes[0].versions())
    assert len(set(made[0]) & set(made[1])) == 0
    assert all(item.source.endswith(f"/{item.version}") for item in homes[0].versions())


def test_a_database_that_is_away_is_named_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # of ten, which take a minute and a half
    away = "postgresql+psycopg://mlflow:s3cret@127.0.0.1:9/mlflow?connect_timeout=1"

    with pytest.raises(Unavailable, match="registry at postgresql") as raised:
        registry_in(tmp_path, away, "away").versions()

    assert "s3cret" not in str(raised.value)
