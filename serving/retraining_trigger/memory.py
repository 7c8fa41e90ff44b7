"""The trigger's state as a file: written aside, then renamed; one trigger at a time holds it."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from millrace.errors import ArtifactCorrupt
from millrace.lake.atomic import write_text
from serving.retraining_trigger.core import Job, State

INSTANTS = ("asked_at", "came_at", "started_at", "last_asked_at", "last_ended_at")


def write(path: Path, state: State) -> None:
    """Durable when it returns."""
    write_text(path, json.dumps(dataclasses.asdict(state), default=_text, indent=1) + "\n")


def read(path: Path) -> State:
    """What was written last, or the beginning; raises ArtifactCorrupt for a file that is neither."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        for name in ("waiting", "running"):
            document[name] = _job(document[name]) if document[name] else None
        fields = _instants(document) | {"seen": tuple(document["seen"]), "history": tuple(document["history"])}
        return State(**fields)
    except FileNotFoundError:
        return State()
    except (json.JSONDecodeError, TypeError, KeyError, ValueError) as error:
        raise ArtifactCorrupt(f"{path} is not the trigger's state: {error}. Move it away to begin anew.") from error


def _job(document: dict[str, Any]) -> Job:
    lists = {name: tuple(document[name]) for name in ("reasons", "asked_by")}
    return Job(**_instants(document) | lists)


def _instants(document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value) if name in INSTANTS and value else value for name, value in document.items()
    }


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not part of the state")
