"""Feature sets: what is in them, what is computed again and what is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from components.build_features.core import build_features
from fraud import features as f
from fraud import formulas
from millrace.errors import AlreadyRunning, ArtifactCorrupt, InvalidInput, SchemaMismatch
from millrace.installed import load
from millrace.instants import DAY_US
from millrace.lake.manifest import Manifest
from millrace.lake.states import refreshed_states

SnapshotOf = Callable[..., Manifest]


def build(snapshot: Manifest, lake: Path, history_length: int = 8) -> Manifest:
    return build_features(snapshot, lake, history_length=history_length, threads=1, memory_limit_gb=0.5)


def terminals_at(day: Path, refresh: datetime) -> pa.Table:
    """Every terminal as of a refresh."""
    (view,) = (view for view in f.VIEWS if not view.recent)
    return refreshed_states(load("fraud"), view, day, refresh)


def content(feature_set: Manifest) -> dict[tuple[str, str], bytes]:
    """(table, day) → bytes of its file."""
    tables = feature_set.facts["tables"]
    return {(t, day): (feature_set.fetch() / p).read_bytes() for t, days in tables.items() for day, p in days.items()}


def files_of(lake: Path) -> set[Path]:
    return {path.relative_to(lake) for path in (lake / "features").rglob("*.parquet")}


def with_labels(rows: pa.Table, delay_days: int | None) -> pa.Table:
    """The same rows with labels that become known `delay_days` later, or are not known."""
    known = rows["event_timestamp"].cast(pa.int64()).to_numpy() + (delay_days or 0) * DAY_US
    stamps = pa.array(known).cast(rows.schema.field("label_timestamp").type)
    rows = rows.set_column(rows.column_names.index("label_timestamp"), "label_timestamp", stamps)
    if delay_days is not None:
        return rows
    for name in ("label_timestamp", "is_fraud"):
        field = rows.schema.field(name)
        rows = rows.set_column(rows.column_names.index(name), field, pa.nulls(len(rows), field.type))
    return rows


def test_a_feature_set_is_what_the_contract_says(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    days = simulated_days[:12]

    result = build(snapshot_of(tmp_path, days), tmp_path)

    result.verify()
    assert Manifest.read(result.fetch(), "feature_set") == result
    assert (result.facts["first_day"], result.facts["last_day"]) == ("2018-04-01", "2018-04-12")
    assert result.facts["rows"] == sum(map(len, days))
    transactions = pq.read_table(result.table("events")[-1])
    leading = ["transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount_cents"]
    leading += ["is_fraud", "label_timestamp", "terminal_risk", "fraud_scenario"]
    assert transactions.column_names == [*leading, *f.FEATURE_NAMES]
    assert transactions["transaction_id"].equals(days[-1]["transaction_id"])
    assert transactions["amount_cents"].to_pylist() == [round(value * 100) for value in days[-1]["amount"].to_pylist()]
    assert transactions["terminal_risk"].equals(transactions["terminal_risk_30d"])


def test_terminal_state_covers_every_day_and_the_one_after(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    """Terminals that have not yet appeared have no row; a day without transactions has a state nevertheless. After
    midnight only what changes has a row."""
    days = [day for index, day in enumerate(simulated_days[:8]) if index != 4]

    result = build(snapshot_of(tmp_path, days), tmp_path)

    states = result.facts["tables"]["terminal_state"]
    assert sorted(states) == [str(date(2018, 4, day)) for day in range(1, 10)]
    assert "2018-04-05" not in result.facts["tables"]["events"]
    first, second, last = (pq.read_table(result.fetch() / states[f"2018-04-0{day}"]) for day in (1, 2, 9))
    assert len(first) == 0
    assert len(terminals_at(result.fetch() / states["2018-04-01"], datetime(2018, 4, 1, 5, tzinfo=UTC))) == 0
    assert sorted(set(second["terminal_id"].to_pylist())) == sorted(set(days[0]["terminal_id"].to_pylist()))
    midnight = datetime.fromisoformat("2018-04-09T00:00:00+00:00")
    refreshes = {midnight + timedelta(days=1) / f.REFRESHES_PER_DAY * number for number in range(f.REFRESHES_PER_DAY)}
    assert set(last["event_timestamp"].to_pylist()) <= refreshes
    assert last.column_names == ["terminal_id", "event_timestamp", *formulas.TERMINAL_STATE_FIELDS]
    rows = last.to_pylist()
    assert [row["event_timestamp"] == midnight for row in rows] == [
        index == 0 or row["terminal_id"] != rows[index - 1]["terminal_id"] for index, row in enumerate(rows)
    ]
    later = [(old, row) for old, row in pairwise(rows) if row["event_timestamp"] > midnight]
    assert 0 < len(later) < (len(rows) - len(later)) * (f.REFRESHES_PER_DAY - 1) / 4
    assert all(any(old[name] != row[name] for name in formulas.TERMINAL_STATE_FIELDS) for old, row in later)
    for refresh in refreshes:
        state = terminals_at(result.fetch() / states["2018-04-09"], refresh)
        newest = {row["terminal_id"]: row for row in rows if row["event_timestamp"] <= refresh}
        assert state.to_pylist() == [row | {"event_timestamp": refresh} for row in newest.values()]
        assert pc.sum(state["count_30d"]).as_py() == sum(map(len, days))


def test_building_twice_does_nothing(tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf) -> None:
    snapshot = snapshot_of(tmp_path, simulated_days[:5])
    first = build(snapshot, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    second = build(snapshot, tmp_path)

    assert second == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == stamps


def test_adding_a_day_computes_that_day_and_equals_the_full_build(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    step, whole = tmp_path / "step", tmp_path / "whole"
    build(snapshot_of(step, simulated_days[:40]), step)
    before = files_of(step)

    grown = build(snapshot_of(step, simulated_days[:41]), step)

    new = {str(path.parent) for path in files_of(step) - before}
    assert new == {"features/events/day=2018-05-11", "features/terminal_state/day=2018-05-12"}
    full = build(snapshot_of(whole, simulated_days[:41]), whole)
    assert grown.id == full.id
    assert content(grown) == content(full)


def test_labels_that_arrive_late_rebuild_from_their_day_on(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    """What a label changes lies after it: the terminal from its revelation on, and whoever shops there."""
    step, whole = tmp_path / "step", tmp_path / "whole"
    early = [with_labels(rows, None) if index == 10 else rows for index, rows in enumerate(simulated_days[:30])]
    late = [with_labels(rows, 12) if index == 10 else rows for index, rows in enumerate(simulated_days[:30])]
    first = build(snapshot_of(step, early), step)
    before = files_of(step)

    second = build(snapshot_of(step, late), step)

    touched = {path.parts[-2] for path in files_of(step) - before}
    assert min(touched) == "day=2018-04-11"
    assert content(second) == content(build(snapshot_of(whole, late), whole))
    old, new = content(first), content(second)
    changed = {day for (table, day) in old if table == "terminal_state" and old[table, day] != new[table, day]}
    assert min(changed) == "2018-04-23"  # 11 April + 12 days, seen by the next refresh of that day


def test_another_history_length_shares_nothing(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    snapshot = snapshot_of(tmp_path, simulated_days[:6])
    short, long = build(snapshot, tmp_path, 2), build(snapshot, tmp_path, 64)

    assert short.id != long.id
    counts = [pq.read_table(s.table("events")[-1])["customer_history_count"].to_numpy() for s in (short, long)]
    assert counts[0].max() == 2
    assert np.array_equal(counts[0], np.minimum(counts[1], 2))


def test_a_killed_build_goes_on_where_it_was(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    snapshot = snapshot_of(killed, simulated_days)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from components.build_features import core, partitions\n"
        "from millrace.lake.manifest import Manifest\n"
        "write, left = partitions.write_events, [7]\n"
        "def dying(*args):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(*args)\n"
        "partitions.write_events = dying\n"
        "core.build_features(Manifest.read(sys.argv[1]), Path(sys.argv[2]), history_length=8, threads=1)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(snapshot.fetch()), str(killed)], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    left = {path: (killed / path).stat().st_mtime_ns for path in files_of(killed)}
    assert len([path for path in left if "events" in str(path)]) == 6

    result = build(snapshot, killed)

    assert all((killed / path).stat().st_mtime_ns == stamp for path, stamp in left.items())
    assert content(result) == content(build(snapshot_of(whole, simulated_days), whole))


def test_rows_in_any_order_give_the_same_table(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    days = simulated_days[:6]
    shuffled = [day.take(np.random.default_rng(0).permutation(len(day))) for day in days]

    ordered, other = build(snapshot_of(tmp_path, days), tmp_path), build(snapshot_of(tmp_path, shuffled), tmp_path)

    assert [pq.read_table(p) for p in ordered.table("events")] == [pq.read_table(p) for p in other.table("events")]


def test_a_carried_column_that_appears_later_is_empty_before(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    first, second = simulated_days[:2]
    second = second.append_column("channel", pa.array(["web"] * len(second)))

    result = build(snapshot_of(tmp_path, [first, second]), tmp_path)

    columns = [pq.read_table(path)["channel"] for path in result.table("events")]
    assert columns[0].null_count == len(first)
    assert set(columns[1].to_pylist()) == {"web"}


def test_a_column_with_the_name_of_a_feature_is_refused(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    day = simulated_days[0].append_column("hour", pa.array(np.zeros(len(simulated_days[0]))))

    with pytest.raises(SchemaMismatch, match="'hour'"):
        build(snapshot_of(tmp_path, [day]), tmp_path)


def test_a_snapshot_without_rows_is_refused(tmp_path: Path, snapshot_of: SnapshotOf) -> None:
    with pytest.raises(InvalidInput, match="no rows"):
        build(snapshot_of(tmp_path, []), tmp_path)


def test_a_row_in_the_partition_of_another_day_is_refused(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    misplaced = pa.concat_tables([simulated_days[0], simulated_days[1].slice(0, 1)])

    with pytest.raises(ArtifactCorrupt, match="2018-04-01"):
        build(snapshot_of(tmp_path, [misplaced, simulated_days[1].slice(1)]), tmp_path)


def test_two_builds_of_one_set_at_once_are_refused(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(tmp_path, simulated_days[:2])
    from components.build_features import core

    inner: list[Any] = []

    def second_while_first_runs(*_: Any, **__: Any) -> None:
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            build(snapshot, tmp_path)
        inner.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(core, "_compute", second_while_first_runs)
    with pytest.raises(KeyboardInterrupt):
        build(snapshot, tmp_path)
    assert inner


def test_a_partition_that_is_not_what_the_snapshot_lists_is_refused(
    tmp_path: Path, simulated_days: list[pa.Table], snapshot_of: SnapshotOf
) -> None:
    snapshot = snapshot_of(tmp_path, simulated_days[:3])
    path = snapshot.table("events")[1]
    pq.write_table(pq.read_table(path).slice(1), path)

    with pytest.raises(ArtifactCorrupt, match="sha256"):
        build(snapshot, tmp_path)
