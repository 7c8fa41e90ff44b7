"""Rows in, rows out, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from logged import DATA, told

from millrace.errors import ConfigError, InvalidInput, Unavailable
from millrace.events.log import (
    engine,
    find_version,
    migrate,
    prune,
    require_ours,
    transaction,
    write_labels,
    write_predictions,
)
from millrace.events.table import find_predictions, read_labels, read_predictions, schema_of
from millrace.settings import Settings

NOON = datetime(2018, 9, 30, 12, tzinfo=UTC)
WEEK = timedelta(days=7)


def prediction(number: int, **changes: Any) -> dict[str, Any]:
    said = {
        "prediction_id": f"request-{number}:0",
        "request_id": f"request-{number}",
        "scored_at": NOON + timedelta(seconds=number),
        "transaction_id": number,
        "event_timestamp": NOON - timedelta(days=1, seconds=-number),
    }
    return told(DATA | said | changes)


def label(number: int, is_fraud: bool, known: datetime = NOON + WEEK) -> dict[str, Any]:
    return {"workload": "fraud", "event_id": number, "label_timestamp": known, "value": float(is_fraud)}


def test_a_row_comes_back_as_it_was_written(log: sa.Engine) -> None:
    row = prediction(1)

    written = write_predictions(log, [row])
    table = read_predictions(log, "fraud")

    assert written == 1
    keys = {name: pa.string() for name in ("customer_id", "terminal_id")}
    assert table.schema == schema_of("fraud")
    assert dict(zip(table.schema.names, table.schema.types, strict=True)).items() >= keys.items()
    own = {"transaction_id": 1, "customer_id": "0123456789abcdef", "terminal_id": "42", "amount": 12.5}
    shared = {name: value for name, value in row.items() if name not in ("workload", "event_id", "keys", "fields")}
    assert table.to_pylist() == [own | shared | {"traceparent": None, "dry_run": None}]


def test_a_trial_is_kept_and_no_reader_counts_it(log: sa.Engine) -> None:
    write_predictions(log, [prediction(1, dry_run=True), prediction(2), prediction(3, dry_run=False)])

    shown = find_predictions(log, "fraud", event_id=1, limit=5)

    assert read_predictions(log, "fraud")["transaction_id"].to_pylist() == [2, 3]
    assert [row["dry_run"] for row in shown] == [True]


def test_an_event_is_stored_once_and_its_first_word_counts(log: sa.Engine) -> None:
    write_predictions(log, [prediction(1)])

    again = write_predictions(log, [prediction(1, score=0.9), prediction(2), prediction(2)])

    assert again == 1
    assert read_predictions(log, "fraud")["score"].to_pylist() == [0.25, 0.25]


def test_what_a_logger_does_not_say_is_null(log: sa.Engine) -> None:
    write_predictions(log, [{"prediction_id": "a", "scored_at": NOON, "workload": "fraud"}])

    row = read_predictions(log, "fraud", with_labels_known_at=NOON).to_pylist()[0]

    assert {name for name, value in row.items() if value is not None} == {"prediction_id", "scored_at"}


def test_a_label_is_not_visible_before_it_is_known(log: sa.Engine) -> None:
    write_predictions(log, [prediction(1), prediction(2)])
    write_labels(log, [label(1, True)])

    before = read_predictions(log, "fraud", with_labels_known_at=NOON + WEEK - timedelta(microseconds=1))
    after = read_predictions(log, "fraud", with_labels_known_at=NOON + WEEK)

    assert before["is_fraud"].to_pylist() == [None, None]
    assert after["is_fraud"].to_pylist() == [1, None]
    assert after["label_timestamp"].to_pylist() == [NOON + WEEK, None]


def test_a_later_label_replaces_an_earlier_one_from_its_own_time_on(log: sa.Engine) -> None:
    write_predictions(log, [prediction(1)])

    news = write_labels(log, [label(1, False), label(1, True, NOON + 2 * WEEK)])
    repeated = write_labels(log, [label(1, False), label(1, True, NOON + 2 * WEEK)])

    assert (news, repeated) == (2, 0)
    assert read_predictions(log, "fraud", with_labels_known_at=NOON + WEEK)["is_fraud"].to_pylist() == [0]
    assert read_predictions(log, "fraud", with_labels_known_at=NOON + 2 * WEEK)["is_fraud"].to_pylist() == [1]
    assert read_labels(log, "fraud")["is_fraud"].to_pylist() == [1]
    assert read_labels(log, "fraud", NOON + WEEK)["is_fraud"].to_pylist() == [0]


def test_a_label_corrected_for_the_same_instant_is_the_new_one(log: sa.Engine) -> None:
    write_labels(log, [label(1, False)])

    assert write_labels(log, [label(1, True)]) == 1
    assert read_labels(log, "fraud").to_pylist() == [
        {"transaction_id": 1, "is_fraud": 1, "label_timestamp": NOON + WEEK}
    ]


def test_windows_are_half_open_and_versions_are_told_apart(log: sa.Engine) -> None:
    write_predictions(log, [prediction(n, model_version=str(n % 2)) for n in range(10)])

    def numbers(**limits: Any) -> list[int]:
        return read_predictions(log, "fraud", columns=["transaction_id"], **limits)["transaction_id"].to_pylist()

    assert numbers(since=NOON + timedelta(seconds=3), until=NOON + timedelta(seconds=6)) == [3, 4, 5]
    assert numbers(until=NOON - timedelta(days=1) + timedelta(seconds=2), by="event_timestamp") == [0, 1]
    assert numbers(model_version="1") == [1, 3, 5, 7, 9]
    assert numbers(model_version=["0", "1"], since=NOON + timedelta(seconds=8)) == [8, 9]
    assert numbers(model_version=[]) == []


def test_a_prediction_is_found_by_event_request_or_transaction(log: sa.Engine) -> None:
    write_predictions(log, [prediction(7), prediction(8, transaction_id=7, model_version="4")])

    found = [find_version(log, name, "fraud") for name in ("request-7:0", "request-7", "7", "nobody", str(1 << 70))]

    assert found == ["3", "3", "4", None, None]


def test_all_rows_are_written_or_none(log: sa.Engine) -> None:
    with pytest.raises(InvalidInput, match="refuses a value"):
        write_predictions(log, [prediction(1), {"prediction_id": "without a time", "workload": "fraud"}])

    assert read_predictions(log, "fraud").num_rows == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda log: write_predictions(log, [prediction(1) | {"colour": "red"}]), "no column 'colour'"),
        (lambda log: read_predictions(log, "fraud", columns=["colour"]), "no column 'colour'"),
        (lambda log: read_predictions(log, "fraud", datetime(2018, 9, 30)), "no time zone"),
        (lambda log: read_predictions(log, "fraud", by="amount"), "wanted 'scored_at'"),
    ],
)
def test_wrong_questions_are_refused_by_name(log: sa.Engine, call: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call(log)


def test_writers_at_the_same_time_lose_nothing(log: sa.Engine) -> None:
    parts = [[prediction(n) for n in range(start, start + 60)] for start in range(0, 400, 50)]

    with ThreadPoolExecutor(4) as threads:
        written = sum(threads.map(lambda part: write_predictions(log, part), parts))

    assert written == 410
    assert read_predictions(log, "fraud").num_rows == 410


def test_services_may_migrate_at_the_same_time(home: Settings) -> None:
    engines = [engine(home) for _ in range(3)]

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(migrate, engines))

    assert write_predictions(engines[0], [prediction(1)]) == 1
    for made in engines:
        made.dispose()


def test_a_log_without_tables_says_how_to_make_them(home: Settings) -> None:
    empty = engine(home)

    with pytest.raises(Unavailable, match="migrate"):
        read_predictions(empty, "fraud")
    empty.dispose()


def test_the_migrations_make_the_tables_that_the_code_reads(log: sa.Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from millrace.events.log import TABLES

    with log.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), TABLES) == []


@pytest.mark.parametrize("url", ["mysql://somewhere/db", "not a url", "sqlite://"])
def test_a_database_that_cannot_be_used_is_refused(url: str, tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="MILLRACE_PREDICTION_LOG_URL"):
        engine(Settings(home=str(tmp_path), prediction_log_url=url))


def test_a_password_is_never_in_an_error() -> None:
    away = engine(Settings(prediction_log_url="postgresql://me:hunter2@127.0.0.1:1/db"))

    with pytest.raises(Unavailable) as failure:
        read_predictions(away, "fraud")

    assert "hunter2" not in str(failure.value)


def test_the_oldest_go_in_batches_and_labels_with_the_last_prediction_of_their_transaction(log: sa.Engine) -> None:
    old = [prediction(number) for number in range(5)]
    again = prediction(100) | {"event_id": 4}  # scored once more, within what is kept
    write_predictions(log, [*old, again, prediction(101) | {"event_id": None}])
    known = [label(number, True, NOON + hour)
             for number in (0, 1, 4, 7) for hour in (WEEK, 2 * WEEK)]  # fmt: skip
    write_labels(log, known)
    before, batches = NOON + timedelta(seconds=50), []

    while not batches or batches[-1][0]:
        with transaction(log) as connection:
            batches.append(prune(connection, before, 2))

    assert batches == [(2, 4), (2, 0), (1, 0), (0, 0)]
    assert read_predictions(log, "fraud")["prediction_id"].to_pylist() == ["request-100:0", "request-101:0"]
    assert sorted(set(read_labels(log, "fraud", NOON + 3 * WEEK)["transaction_id"].to_pylist())) == [4, 7]


def test_a_log_of_another_version_is_refused_and_left_alone(log: sa.Engine) -> None:
    with log.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))

    for refused in (migrate, require_ours):
        with pytest.raises(ConfigError, match="another version of Millrace"):
            refused(log)


def test_two_workloads_share_the_log_and_see_their_own(log: sa.Engine) -> None:
    write_predictions(log, [prediction(1), prediction(2) | {"workload": "another", "event_id": 1, "keys": None}])
    write_labels(log, [label(1, True), label(1, False) | {"workload": "another"}])

    rows = read_predictions(log, "fraud", with_labels_known_at=NOON + WEEK)

    assert rows["prediction_id"].to_pylist() == ["request-1:0"]
    assert rows["is_fraud"].to_pylist() == [1]
