"""A feed that falls silent is seen in the log itself, within minutes, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
import sqlalchemy as sa

from millrace.events.log import write_predictions
from serving.prediction_log.feed import EVENT_TIMESTAMP, SCORED_AT, Feed, FeedWatch

MIDNIGHT = datetime(2018, 6, 15, tzinfo=UTC)
A_DAY = 4_800
Fill = Callable[..., None]


@pytest.fixture
def fill(log: sa.Engine) -> Fill:
    """`fill(first_day, end_day, until=…, without=…)`: uniform traffic, days counted from MIDNIGHT."""

    def write(first: int, end: int, *, lost_from: datetime | None = None, terminals: str = "", arm: str = "champion"):
        rng = np.random.default_rng(first + 100)
        rows = []
        for day in range(first, end):
            for number, second in enumerate(np.sort(rng.uniform(0, 86_400, A_DAY))):
                at = MIDNIGHT + timedelta(days=day, seconds=float(second))
                terminal = str(int(rng.integers(0, 1_000)))
                if lost_from is not None and at >= lost_from and terminal.startswith(terminals):
                    continue
                rows.append({
                    "prediction_id": f"{day}-{number}-{arm}", "scored_at": at, "workload": "fraud", "arm": arm,
                    "event_timestamp": at - timedelta(days=700), "event_id": number, "keys": {"terminal_id": terminal},
                })  # fmt: skip
        write_predictions(log, rows)

    return write


def minutes_until_noticed(feed: Feed, since: datetime) -> int:
    return next((m for m in range(1, 61) if feed.look(since + timedelta(minutes=m))), 999)


def test_a_silent_feed_is_noticed_within_ten_minutes_and_one_that_works_is_left_alone(log: sa.Engine, fill: Fill):
    noon = MIDNIGHT + timedelta(hours=12)
    fill(-3, 0)
    fill(0, 1, lost_from=noon)
    feed = Feed(log, "fraud")

    looks = [feed.look(MIDNIGHT + timedelta(minutes=m)) for m in range(0, 721, 60)]

    assert looks == [[]] * 13
    assert minutes_until_noticed(feed, noon) <= 10
    assert feed.look(noon + timedelta(minutes=30))[0].range == "all"


def test_by_their_own_time_old_days_are_watched_as_they_were(log: sa.Engine, fill: Fill):
    noon = MIDNIGHT + timedelta(hours=12)
    fill(-4, 0)
    fill(0, 1, lost_from=noon)

    assert minutes_until_noticed(Feed(log, "fraud", EVENT_TIMESTAMP), noon - timedelta(days=700)) <= 10
    assert Feed(log, "fraud", SCORED_AT).look(noon - timedelta(days=700)) is None


def test_shadows_do_not_stand_for_answers(log: sa.Engine, fill: Fill):
    fill(-3, 0)
    fill(0, 1, arm="shadow")

    assert Feed(log, "fraud").look(MIDNIGHT + timedelta(hours=2))


def test_a_feed_with_a_day_of_nothing_has_no_usual_hour(log: sa.Engine, fill: Fill):
    assert Feed(log, "fraud").look(MIDNIGHT) is None
    fill(-3, -1)

    assert Feed(log, "fraud").look(MIDNIGHT) is None


def test_the_metric_says_what_is_silent_and_the_log_says_it_once(log: sa.Engine, fill: Fill, capsys):
    fill(-3, 0)
    fill(0, 1, lost_from=MIDNIGHT + timedelta(hours=6))
    watch, silent = FeedWatch([Feed(log, "fraud")]), []

    for hour in (3, 8, 9):
        watch.look(MIDNIGHT + timedelta(hours=hour))
        silent.append(
            prometheus_client.REGISTRY.get_sample_value("millrace_feed_silent_windows", {"workload": "fraud"})
        )

    assert silent[0] == 0
    assert min(silent[1:]) > 0
    assert prometheus_client.REGISTRY.get_sample_value("millrace_feed_watched", {"workload": "fraud"}) == 1
    assert capsys.readouterr().err.count("feed_silent") == 1


def test_a_database_that_is_away_ends_no_watch(tmp_path: Path, capsys):
    database = sa.create_engine(f"sqlite:///{tmp_path / 'no tables.db'}")

    FeedWatch([Feed(database, "fraud")]).look(MIDNIGHT)
    database.dispose()

    assert "feed_not_looked_at" in capsys.readouterr().err
