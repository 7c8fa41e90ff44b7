"""Two workloads in one home: each has its store, and neither touches the other's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rows import readings

from components.build_features.core import build_features
from components.materialize import renewal
from components.materialize.core import materialize, sources_of
from components.materialize.refresh import main, newest_feature_set, refresh_generation
from millrace.installed import Workload, load
from millrace.lake.feast_home import DATABASE, filled_with, renewed_to, repository
from millrace.lake.manifest import Manifest
from millrace.settings import Settings

LAST_DAY = datetime(2025, 6, 6, tzinfo=UTC)
FRAUD_AS_OF = datetime(2018, 5, 10, tzinfo=UTC)


@pytest.fixture
def feature_set(tmp_path: Path, machines: Workload, snapshot_of: Callable[..., Manifest]) -> Manifest:
    """Of the machines, in this test's own lake."""
    snapshot = snapshot_of(tmp_path / "lake", readings(), machines.name)
    return build_features(snapshot, tmp_path / "lake", history_length=1, threads=1)


def looked_up(home: Path, workload: Workload, machine: str, hall: str) -> dict[str, list[Any]]:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repository(home, workload.name, "served")))
    service = store.get_feature_service(workload.features.FEATURE_SERVICE)
    rows = [{"machine": machine, "post": f"{machine}|{hall}"}]
    answer: dict[str, list[Any]] = store.get_online_features(service, rows).to_dict()
    return answer


def readings_before(instant: datetime, machine: str, hall: str) -> tuple[int, int]:
    """Of the machine, and of the machine in this hall."""
    rows = [row for row in pa.concat_tables(readings()).to_pylist() if row["event_timestamp"] < instant]
    mine = [row for row in rows if row["machine"] == machine]
    return len(mine), sum(row["hall"] == hall for row in mine)


def content(database: Path) -> list[Any]:
    with sqlite3.connect(database) as live:
        names = [row[0] for row in live.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return [(name, live.execute(f'SELECT * FROM "{name}"').fetchall()) for name in names]


def test_a_store_without_a_recent_view_holds_every_entity_as_of_the_last_refresh(
    tmp_path: Path, machines: Workload, feature_set: Manifest
) -> None:
    """Also of an entity whose id is made of two others."""
    as_of = LAST_DAY + timedelta(hours=13)

    made = materialize(feature_set, tmp_path / "lake", tmp_path, as_of, generation="served")

    assert made.workload == "machines"
    assert made.facts["states"].keys() == {"machine_state", "post_state"}
    of_machine, of_post = readings_before(LAST_DAY + timedelta(hours=12), "3", "north")
    answer = looked_up(tmp_path, machines, "3", "north")
    assert (answer["machine_readings"], answer["post_readings"]) == ([of_machine], [of_post])
    assert looked_up(tmp_path, machines, "none", "north")["post_readings"] == [None]


def test_a_refresh_renews_every_refreshed_view_and_fills_nothing(
    tmp_path: Path, machines: Workload, feature_set: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, workload="machines")
    filled = materialize(feature_set, tmp_path / "lake", tmp_path, LAST_DAY, generation="served")
    monkeypatch.setattr("components.materialize.store.renew", _never)
    written: list[dict[str, int]] = []
    put = renewal.replace_rows

    def counted(home: Path, rows: dict[str, pa.Table], *rest: Any) -> None:
        written.append({view: len(table) for view, table in rows.items()})
        put(home, rows, *rest)

    monkeypatch.setattr(renewal, "replace_rows", counted)

    made = refresh_generation(settings, "served", machines.features.FEATURE_SERVICE, LAST_DAY + timedelta(hours=18.1))

    assert made is not None
    assert made.filled.id == filled.id
    assert (
        renewed_to(repository(tmp_path, "machines", "served")) == made.as_of.isoformat() == "2025-06-06T18:00:00+00:00"
    )
    fresh = sources_of(feature_set, tmp_path / "lake", made.as_of)
    for row in pq.read_table(fresh.path("post_state.parquet")).to_pylist():
        assert looked_up(tmp_path, machines, *row["post"].split("|"))["post_readings"] == [row["post_readings"]]
    (counts,) = written
    assert 0 < counts["machine_state"] <= 12


def serves(monkeypatch: pytest.MonkeyPatch, *workloads: str) -> None:
    """A version of each workload's model reads the generation `served`."""

    def in_use(settings: Settings) -> list[Any]:
        if settings.workload not in workloads:
            return []
        service = load(settings.workload).features.FEATURE_SERVICE
        return [SimpleNamespace(generation="served", feature_service=service, model=SimpleNamespace(parents={}))]

    monkeypatch.setattr("components.materialize.refresh.in_use", in_use)


def test_filling_and_refreshing_one_workload_leaves_the_store_of_the_other_alone(
    tmp_path: Path,
    feature_set: Manifest,
    simulated_days: list[pa.Table],
    snapshot_of: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lake = tmp_path / "lake"
    fraud = build_features(snapshot_of(lake, simulated_days), lake, history_length=6, threads=1)
    first = materialize(fraud, lake, tmp_path, FRAUD_AS_OF, generation="served")
    before = content(repository(tmp_path, "fraud", "served") / DATABASE)
    sources = (repository(tmp_path, "fraud", "served") / "sources").resolve()

    second = materialize(feature_set, lake, tmp_path, LAST_DAY, generation="served")
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    serves(monkeypatch, "machines")
    status = main(["--workload", "machines", "--now", (LAST_DAY + timedelta(hours=7)).isoformat()])

    assert status == 0, capsys.readouterr().err
    assert "machine_state" in capsys.readouterr().out
    assert (
        filled_with(repository(tmp_path, "fraud", "served")),
        filled_with(repository(tmp_path, "machines", "served")),
    ) == (first.id, second.id)
    assert content(repository(tmp_path, "fraud", "served") / DATABASE) == before
    assert (repository(tmp_path, "fraud", "served") / "sources").resolve() == sources
    assert renewed_to(repository(tmp_path, "machines", "served")) == "2025-06-06T06:00:00+00:00"
    assert newest_feature_set(lake, "fraud", fraud.facts["feature_service"], None) == fraud


def test_a_workload_without_data_keeps_no_other_from_its_refresh(
    tmp_path: Path,
    feature_set: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Asked for all: the status says that one failed, and its name."""
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    serves(monkeypatch, "fraud", "machines")

    status = main(["--all", "--now", (LAST_DAY + timedelta(hours=7)).isoformat()])

    said = capsys.readouterr()
    assert status == 2
    assert "error: fraud: no feature set" in said.err
    assert "machines: generation served as of 2025-06-06 06:00:00+00:00" in said.out
    assert filled_with(repository(tmp_path, "machines", "served")) is not None
    assert filled_with(repository(tmp_path, "fraud", "served")) is None


def test_a_feature_set_of_another_service_is_not_served(
    tmp_path: Path, machines: Workload, feature_set: Manifest
) -> None:
    other = replace(feature_set, id="another", uri=str(feature_set.fetch().with_name("another")))
    replace(other, facts=other.facts | {"feature_service": "machine_hours_v0", "last_day": "2026-01-01"}).write()

    assert newest_feature_set(tmp_path / "lake", "machines", machines.features.FEATURE_SERVICE, None) == feature_set


def _never(*_: object) -> None:
    raise AssertionError("the store was filled again")
