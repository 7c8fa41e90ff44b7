"""A small simulated lake, and a way to break it."""

from datetime import date, timedelta

import pyarrow.parquet as pq
import pytest

from fraud.simulator import SimulationConfig, simulate
from millrace.lake.manifest import Manifest

START = date(2018, 4, 1)


@pytest.fixture(scope="session")
def simulated():
    """Days of a small world: `simulated(days, seed, planted)` → list of tables, the first day first."""
    made = {}

    def tables(days=42, seed=0, **planted):
        from fraud.planted import Planted

        key = (days, seed, tuple(sorted(planted.items())))
        if key not in made:
            world = SimulationConfig(
                customers=400, terminals=800, radius=10, days=days, seed=seed, start=START, planted=Planted(**planted)
            )
            made[key] = list(simulate(world))
        return list(made[key])

    return tables


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


@pytest.fixture
def snapshot(lake):
    """Write tables as a snapshot's partitions: `snapshot(tables, id=..., quarantined=...)` → its manifest."""

    def write(tables, identity="aa", quarantined=0, source="feed"):
        folder = lake / "snapshots" / identity
        folder.mkdir(parents=True)
        days = {}
        for number, table in enumerate(tables):
            if table is not None and len(table):
                day = str(START + timedelta(days=number))
                pq.write_table(table, folder / f"{day}.parquet")
                days[day] = f"{day}.parquet"
        facts = {
            "tables": {"events": days},
            "rows": sum(len(table) for table in tables if table is not None),
            "first_day": min(days, default=""),
            "last_day": max(days, default=""),
            "quarantined": {"negative amount": quarantined} if quarantined else {},
            "source": {"uri": source, "hash": identity},
        }
        return Manifest(kind="snapshot", id=identity, workload="fraud", uri=str(folder), facts=facts).write()

    return write
