"""Which objects run here, and from which files: the service itself, what lies beside it, and its companions.

Companions are read from the manifests that a cluster gets; one that cannot run here is skipped with its reason. The
supervisor asks several times a second in the loop that requests pass through, so a file is parsed when it has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml

from millrace.errors import MillraceError
from millrace.installed import load
from millrace.lake.atomic import write_text
from millrace.rollout.service import drift_detector
from serving.local.manifest import ROOT, interpreter, parse
from serving.local.state import Place

COMPANIONS: Final = ROOT / "manifests" / "base" / "serving"
FILES: Final = ("inferenceservice.yaml", "deployment.yaml", "statefulset.yaml")
DRIFT_DETECTOR: Final = "drift-detector"
"""The companion of which every workload's service has one of its own."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that holds an object, and the further names that it goes by."""

    name: str
    path: Path
    optional: bool
    aliases: tuple[str, ...] = ()
    skipped: str = ""
    """Why it does not run here; empty where it does."""
    companion: bool = False
    """It watches: no answer waits for it."""


def sources(main: Path, place: Place, companions: Iterable[str]) -> list[Source]:
    """The main service first. Only the home's own manifest has anything beside it; a name counts once."""
    found = [Source(_name(main), main, optional=False)]
    if main.parent.resolve() == place.folder.resolve():
        found += [Source(_name(path), path, optional=True) for path in sorted(place.folder.glob("*.yaml"))]
        found += _companions(companions, place, [source.path for source in found])
    first: dict[str, Source] = {}
    for source in found:
        first.setdefault(source.name, source)
    return list(first.values())


def _companions(names: Iterable[str], place: Place, services: Iterable[Path]) -> Iterator[Source]:
    for name in names:
        if name == DRIFT_DETECTOR:
            yield from _drift_detectors(place, services)
            continue
        path = next((path for file in FILES if (path := COMPANIONS / name / file).is_file()), None)
        if path is not None:
            aliases = tuple(_aliases(path.parent))
            yield Source(name, path, optional=True, aliases=aliases, skipped=_absent(path), companion=True)


def _drift_detectors(place: Place, services: Iterable[Path]) -> Iterator[Source]:
    """One for each service that says which workload it is of, from the template that a cluster's is made from."""
    for path in services:
        name = _workload(path, stamp(path))
        if name:
            service = load(name).model_name
            written = _write_drift_detector(place.companions / f"{service}-drift.yaml", name)
            aliases = (f"{service}-drift-events",)
            yield Source(f"{service}-drift", written, True, aliases, skipped=_absent(written), companion=True)


@lru_cache(maxsize=256)
def _write_drift_detector(path: Path, workload: str) -> Path:
    """Once a process: what a template says changes with the code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, drift_detector(load(workload)))
    return path


@lru_cache(maxsize=256)
def _workload(path: Path, _: tuple[int, int]) -> str:
    """MILLRACE_WORKLOAD of a service's transformer; empty where there is none."""
    try:
        containers = parse(path.read_text(encoding="utf-8"), path)["spec"]["transformer"]["containers"]
        entries = containers[0].get("env") or []
    except (OSError, KeyError, IndexError, TypeError, MillraceError):
        return ""
    return next((str(entry.get("value", "")) for entry in entries if entry.get("name") == "MILLRACE_WORKLOAD"), "")


def _aliases(folder: Path) -> Iterator[str]:
    """Names of the Kubernetes Services in a folder: what the others call it."""
    path = folder / "service.yaml"
    for document in _documents(path, stamp(path)) if path.is_file() else ():
        if isinstance(document, dict) and document.get("kind") == "Service":
            yield str(document["metadata"]["name"])


@lru_cache(maxsize=256)
def _documents(path: Path, _: tuple[int, int]) -> tuple[Any, ...]:
    return tuple(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@lru_cache(maxsize=256)
def _manifest(path: Path, _: tuple[int, int]) -> dict[str, Any]:
    return parse(path.read_text(encoding="utf-8"), path)


def stamp(path: Path) -> tuple[int, int]:
    """Changes when the file does: every writer here renames a new file into place."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)


def _absent(path: Path) -> str:
    """Why a companion cannot run: its environment is not there."""
    try:
        document = _manifest(path, stamp(path))
        spec = document["spec"].get("predictor") or document["spec"]["template"]["spec"]
        container = spec["containers"][0]
        words = [str(word) for word in (*container.get("command", ()), *(container.get("args") or ()))]
    except (KeyError, IndexError, TypeError, MillraceError) as error:
        return f"{path.name} cannot be read: {error}"
    python = interpreter(words)
    return "" if python.is_file() else f"its environment {python.parent.parent.name} is absent"


def _name(path: Path) -> str:
    """metadata.name, or the file's where that cannot be read: reading it again says why."""
    try:
        return str(_manifest(path, stamp(path))["metadata"]["name"])
    except (OSError, MillraceError):
        return path.stem
