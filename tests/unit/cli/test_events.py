"""`millrace events`: who reads the stream, what was refused and why, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.cli import main
from millrace.events.stream import PREDICTIONS, Group, Stream, open_stream
from millrace.settings import Settings

LOG = Group(PREDICTIONS, "prediction-log")


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """A stream with three events, of which the log refused two."""
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    opened = open_stream(Settings())
    opened.append(PREDICTIONS, [b'{"n": 1}', b'{"n": 2}', b'{"n": 3}'], ["a:0", "b:0", "c:0"])
    first, second, third = opened.read(LOG, "test", 10, 0.0)
    opened.set_aside(LOG, first, "score is 7; wanted a number in [0, 1]")
    opened.set_aside(LOG, second, "stage is 'memory'")
    opened.acknowledge(LOG, [third.position])
    yield opened
    opened.close()


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["events", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_readers_are_listed_with_what_waits_for_them(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    stream.append(PREDICTIONS, [b"{}"], ["d:0"])

    (row,) = said(capsys)

    assert {name: row[name] for name in ("topic", "group", "waiting", "refused")} == {
        "topic": "predictions",
        "group": "prediction-log",
        "waiting": 1,
        "refused": 2,
    }


def test_refused_events_are_listed_with_their_reason(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    rows = said(capsys, "--refused")

    assert [(row["id"], row["reason"], row["event"]) for row in rows] == [
        ("a:0", "score is 7; wanted a number in [0, 1]", '{"n": 1}'),
        ("b:0", "stage is 'memory'", '{"n": 2}'),
    ]
    assert main(["events", "--refused"]) == 0
    assert "stage is 'memory'" in capsys.readouterr().out


@pytest.mark.parametrize(("ids", "left"), [(["b:0"], ["a:0"]), ([], [])])
def test_refused_events_are_sent_again(
    stream: Stream, capsys: pytest.CaptureFixture[str], ids: list[str], left: list[str]
) -> None:
    assert said(capsys, "--refused", "--send-again", *ids) == {"sent_again": 2 - len(left)}

    assert [refused.id for refused in stream.refused()] == left
    assert len(stream.read(LOG, "test", 10, 0.0)) == 2 - len(left)


def test_a_reader_that_is_gone_is_forgotten(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "--forget", "predictions/prediction-log")

    assert stream.groups() == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--refused", "--send-again", "z:0"], 1, "no refused event 'z:0'"),
        (["--send-again"], 2, "wanted --refused --send-again"),
        (["--forget", "predictions/nobody"], 1, "no reader 'predictions/nobody'"),
    ],
)
def test_what_is_not_there_is_refused_by_name(
    stream: Stream, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert main(["events", *arguments]) == status
    assert message in capsys.readouterr().err
