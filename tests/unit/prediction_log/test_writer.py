"""From the stream into the database, with what is in the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from millrace.events.kinds import encode
from millrace.events.stream import LABELS, PREDICTIONS, Stream, open_stream
from millrace.events.table import read_labels, read_predictions
from millrace.settings import Settings
from serving.logged_rows import Bodies
from serving.posted import Posted
from serving.prediction_log.core import decode_labels
from serving.prediction_log.writer import GROUPS, Writer

NOW = datetime(2018, 9, 30, 12, tzinfo=UTC)
BATCH = {b"content-type": b"application/cloudevents-batch+json"}
Event = Callable[..., dict[str, Any]]


def taken(*events: dict[str, Any]) -> list[bytes]:
    """Events as the door of the log puts them on the stream."""
    return [encode(event) for event in Posted(Bodies("fraud", b"key")).read(BATCH, json.dumps(events).encode(), NOW)]


def through(log: sa.Engine, folder: Path, bodies: Sequence[bytes], labels: Sequence[bytes] = ()) -> Stream:
    """Append to the stream of `folder`, write all of it, and end, as a process does."""
    stream = open_stream(Settings(home=folder))
    stream.append(PREDICTIONS, bodies, [str(place) for place in range(len(bodies))])
    stream.append(LABELS, labels, [str(place) for place in range(len(labels))])
    written(log, stream)
    return stream


def written(log: sa.Engine, stream: Stream) -> None:
    writer = Writer(log, stream, "test")
    writer.start()
    writer.stop(30)


def test_a_refused_event_is_set_aside_alone_and_holds_nobody_up(log: sa.Engine, tmp_path: Path, event: Event) -> None:
    good = taken(*(event(number) for number in range(20)))
    impossible = encode(event(99, score=7))
    stranger = encode(event(98) | {"type": "com.example.surprise"})

    stream = through(log, tmp_path, [*good[:10], impossible, b"{rot", stranger, *good[10:]])

    reasons = [refused.reason for refused in stream.refused()]
    assert sorted(read_predictions(log, "fraud")["transaction_id"].to_pylist()) == list(range(20))
    assert [reason.split(";")[0].split(":")[0] for reason in reasons] == ["score is 7.0", "body", "body"]
    assert [stream.lag(group).events for group in GROUPS] == [0, 0]
    stream.close()


def test_what_the_database_refuses_is_found_by_halving(log: sa.Engine, tmp_path: Path, event: Event) -> None:
    good = taken(*(event(number) for number in range(8)))
    half = {"kind": "response", "request_id": "r", "at": NOW, "received": NOW, "workload": "fraud", "model_name": "m"}
    unwritable = encode(
        {
            "specversion": "1.0",
            "type": "io.millrace.logged",
            "id": "r:response",
            "source": "/m",
            "data": half | {"rows": ["no row"]},
        }
    )

    stream = through(log, tmp_path, [*good[:5], unwritable, *good[5:]])

    assert sorted(read_predictions(log, "fraud")["transaction_id"].to_pylist()) == list(range(8))
    assert len(stream.refused()) == 1
    stream.close()


def test_an_event_that_was_set_aside_is_written_when_it_is_sent_again(
    log: sa.Engine, tmp_path: Path, event: Event, monkeypatch: Any
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("millrace.events.kinds.check", refuse)
        stream = through(log, tmp_path, taken_unchecked(event(1)))
    assert [refused.id for refused in stream.refused()] == ["0"]

    assert stream.send_again() == 1
    written(log, stream)

    assert read_predictions(log, "fraud")["transaction_id"].to_pylist() == [1]
    assert stream.refused() == []
    stream.close()


def refuse(_: Any) -> None:
    """A description that knows less than the sender's."""
    from millrace.errors import InvalidInput

    raise InvalidInput("stage is 'cache'; wanted full or cheap")


def taken_unchecked(event: dict[str, Any]) -> list[bytes]:
    return [encode(event)]


def test_a_stream_that_is_written_again_adds_nothing(log: sa.Engine, tmp_path: Path, event: Event) -> None:
    told = decode_labels(b'{"labels": [{"transaction_id": 1, "is_fraud": 1}]}', NOW, "fraud")
    corrected = decode_labels(b'{"labels": [{"transaction_id": 1, "is_fraud": 0}]}', NOW.replace(hour=13), "fraud")
    bodies, labels = taken(event(1), event(2)), [encode(label) for label in told + corrected]

    through(log, tmp_path / "first", bodies, labels).close()
    before = read_predictions(log, "fraud", with_labels_known_at=NOW.replace(hour=14))
    through(log, tmp_path / "second", bodies, labels).close()

    assert read_predictions(log, "fraud", with_labels_known_at=NOW.replace(hour=14)).equals(before)
    assert before["is_fraud"].to_pylist() == [0, None]
    assert read_labels(log, "fraud", NOW)["is_fraud"].to_pylist() == [1]
