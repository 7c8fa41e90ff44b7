"""From the journal into the database, with what is in the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from millrace.events.table import read_labels, read_predictions
from serving.logged_rows import Bodies
from serving.prediction_log.core import Events, decode_labels
from serving.prediction_log.journal import Journal
from serving.prediction_log.writer import Writer

NOW = datetime(2018, 9, 30, 12, tzinfo=UTC)
BATCH = {b"content-type": b"application/cloudevents-batch+json"}
Event = Callable[..., dict[str, Any]]


def records(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return Events(Bodies("fraud", b"key")).read(BATCH, json.dumps(events).encode(), NOW)


def through(log: sa.Engine, folder: Path, *lines: bytes) -> Journal:
    """Append to the journal in `folder`, write all of it, and end, as a process does."""
    journal = Journal(folder / "journal", 1 << 20)
    asyncio.run(journal.append(b"".join(line + b"\n" for line in lines)))
    writer = Writer(log, journal, folder / "rejected.jsonl")
    writer.start()
    writer.stop(30)
    journal.close()
    return journal


def test_what_the_database_refuses_goes_aside_and_holds_nobody_up(log: sa.Engine, tmp_path: Path, event: Event) -> None:
    good = [orjson.dumps(record) for record in records(*(event(number) for number in range(20)))]
    refused = orjson.dumps(records(event(99))[0] | {"row": {"prediction_id": "without a time"}})
    unknown = orjson.dumps({"kind": "surprise", "received": NOW})

    through(log, tmp_path, *good[:10], refused, b"{rot", unknown, *good[10:])

    aside = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert sorted(read_predictions(log, "fraud")["transaction_id"].to_pylist()) == list(range(20))
    assert len(aside) == 3
    assert all(entry["reason"] and entry["record"] for entry in aside)


def test_a_journal_that_is_written_again_adds_nothing(log: sa.Engine, tmp_path: Path, event: Event) -> None:
    told = decode_labels(b'{"labels": [{"transaction_id": 1, "is_fraud": 1}]}', NOW, "fraud")
    corrected = decode_labels(b'{"labels": [{"transaction_id": 1, "is_fraud": 0}]}', NOW.replace(hour=13), "fraud")
    lines = [orjson.dumps(record) for record in records(event(1), event(2)) + told + corrected]

    through(log, tmp_path / "first", *lines)
    before = read_predictions(log, "fraud", with_labels_known_at=NOW.replace(hour=14))
    through(log, tmp_path / "second", *lines)

    assert read_predictions(log, "fraud", with_labels_known_at=NOW.replace(hour=14)).equals(before)
    assert before["is_fraud"].to_pylist() == [0, None]
    assert read_labels(log, "fraud", NOW)["is_fraud"].to_pylist() == [1]
