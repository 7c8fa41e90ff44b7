"""The skew gate of a workload without a recent view, whose model reads no history."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import machines.batch
import machines.online
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rows import readings

from components.build_features.core import build_features
from components.check_skew.core import SkewConfig, check_skew
from components.materialize.core import materialize
from millrace.features.days import DayFeatures
from millrace.installed import Workload
from millrace.judge.gates import Rule, Verdict
from millrace.lake.feast_home import DATABASE, repository
from millrace.lake.manifest import Manifest

AS_OF = datetime(2025, 6, 6, 7, tzinfo=UTC)
ONE_OLDER = np.array([0, 0, 1], np.float32)
Store = tuple[Path, Manifest, Manifest]


@pytest.fixture
def filled(tmp_path: Path, machines: Workload, snapshot_of: Callable[..., Manifest]) -> Store:
    """A home, a feature set in it, and what its store was filled from."""
    lake = tmp_path / "lake"
    feature_set = build_features(snapshot_of(lake, readings(), machines.name), lake, history_length=1, threads=1)
    return tmp_path, feature_set, materialize(feature_set, lake, tmp_path, AS_OF, generation="served")


def failures(filled: Store) -> dict[str, Rule]:
    home, feature_set, store = filled
    result = check_skew(feature_set, store, home / "lake", home, SkewConfig(sample=30), threads=1)
    verdict = Verdict.read(result.fetch() / "verdict.json")
    assert result.facts["passed"] == verdict.passed
    return {rule.name: rule for rule in verdict.failures}


def test_paths_that_agree_pass_and_the_sample_has_no_history(filled: Store) -> None:
    home, feature_set, store = filled

    result = check_skew(feature_set, store, home / "lake", home, SkewConfig(sample=30), threads=1)

    assert result.facts["passed"]
    sample = pq.read_table(result.path("sample.parquet"))
    assert pc.value_counts(sample["path"]).to_pylist() == [
        {"values": path, "counts": 31} for path in ("offline", "online", "batch")
    ]
    assert {"real", "reissued", "unseen"} == set(sample["kind"].to_pylist())
    assert "history" not in sample.column_names
    known = sample.filter(pc.not_equal(sample["kind"], "unseen"))
    assert pc.min(known["age"]).as_py() > 0
    assert pc.max(sample["age"].filter(pc.equal(sample["kind"], "unseen"))).as_py() == 0


def test_a_formula_that_differs_in_serving_is_blocked(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    right = machines.online.inputs

    def halved(heat: Any, load: Any, states: Any) -> Any:
        return right(heat, load, {view: state // 2 for view, state in states.items()})

    monkeypatch.setattr(machines.online, "inputs", halved)

    blocked = failures(filled)

    assert set(blocked) == {"online against batch", "offline against batch"}
    assert "age of reading" in blocked["online against batch"].detail


def test_a_count_that_batch_sees_too_early_is_blocked(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    right = machines.batch.daily

    def a_refresh_early(*arguments: Any) -> Iterator[DayFeatures]:
        for day in right(*arguments):
            yield replace(day, features=day.features + ONE_OLDER)

    monkeypatch.setattr(machines.batch, "daily", a_refresh_early)

    assert set(failures(filled)) == {"online against batch", "offline against batch", "stored against batch"}


def test_states_of_one_view_that_are_gone_are_blocked_by_its_name(filled: Store) -> None:
    with sqlite3.connect(repository(filled[0], "machines", "served") / DATABASE) as live:
        live.execute("DELETE FROM machines_post_state")

    assert set(failures(filled)) == {"post_state missing online", "online against offline", "online against batch"}


def test_a_store_of_another_instant_is_blocked(filled: Store) -> None:
    home, feature_set, _ = filled
    materialize(feature_set, home / "lake", home, AS_OF - timedelta(days=1), generation="served")

    blocked = failures(filled)

    assert {"generation is filled from this online_store", "online against batch"} <= set(blocked)
