"""Simulated events and their planted faults, as ingest sees them; and the pipeline face on real data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.ingest.component import ingest as face
from fraud.planted import RENAMED_AMOUNT, Planted
from fraud.simulator import SimulationConfig, write
from millrace.errors import SchemaMismatch
from millrace.lake.manifest import Manifest

CONFIG = SimulationConfig(customers=300, terminals=800, days=4)


def planted(folder: Path, **faults: Any) -> Path:
    write(replace(CONFIG, planted=Planted(**faults)), folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted(tmp_path_factory.mktemp("plain"))


def test_local_times_named_as_such_give_the_snapshot_of_the_instants(lake: Any, plain: Path, tmp_path: Path) -> None:
    local = planted(tmp_path / "local", slip="local_time")

    named = lake.ingest(local, read={"timezone": "Europe/Berlin"})

    assert named.id == lake.ingest(plain).id
    assert lake.ingest(local).id != named.id


def test_shuffled_and_late_rows_give_the_same_days_and_doubled_ones_the_same_rows(
    lake: Any, plain: Path, tmp_path: Path
) -> None:
    wanted = lake.ingest(plain)

    shuffled = lake.ingest(planted(tmp_path / "shuffled", shuffled_share=0.3))
    doubled = lake.ingest(planted(tmp_path / "doubled", duplicate_share=0.1))
    late = lake.ingest(planted(tmp_path / "late", late_share=0.1))

    assert shuffled.id == wanted.id
    assert doubled.facts["tables"] == wanted.facts["tables"]
    assert doubled.facts["quarantined"]["duplicate"] > 100
    days = list(wanted.facts["tables"]["events"])
    for day in days[:-1]:  # what is late on the last day has not arrived
        assert late.facts["tables"]["events"][day] == wanted.facts["tables"]["events"][day]


def test_a_renamed_column_stops_ingest_until_it_is_mapped(lake: Any, plain: Path, tmp_path: Path) -> None:
    renamed = planted(tmp_path / "renamed", slip="rename", slip_from_day=2)

    with pytest.raises(
        SchemaMismatch, match=f"2018-04-03.parquet: column 'amount' is missing.*{RENAMED_AMOUNT}=amount"
    ):
        lake.ingest(renamed)

    assert lake.ingest(renamed, columns={"amount": RENAMED_AMOUNT}).id == lake.ingest(plain).id


def test_the_pipeline_face_writes_the_manifest_and_its_metadata(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    out = SimpleNamespace(path=str(tmp_path / "out" / "snapshot"), metadata={})

    face.python_func(source=str(plain), snapshot=out, columns={})

    manifest = Manifest.read(Path(out.path), "snapshot")
    manifest.verify()
    assert out.metadata["id"] == manifest.id
    assert manifest.fetch() == tmp_path / "home" / "lake" / "snapshots" / manifest.id
