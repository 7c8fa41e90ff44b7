"""Feature sets of a workload without a recent view, whose states change with the events of their own day."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rows import readings

from components.build_features.core import build_features
from millrace.errors import ConfigError
from millrace.installed import Workload
from millrace.lake.manifest import Manifest

SnapshotOf = Callable[..., Manifest]


def build(snapshot: Manifest, lake: Path) -> Manifest:
    return build_features(snapshot, lake, history_length=1, threads=1, memory_limit_gb=0.5)


def content(feature_set: Manifest) -> dict[tuple[str, str], bytes]:
    """(table, day) → bytes of its file."""
    tables = feature_set.facts["tables"]
    return {(t, day): (feature_set.fetch() / p).read_bytes() for t, days in tables.items() for day, p in days.items()}


def test_every_refreshed_view_is_a_table_under_its_name(
    tmp_path: Path, machines: Workload, snapshot_of: SnapshotOf
) -> None:
    made = build(snapshot_of(tmp_path, readings(), machines.name), tmp_path)

    assert made.workload == "machines"
    assert made.facts["tables"].keys() == {"events", "machine_state", "post_state"}
    events = pq.read_table(made.table("events")[-1], partitioning=None)
    assert events.column_names == [*machines.batch.COLUMNS.names, *machines.features.FEATURE_NAMES]
    state = pq.read_table(made.table("post_state")[-1], partitioning=None)
    assert state.column_names == ["post", "event_timestamp", "post_readings"]
    assert {"1|north", "1|south"} <= set(state["post"].to_pylist())


def test_a_day_that_grew_has_other_states_and_equals_the_full_build(
    tmp_path: Path, machines: Workload, snapshot_of: SnapshotOf
) -> None:
    step, whole = tmp_path / "step", tmp_path / "whole"
    *days, last = readings()
    morning = last.slice(0, len(last) // 2)
    first = build(snapshot_of(step, [*days, morning], machines.name), step)

    grown = build(snapshot_of(step, [*days, last], machines.name), step)

    old, new = content(first), content(grown)
    assert new == content(build(snapshot_of(whole, [*days, last], machines.name), whole))
    last_day = grown.facts["last_day"]
    assert old["machine_state", last_day] != new["machine_state", last_day]
    assert all(old[key] == new[key] for key in old if key[1] < last_day)


def test_spark_is_refused_by_name_where_a_workload_has_no_shards(
    tmp_path: Path, machines: Workload, snapshot_of: SnapshotOf
) -> None:
    snapshot = snapshot_of(tmp_path, readings(), machines.name)

    with pytest.raises(ConfigError, match="'machines' has no shards for Spark"):
        build_features(snapshot, tmp_path, history_length=1, spark_master="local[1]")
