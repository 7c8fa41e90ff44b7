"""What the log lets go, and that nobody who writes waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from millrace.events.kinds import encode
from millrace.events.log import write_predictions
from millrace.events.stream import PREDICTIONS, open_stream
from millrace.events.table import read_predictions
from millrace.settings import Settings
from serving.prediction_log import retention
from serving.prediction_log.retention import Retention
from serving.prediction_log.writer import Writer

NOW = datetime(2018, 9, 30, 12, tzinfo=UTC)
Event = Callable[..., dict[str, Any]]


def scored(log: sa.Engine, *days_ago: float) -> None:
    write_predictions(
        log,
        [
            {"prediction_id": f"{days:g}", "scored_at": NOW - timedelta(days=days), "workload": "fraud"}
            for days in days_ago
        ],
    )


def kept(log: sa.Engine) -> list[str]:
    return [str(name) for name in read_predictions(log, "fraud")["prediction_id"].to_pylist()]


def test_what_is_older_than_the_days_goes_and_what_is_younger_stays(log: sa.Engine) -> None:
    scored(log, 31, 30.5, 29.5, 0)

    more = Retention(log, 30, clock=lambda: NOW).look()

    assert not more
    assert kept(log) == ["29.5", "0"]


def test_with_no_days_everything_stays(log: sa.Engine) -> None:
    scored(log, 10_000, 0)

    assert not Retention(log, 0, clock=lambda: NOW).look()
    assert kept(log) == ["10000", "0"]


def test_there_is_more_until_a_batch_is_not_full_and_then_it_waits(
    log: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 2)
    scored(log, 50, 49, 48)
    looking = Retention(log, 30, clock=lambda: NOW)

    assert [looking.look(), looking.look()] == [True, False]
    scored(log, 47)
    assert not looking.look()
    assert kept(log) == ["47"]


def test_a_database_that_is_away_is_left_for_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = sa.create_engine(f"sqlite:///{tmp_path / 'no tables.db'}")

    more = Retention(database, 30, clock=lambda: NOW).look()
    database.dispose()

    assert not more
    assert "prediction_log_not_pruned" in capsys.readouterr().err


def test_the_writer_lets_the_old_go_while_it_writes(log: sa.Engine, tmp_path: Path, event: Event) -> None:
    scored(log, *(40 + number / 1000 for number in range(300)))
    stream = open_stream(Settings(home=tmp_path))
    writer = Writer(log, stream, "test", Retention(log, 30, clock=lambda: NOW))

    writer.start()
    bodies = [encode(event(number)) for number in range(50)]
    stream.append(PREDICTIONS, bodies, [str(number) for number in range(50)])
    deadline = time.monotonic() + 30
    while len(kept(log)) != 50:
        assert time.monotonic() < deadline, kept(log)
        time.sleep(0.02)
    writer.stop(30)
    stream.close()

    assert set(kept(log)) == {f"request-{number}:0" for number in range(50)}


def test_days_are_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(home=tmp_path).log_retention_days == 400

    monkeypatch.setenv("MILLRACE_LOG_RETENTION_DAYS", "-1")
    with pytest.raises(ValidationError):
        Settings(home=tmp_path)
