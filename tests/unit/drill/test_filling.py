"""The drill's store is filled at midnight and renewed at the refreshes in between, as by pipeline and refresh job."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from drill.filling import Filling
from drill.moments import Stopwatch
from drill.world import Script, tables
from fraud.features import REFRESHES_PER_DAY
from millrace.installed import load
from millrace.lake.feast_home import renewed_to, repository
from millrace.lake.manifest import list_manifests
from millrace.settings import Settings

SCRIPT = Script(size=60, days=14, shift_day=8, outage_day=10, pattern_day=11)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's
def test_midnight_fills_the_store_and_a_refresh_renews_it(tmp_path: Path) -> None:
    here, raw, watch = Settings(home=tmp_path / "home"), tmp_path / "raw", Stopwatch()
    raw.mkdir()
    for day, rows in tables(SCRIPT, load("fraud").drill):
        if day <= 0:
            pq.write_table(rows.replace_schema_metadata(), raw / f"{SCRIPT.date(day)}.parquet")
    midnight = SCRIPT.instant(0)
    refresh = midnight + timedelta(days=1) / REFRESHES_PER_DAY
    filling = Filling(SimpleNamespace(wait_logged=lambda: None), here, raw, watch)

    try:
        filling.begin_day()
        filling.fill(midnight)
        before = renewed_to(repository(here.home, "fraud", "drill"))
        filling.fill(refresh)
        after = renewed_to(repository(here.home, "fraud", "drill"))
        store_s = watch.spent["store"]
        filling.fill(refresh)
    finally:
        filling.close()

    assert (before, after) == (None, refresh.isoformat())
    assert filling.filled == refresh
    assert filling.filled_from is not None
    assert filling.filled_from.facts["last_day"] == str(SCRIPT.date(0))
    assert watch.spent["store"] == store_s


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's
def test_a_day_whose_first_event_comes_after_the_first_refresh_is_filled_at_midnight_too(tmp_path: Path) -> None:
    here, raw = Settings(home=tmp_path / "home"), tmp_path / "raw"
    raw.mkdir()
    days = {day: rows for day, rows in tables(SCRIPT, load("fraud").drill) if day <= 1}
    for day in range(min(days), 1):
        pq.write_table(days[day].replace_schema_metadata(), raw / f"{SCRIPT.date(day)}.parquet")
    late = SCRIPT.instant(1) + 2 * timedelta(days=1) / REFRESHES_PER_DAY
    filling = Filling(SimpleNamespace(wait_logged=lambda: None), here, raw, Stopwatch())

    try:
        filling.begin_day()
        filling.fill(SCRIPT.instant(0))
        pq.write_table(days[1].replace_schema_metadata(), raw / f"{SCRIPT.date(1)}.parquet")
        filling.begin_day()
        filling.fill(late)
        at_late, from_late = filling.filled, filling.filled_from
        filling.fill(late + timedelta(days=1) / REFRESHES_PER_DAY)
    finally:
        filling.close()

    stores = [made.facts["as_of"] for made in list_manifests(here.lake / "online", "online_store")]
    assert SCRIPT.instant(1).isoformat() in stores
    assert at_late == late
    assert from_late is not None
    assert from_late.facts["last_day"] == str(SCRIPT.date(1))  # states of a day are of what happened on it, too
    assert filling.filled_from == from_late
    assert renewed_to(repository(here.home, "fraud", "drill")) == filling.filled.isoformat()
