"""Trips through the gate: four refreshed views, of two zones, of a pair made of them, and of the one city."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from trip_rows import Trip, table

from components.build_features.core import build_features
from components.check_skew.core import SkewConfig, check_skew
from components.materialize.core import materialize
from components.materialize.refresh import refresh_generation
from millrace.instants import DAY_US, microseconds
from millrace.judge.gates import Verdict
from millrace.lake.feast_home import DATABASE, renewed_to, repository
from millrace.lake.manifest import Manifest
from millrace.settings import Settings

FIRST = datetime(2021, 1, 4, tzinfo=UTC)
AS_OF = FIRST + timedelta(days=4, hours=9, minutes=10)
VIEWS = ("city_state", "dropoff_state", "pair_state", "pickup_state")


@pytest.fixture(scope="module")
def feature_set(tmp_path_factory: pytest.TempPathFactory, snapshot_of: Callable[..., Manifest]) -> Manifest:
    rng = np.random.default_rng(0)
    days = []
    for day in range(6):
        begins = np.sort(microseconds(FIRST) + day * DAY_US + rng.integers(0, DAY_US, 300))
        zones = rng.choice(["74", "41", "75", "166"], (300, 2))
        trips = [
            Trip(str(pickup), str(dropoff), int(begin), int(seconds), miles, None if seconds % 7 == 0 else 1.0)
            for begin, (pickup, dropoff), seconds, miles in zip(
                begins, zones, rng.integers(120, 3000, 300), rng.uniform(0.5, 9, 300), strict=True
            )
        ]
        rows = table(trips)
        ids = np.arange(300) + 300 * day
        days.append(rows.set_column(0, rows.schema.field(0), [ids]))
    lake = tmp_path_factory.mktemp("lake")
    return build_features(snapshot_of(lake, days, "trips"), lake, history_length=1, threads=1)


def verdict_of(feature_set: Manifest, store: Manifest, home: Path) -> Verdict:
    lake = feature_set.fetch().parents[1]
    result = check_skew(feature_set, store, lake, home, SkewConfig(sample=60), threads=1)
    return Verdict.read(result.fetch() / "verdict.json")


def test_trips_pass_and_a_view_that_is_gone_is_blocked_by_its_name(feature_set: Manifest, tmp_path: Path) -> None:
    store = materialize(feature_set, feature_set.fetch().parents[1], tmp_path, AS_OF, generation="served")
    assert sorted(store.facts["states"]) == sorted(VIEWS)
    assert store.facts["states"]["city_state"] == 1

    verdict_of(feature_set, store, tmp_path).require()

    with sqlite3.connect(repository(tmp_path, "trips", "served") / DATABASE) as live:
        live.execute("DELETE FROM trips_pair_state")
    shutil.rmtree(feature_set.fetch().parents[1] / "skew_checks")  # one that passed is not made again
    failures = {rule.name for rule in verdict_of(feature_set, store, tmp_path).failures}
    assert failures == {"pair_state missing online", "online against offline", "online against batch"}


def test_trips_are_renewed_on_the_half_hour(feature_set: Manifest, tmp_path: Path) -> None:
    lake = feature_set.fetch().parents[1]
    (tmp_path / "lake").symlink_to(lake)
    materialize(feature_set, lake, tmp_path, AS_OF, generation="served")

    settings, now = Settings(home=tmp_path, workload="trips"), AS_OF + timedelta(minutes=25)
    made = refresh_generation(settings, "served", feature_set.facts["feature_service"], now)

    assert renewed_to(repository(tmp_path, "trips", "served")) == made.as_of.isoformat() == "2021-01-08T09:30:00+00:00"
