"""Where a home keeps a workload's generations of state, and what one was filled from. Imports no feast.

A generation is a Feast repository, `<home>/feast/<workload>/<generation>`, made by `components/materialize`. Each model
version names the one that it reads (`millrace.registry.generations`), so that filling another changes nothing that
serves. What was scored lies beside them and belongs to all (`millrace.appended`). `feature_store.yaml` beside them
leads people to the champion's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from millrace.lake.atomic import write_text

DATABASE: Final = "online_store.db"
"""File of the online store in a generation's folder."""
CONFIGURATION: Final = "feature_store.yaml"
EARLIEST_US: Final = -(1 << 63)
_COLUMNS: Final = ("id", "renewed_to", "as_of_us", "filled_us", "served")


@dataclass(frozen=True, slots=True)
class Fill:
    """What a generation holds."""

    id: str
    """Of the `online_store` artifact whose states it got last."""
    renewed_to: str | None = None
    """The refresh, ISO 8601, that refreshed views were renewed to since; None: the one that the artifact is of."""
    as_of_us: int = EARLIEST_US
    """Events before this instant are part of its rows, as far as they had been ingested."""
    filled_us: int = 0
    """When it was filled. What was appended before, of events before `as_of_us`, came through ingest or never did."""
    served: int = 0
    """1 once a server has opened it: what it answered since may be part of its rows."""


def workload_folder(home: Path, workload: str) -> Path:
    """The folder of a workload's generations, and of what was appended since."""
    return home / "feast" / workload


def repository(home: Path, workload: str, generation: str) -> Path:
    """The folder that holds `feature_store.yaml` and the databases of a generation."""
    return workload_folder(home, workload) / generation


def filled_with(repo: Path) -> str | None:
    """Id of the `online_store` artifact whose content a generation got last; None when it was never filled."""
    fill = fill_of(repo)
    return None if fill is None else fill.id


def renewed_to(repo: Path) -> str | None:
    """The refresh, ISO 8601, that views were renewed to since the generation was filled; None when they were not."""
    fill = fill_of(repo)
    return None if fill is None else fill.renewed_to


def fill_of(repo: Path) -> Fill | None:
    """What the generation in a folder was filled with; None when it never was, or by an older release."""
    database = repo / DATABASE
    if not database.is_file():
        return None
    with closing(sqlite3.connect(database)) as connection:
        return read_fill(connection)


def record_served(repo: Path) -> None:
    """Note that a server has opened the generation in a folder."""
    with closing(sqlite3.connect(repo / DATABASE, timeout=30)) as connection, connection:
        connection.execute("UPDATE filled_with SET served = 1 WHERE served = 0")


def read_fill(connection: sqlite3.Connection) -> Fill | None:
    """The same of an open database."""
    try:
        row = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM filled_with").fetchone()
    except sqlite3.OperationalError as error:
        if not any(reason in str(error) for reason in ("no such table", "no such column")):
            raise
        return None
    return Fill(*row) if row else None


def record_fill(connection: sqlite3.Connection, fill: Fill) -> None:
    """Note, within the caller's transaction, what a generation holds now."""
    connection.execute("DROP TABLE IF EXISTS filled_with")
    connection.execute(
        "CREATE TABLE filled_with "
        "(id TEXT, renewed_to TEXT, as_of_us INTEGER NOT NULL, filled_us INTEGER NOT NULL, served INTEGER NOT NULL)"
    )
    values = [fill.id, fill.renewed_to, fill.as_of_us, fill.filled_us, fill.served]
    connection.execute("INSERT INTO filled_with VALUES (?, ?, ?, ?, ?)", values)


def generations(home: Path, workload: str) -> list[str]:
    """Names of the generations that there are, whole or not."""
    folder = workload_folder(home, workload)
    return sorted(path.name for path in folder.glob("[!.]*") if path.is_dir() and path.name != "sources")


def project_of(configuration: Mapping[str, Any], generation: str) -> dict[str, Any]:
    """A feature_store.yaml that names a workload's project, for one generation where many share a server."""
    return {**configuration, "project": f"{configuration['project']}_{generation}"}


def show(home: Path, workload: str, generation: str) -> None:
    """Lead people who open the workload's folder as a Feast repository to a generation, where it lies in this home."""
    configuration = repository(home, workload, generation) / CONFIGURATION
    shown = workload_folder(home, workload) / CONFIGURATION
    if configuration.is_file() and (
        not shown.is_file() or shown.read_text(encoding="utf-8") != configuration.read_text(encoding="utf-8")
    ):
        write_text(shown, configuration.read_text(encoding="utf-8"))
