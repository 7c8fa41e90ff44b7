"""The append-only record of what was done to the model registry: one JSON object per line, each naming its predecessor.

A line is written in one call and synced before anything counts as done. Every line holds the hash of the line before
it, so that an edited, removed or inserted line is found by `read`. Which actions exist is the business of
`millrace.registry.models`, which also holds the lock under which this is called.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from millrace.errors import ArtifactCorrupt
from millrace.lake.atomic import sha256_text

BEFORE: Final = "before"
"""Key of the hash of the line before; empty in the first."""


def new_record(action: str, **fields: Any) -> dict[str, Any]:
    """A record that is not written yet: its id, when, who (user@host), the action and what else is known."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"id": uuid.uuid4().hex, "at": now, "who": who(), "action": action} | fields


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line and sync it; call it under a lock. A record that is the last line already is not written twice."""
    lines = _lines(path)
    if lines and _parsed(lines[-1]).get("id") == record["id"]:
        return

    line = json.dumps(record | {BEFORE: _hash(lines[-1]) if lines else ""}, sort_keys=True)
    torn = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    path.parent.mkdir(parents=True, exist_ok=True)

    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (b"\n" if torn else b"") + line.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """Every record, oldest first; raises ArtifactCorrupt naming the first line that does not follow from the last.

    A line torn by a crash is no record, and is skipped: what it was about to say is said again by the next one.
    """
    records = []
    before = ""
    for number, line in enumerate(_lines(path), 1):
        record = _parsed(line)
        if record and record.get(BEFORE) != before:
            raise ArtifactCorrupt(f"{path} line {number}: the lines before it were changed. Restore it from a backup.")
        before = _hash(line)
        if record:
            records.append(record)
    return records


def who() -> str:
    """user@host; the number of a user that has no name, as in most containers."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _hash(line: str) -> str:
    return sha256_text(line)[:16]


def _parsed(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}
