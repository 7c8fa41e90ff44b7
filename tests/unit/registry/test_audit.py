"""A log that only grows, and that shows when it was tampered with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from millrace.errors import ArtifactCorrupt
from millrace.registry import audit


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "audit.jsonl"
    for number in range(3):
        audit.append(path, audit.new_record("promote", to_version=number))
    return path


def test_records_come_back_in_order(log: Path):
    assert [record["to_version"] for record in audit.read(log)] == [0, 1, 2]


def test_no_log_is_no_records(tmp_path: Path):
    assert audit.read(tmp_path / "audit.jsonl") == []


def test_the_last_record_is_not_written_twice(log: Path):
    record = audit.new_record("rollback")

    audit.append(log, record)
    audit.append(log, record)

    assert [item["action"] for item in audit.read(log)] == ["promote"] * 3 + ["rollback"]


@pytest.mark.parametrize("line", [0, 1])
def test_an_edited_line_is_found(log: Path, line: int):
    lines = log.read_text(encoding="utf-8").splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | {"to_version": 9}, sort_keys=True)
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")

    with pytest.raises(ArtifactCorrupt, match=f"line {line + 2}"):
        audit.read(log)


def test_a_removed_line_is_found(log: Path):
    lines = log.read_text(encoding="utf-8").splitlines()
    log.write_text("\n".join([lines[0], lines[2]]) + "\n", encoding="utf-8")

    with pytest.raises(ArtifactCorrupt, match="line 2"):
        audit.read(log)


def test_a_line_torn_by_a_crash_does_not_swallow_the_next(log: Path):
    with log.open("a", encoding="utf-8") as stream:
        stream.write('{"action": "rollb')

    audit.append(log, audit.new_record("rollback"))

    assert [item["action"] for item in audit.read(log)] == ["promote"] * 3 + ["rollback"]
