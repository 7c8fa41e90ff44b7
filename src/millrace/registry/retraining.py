"""What a retraining leaves behind: who asked, what came of it. Written by whoever runs one, read by the trigger.

`<home>/retraining/runs/<hash of the id>.json` appears when a retraining has ended, whatever its end; the lock
`<home>/retraining/run.lock` is held while one runs on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from millrace.errors import MillraceError, NotFound
from millrace.lake.atomic import sha256_text, write_text
from millrace.lake.manifest import Manifest
from millrace.registry.models import Registry, Served
from millrace.settings import Settings

PROMOTED: Final = "promoted"
"""To challenger: its canary begins."""
DECLINED: Final = "declined"
"""A gate said no and left a refusal (`millrace.judge.refusals`): the champion stays."""
FAILED: Final = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one retraining."""

    id: str
    """Id of what asked for it; the same one is done once."""
    reason: str
    outcome: str
    detail: str
    champion: int | None
    challenger: int | None
    """Version numbers."""
    began_at: str
    ended_at: str

    def write(self, home: Path) -> None:
        write_text(outcome_path(home, self.id), json.dumps(asdict(self), indent=2) + "\n")


def outcome_path(home: Path, identity: str) -> Path:
    return home / "retraining" / "runs" / f"{sha256_text(identity)[:16]}.json"


def outcome_of(home: Path, identity: str) -> Outcome | None:
    """What came of it; None while it has not ended."""
    path = outcome_path(home, identity)
    return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def lock_path(home: Path) -> Path:
    return home / "retraining" / "run.lock"


def source_of(settings: Settings, champion: Served) -> str:
    """What a retraining reads: the setting, else what the champion's snapshot was read from; raises NotFound."""
    if settings.retraining_source:
        return settings.retraining_source

    try:
        return str(_read_from(settings, champion)["uri"])
    except (MillraceError, KeyError) as error:
        raise NotFound(
            f"the lake does not say what champion {champion.version} was trained from ({error}). "
            "Set MILLRACE_RETRAINING_SOURCE."
        ) from error


def columns_of(settings: Settings, champion: Served) -> dict[str, Any]:
    """The columns document that the champion's snapshot was read with; empty where the lake does not say."""
    try:
        return dict(_read_from(settings, champion).get("columns", {}))
    except (MillraceError, KeyError):
        return {}


def _read_from(settings: Settings, champion: Served) -> Mapping[str, Any]:
    model = Manifest.read(Registry(settings).folder(champion.version), "model")
    folder = settings.lake / "snapshots" / model.parents.get("snapshot", "?")
    source: Mapping[str, Any] = Manifest.read(folder, "snapshot").facts["source"]
    return source


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
