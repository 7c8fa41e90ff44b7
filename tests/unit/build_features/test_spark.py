"""Features on Spark are DuckDB's, row by row; in the environment of `make spark-env`, with Java."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.build_features.core import build_features
from millrace.lake.manifest import Manifest

PYTHON = Path(os.environ.get("MILLRACE_SPARK_PYTHON", Path(__file__).parents[3] / ".venv-spark/bin/python"))
BUILD = """
import json, sys
from pathlib import Path
from components.build_features.core import build_features
from millrace.lake.manifest import Manifest
job = json.loads(sys.argv[1])
snapshot = Manifest.read(job["snapshot"], "snapshot")
made = build_features(snapshot, Path(job["lake"]), history_length=job["history_length"], spark_master="local[2]")
print(made.id)
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.is_file(), reason=f"no {PYTHON}; make spark-env"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java 17 (Debian: openjdk-17-jre-headless)"),
]


def on_spark(snapshot: Manifest, lake: Path, history_length: int) -> Manifest:
    job = {"snapshot": snapshot.uri, "lake": str(lake), "history_length": history_length}
    done = subprocess.run([PYTHON, "-c", BUILD, json.dumps(job)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return Manifest.read(lake / "feature_sets" / done.stdout.split()[-1], "feature_set")


def contents(feature_set: Manifest, table: str) -> dict[str, pa.Table]:
    days = feature_set.facts["tables"][table]
    return {day: pq.read_table(feature_set.fetch() / path) for day, path in days.items()}


def test_spark_and_duckdb_give_the_same_rows(simulated_days, snapshot_of, tmp_path):
    days = [day.append_column("channel", pa.array(["web"] * len(day))) for day in simulated_days]
    on_duckdb = snapshot_of(tmp_path / "duckdb", days)
    there = snapshot_of(tmp_path / "spark", days)
    wanted = build_features(on_duckdb, tmp_path / "duckdb", history_length=16)

    made = on_spark(there, tmp_path / "spark", 16)

    assert made.id == wanted.id
    for table in ("events", "terminal_state"):
        got, expected = contents(made, table), contents(wanted, table)
        assert got.keys() == expected.keys()
        for day, rows in expected.items():
            assert got[day].equals(rows), f"{table} of {day}"


def test_spark_computes_only_the_days_that_are_missing(simulated_days, snapshot_of, tmp_path):
    lake = tmp_path / "lake"
    build_features(snapshot_of(lake, simulated_days[:30]), lake, history_length=16)
    before = {path: path.stat().st_mtime_ns for path in (lake / "features").rglob("*.parquet")}
    longer = snapshot_of(lake, simulated_days[:33])

    made = on_spark(longer, lake, 16)

    assert {path: path.stat().st_mtime_ns for path in before} == before
    elsewhere = tmp_path / "whole"
    whole = build_features(snapshot_of(elsewhere, simulated_days[:33]), elsewhere, history_length=16)
    assert contents(made, "events").keys() == contents(whole, "events").keys()
    for day, rows in contents(whole, "events").items():
        assert contents(made, "events")[day].equals(rows)
