"""What kfp's local cache may still answer: a step whose outputs are whole in the lake of this home.

kfp looks for the manifest that a step handed over and no further. Outputs that somebody removed, as the runbook allows,
or that lie in a home that moved, are made again: their entries are dropped before a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from millrace.errors import MillraceError
from millrace.lake.manifest import Manifest, remote_hashes
from millrace.observe.progress import log

SHOWN: Final = frozenset({"system.HTML", "system.Markdown", "system.Metrics", "system.ClassificationMetrics"})
"""kfp's names of outputs that are for its pages: whole in themselves, where every other output is a manifest."""


def drop_stale(runs: Path) -> int:
    """Remove the entries of `<home>/runs/cache` whose outputs are not there; how many steps will run again for it."""
    stale = [path for path in sorted((runs / "cache").glob("*.json")) if not _holds(path, runs)]
    for path in stale:
        path.unlink(missing_ok=True)
    if stale:
        log("outputs_are_gone", steps=len(stale), healed="they are made again")
    return len(stale)


def _holds(entry: Path, runs: Path) -> bool:
    try:
        outputs = json.loads(entry.read_text(encoding="utf-8"))
        return all(_whole(Path(uri), title, runs) for uri, title in _artifacts(outputs))
    except (OSError, ValueError, AttributeError, MillraceError):
        return False  # cut short, or of another release: the step says better what is wrong


def _artifacts(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where each artifact lies, and kfp's name of its type."""
    for value in outputs.values():
        if isinstance(value, dict) and "uri" in value:
            yield str(value["uri"]), str(value.get("schema_title", ""))


def _whole(path: Path, title: str, runs: Path) -> bool:
    """A page or figures that are there, in this home; or a manifest whose files are."""
    if not path.is_relative_to(runs) or not path.exists():
        return False
    if title in SHOWN:
        return True
    manifest = Manifest.read(path)
    files = [Path(manifest.uri) / name for name in manifest.files]
    missing = [file for file in files if not file.is_file()]
    return not missing or len(remote_hashes(missing)) == len(missing)
