"""A home that was moved, renamed, restored or mounted elsewhere: what names its old place is made to name the new one.

Manifests of the lake know their place by where they lie. Absolute names stand in the served InferenceServices, Feast's
repositories and MLflow's embedded database; `settle` rewrites them. It costs a look at a few small files where nothing
moved, and may be run by several processes at once.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from millrace.lake.atomic import exclusive, replace_link, write_text
from millrace.observe.progress import log

_MODEL: Final = re.compile(r"file://[^\s\"]*?/serving/models/[^\s/\"]+/[0-9]+")
"""URI of a registered version's folder, as InferenceServices have it."""
_TRACKED: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow that hold URIs of the home."""


def settle(home: Path) -> Path | None:
    """Rename the home's old place to `home` wherever it stands; returns the old place, None where nothing moved.

    Raises AlreadyRunning when another process changes the registry.
    """
    home = home.absolute()
    old = old_place(home)
    if old is None:
        return None
    with exclusive(home / "registry.lock", f"a change to the registry of {home}"):
        for path in _documents(home):
            _rename(path, old, home)
        _rename_links(old, home)
        _rename_tracked(home / "mlflow" / "mlflow.db", old, home)
    log("home_moved", was=str(old), now=str(home), healed="served manifests, Feast's repositories, MLflow's database")
    return old


def old_place(home: Path) -> Path | None:
    """Where the home was when its champion was promoted, or its store filled; a link to the same place is no move."""
    for path in _documents(home):
        for old in _places_in(path):
            if not _same(old, home):
                return old
    return None


def _documents(home: Path) -> Iterator[Path]:
    yield from sorted(home.glob("serving/*.yaml"))
    yield from sorted(home.glob("serving/models/*/*.yaml"))
    yield from sorted(home.glob("feast/**/feature_store.yaml"))


def _places_in(path: Path) -> Iterator[Path]:
    text = path.read_text(encoding="utf-8")
    for uri in _MODEL.findall(text):
        place, _, version = unquote(urlsplit(uri).path).rpartition("/serving/models/")
        # A model that this home lacks belongs to another home on purpose.
        if (path.parent / "models" / version).is_dir() or (path.parents[1] / version).is_dir():
            yield Path(place)
    if path.name == "feature_store.yaml":
        yield from (Path(found) for found in re.findall(r"path: \"?(?:sqlite:///)?(/.*?)/feast/[^\n]*\.db", text))


def _rename(path: Path, old: Path, new: Path) -> None:
    text = path.read_text(encoding="utf-8")
    changed = text.replace(f"{old.as_uri()}/", f"{new.as_uri()}/").replace(f"{old}/", f"{new}/")
    if changed != text:
        write_text(path, changed)


def _rename_links(old: Path, new: Path) -> None:
    for link in _links(new / "feast"):
        target = link.readlink()
        if target.is_relative_to(old):
            replace_link(link, new / target.relative_to(old))


def _links(folder: Path) -> Iterator[Path]:
    """Links below a folder; a glob leaves out those that lead nowhere."""
    for below, folders, files in os.walk(folder):
        paths = [Path(below) / name for name in (*folders, *files)]
        yield from (path for path in paths if path.is_symlink())


def _rename_tracked(database: Path, old: Path, new: Path) -> None:
    if not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in _TRACKED:
            if table in known:
                connection.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE substr("{column}", 1, ?) = ?',
                    [f"{new.as_uri()}/", len(old.as_uri()) + 2, len(old.as_uri()) + 1, f"{old.as_uri()}/"],
                )


def _same(one: Path, other: Path) -> bool:
    return one == other or one.resolve() == other.resolve()
