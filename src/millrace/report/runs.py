"""Pages of runs: the newest is the workload's `index.html`, and those before it stay reachable from there.

Each run's page also lies under a name of its own, `run-<id>.html`, beside the index, so that its links hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from millrace.lake.atomic import write_text

SHOWN: Final = 10
"""Earlier runs that a page leads to, the newest first."""
BEFORE: Final = "run-before.html"
"""The page of a run that was made before runs had pages of their own."""


def earlier(folder: Path, run: str) -> dict[str, str]:
    """Title → file name of the runs before this one, the newest first."""
    index = folder / "index.html"
    if index.is_file() and not any(folder.glob("run-*.html")):
        write_text(folder / BEFORE, index.read_text(encoding="utf-8"))

    names = sorted((path.name for path in folder.glob("run-2*.html")), reverse=True)
    names = [name for name in names if name != page_name(run)][:SHOWN]
    if (folder / BEFORE).is_file():
        names.append(BEFORE)
    return {_title(name): name for name in names}


def publish(folder: Path, run: str, page: str) -> Path:
    """Make `page`, HTML, the folder's index; returns that."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / page_name(run), page)
    index = folder / "index.html"
    write_text(index, page)
    return index


def page_name(run: str) -> str:
    """Of a run by its id."""
    return f"run-{run}.html"


def _title(name: str) -> str:
    return "An earlier run" if name == BEFORE else f"Run {name.removeprefix('run-').removesuffix('.html')}"
