"""A home: whose it is, whether what it names is whole, and what it says of processes true. Nothing is changed."""

from __future__ import annotations

import json
import os
import pwd
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import yaml

from millrace.errors import MillraceError
from millrace.installed import load, names
from millrace.lake.feast_home import filled_with, repository
from millrace.lake.manifest import Manifest
from millrace.lake.moved import old_place
from millrace.registry.model_spec import generation_of
from millrace.rollout import canary
from millrace.settings import Settings
from serving.local.doctor.findings import Finding
from serving.local.records import Record
from serving.local.state import Place

DATABASE_S: Final = 1.0
"""Longest check of one database."""
CLOCK_S: Final = 300.0
"""How far ahead of this clock a time in the home may be."""


def permissions(here: Settings) -> Iterator[Finding]:
    home = here.home
    if not home.exists():
        yield Finding("home", f"there is no {home} yet", "Make one: make run", wrong=False)
        return
    if not home.is_dir():
        yield Finding("home", f"{home} is no folder", "Name another: export MILLRACE_HOME=/a/folder")
        return

    owner = home.stat().st_uid
    if not os.access(home, os.W_OK | os.X_OK):
        told = f"{home} belongs to {_user(owner)} and cannot be written by {_user(os.getuid())}"
        yield Finding("home", told, f"sudo chown -R {_user(os.getuid())} '{home}', or export MILLRACE_HOME=/a/folder")
    elif (strange := next(_others(home), None)) is not None:
        told = f"{strange} belongs to {_user(strange.lstat().st_uid)}"
        yield Finding("home", told, f"sudo chown -R {_user(os.getuid())} '{home}'")
    key = home / "pseudonym.key"
    if key.is_file() and key.stat().st_mode & 0o077:
        yield Finding("home", f"{key} can be read by others", f"chmod 600 '{key}'")
    if key.is_file() and os.access(key, os.R_OK) and not key.read_text(encoding="utf-8").strip():
        yield Finding("home", f"{key} is empty", "Put the key back, or remove the file to have one made")


def place(here: Settings) -> Iterator[Finding]:
    old = old_place(here.home)
    if old is not None:
        told = f"this home was {old} once, and some files still name that place"
        yield Finding("place", told, "Any command that serves mends it: make up, or millrace doctor --fix")


def clock(here: Settings) -> Iterator[Finding]:
    """A clock that was set back: files of the home lie in its future."""
    paths = [path for path in (here.home / "audit.jsonl", Place(here.home).file) if path.is_file()]
    ahead_s = max((path.stat().st_mtime - time.time() for path in paths), default=0.0)
    if ahead_s > CLOCK_S:
        told = f"files of this home are {ahead_s / 3600:.1f} h ahead of this machine's clock"
        yield Finding("clock", told, "Set the clock (timedatectl set-ntp true); events of now are refused or misplaced")


def served_models(here: Settings) -> Iterator[Finding]:
    """Each served InferenceService can be read, and each version that it names is whole."""
    for path in sorted(here.home.glob("serving/*.yaml")):
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            version = canary.stable_version(document)
        except (OSError, yaml.YAMLError, UnicodeDecodeError, MillraceError, KeyError, TypeError, ValueError) as error:
            yield Finding("served model", f"{path} cannot be read: {_one_line(error)}", _PROMOTE)
            continue
        folder = here.home / "serving" / "models" / path.stem / str(version)
        try:
            Manifest.lying_in(folder, "model").verify()
        except (MillraceError, OSError) as error:
            yield Finding("served model", _one_line(error), f"Serve another: millrace models, {_PROMOTE}")


def registry(here: Settings) -> Iterator[Finding]:
    """No change is half done, and every version that has an alias has its folder."""
    for intent in sorted(here.home.glob("*.intent.json")):
        model = intent.name.removesuffix(".intent.json")
        told = f"a change of what serves as {model} was begun and not finished"
        yield Finding("registry", told, "It is finished by the next one: millrace promote VERSION")

    database = here.home / "mlflow" / "mlflow.db"
    if here.mlflow_tracking_uri or not database.is_file():
        return
    try:
        with closing(_read_only(database)) as connection:
            query = "SELECT name, alias, version FROM registered_model_aliases"
            found = connection.execute(query).fetchall()
    except sqlite3.Error:
        return  # the check of databases says why
    for name, alias, version in found:
        folder = here.home / "serving" / "models" / str(name) / str(version)
        if not folder.is_dir():
            yield Finding(
                "registry", f"{alias} of {name} is version {version}, whose folder {folder} is gone", _PROMOTE
            )


def databases(here: Settings) -> Iterator[Finding]:
    """SQLite's own quick check of every database of the home."""
    for path in sorted(here.home.rglob("*.db")):
        if not path.is_file() or (here.home / "lake") in path.parents:
            continue
        said = _fault(path)
        if said is not None:
            aside = f"mv '{path}' '{path}.broken'"
            yield Finding(
                "database", f"{path} is damaged: {said}", f"With the servers down (make down): {aside}; {_again(path)}"
            )


def audit(here: Settings) -> Iterator[Finding]:
    path = here.home / "audit.jsonl"
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            yield Finding("audit", f"line {number} of {path} is cut short", "Remove that line; the others are whole")
            return


def online_stores(here: Settings) -> Iterator[Finding]:
    """The generation of state that each served model reads was filled."""
    if here.feature_store is not None:
        return
    for name in names():
        served = here.home / "serving" / f"{load(name).model_name}.yaml"
        generation = _generation(here.home, served) if served.is_file() else None
        if generation is None:
            continue
        try:
            filled = filled_with(repository(here.home, name, generation)) if generation else None
        except sqlite3.Error:
            continue  # the check of databases says why
        if not generation:
            told = f"{name}'s model names no generation of state: an older release promoted it"
            yield Finding(
                "online store", told, f"make run WORKLOAD={name}, with the same data, which trains nothing anew"
            )
        elif filled is None:
            told = f"{name} serves and its online store was never filled: answers are made from defaults"
            yield Finding("online store", told, f"make refresh WORKLOAD={name}")


def _generation(home: Path, served: Path) -> str | None:
    """What the stable version of a served manifest reads; None where that cannot be told: `served_models` says so."""
    try:
        version = canary.stable_version(yaml.safe_load(served.read_text(encoding="utf-8")))
        folder = home / "serving" / "models" / served.stem / str(version)
        return generation_of(Manifest.lying_in(folder, "model"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, MillraceError, KeyError, TypeError, ValueError):
        return None


def processes(here: Settings) -> Iterator[Finding]:
    """Records tell of processes that run; a runtime that is said to run does."""
    where = Place(here.home)
    alive = where.alive()
    records = {path: Record.read(path) for path in sorted(where.running.glob("*.json"))}
    for path, record in records.items():
        if record is None:
            yield Finding("processes", f"{path} cannot be read", f"make down, or rm '{path}'")
        elif not record.runs() and not alive:
            yield Finding("processes", f"{path.stem} (process {record.pid}) is recorded and does not run", _UP)
        elif record.runs() and not alive:
            yield Finding("processes", f"{path.stem} (process {record.pid}) runs and nobody watches it", _UP)
    state = where.read()
    if state is not None and state.state in ("ready", "starting") and not alive and not records:
        yield Finding("processes", "the servers were stopped from outside", "make up", wrong=False)


_PROMOTE: Final = "millrace promote VERSION"
_UP: Final = "make up takes over what runs, make down ends it"


def _again(path: Path) -> str:
    """How what a database holds is made anew, by where it lies."""
    ways = {
        "mlflow": "models are registered again by make run",
        "feast": "then make refresh",
        "prediction_log": "a new one is begun; what was logged is in the broken one",
        "stream": "a new one is begun; events that nobody had taken are in the broken one",
    }
    return next((way for part, way in ways.items() if part in path.parts), "it is made again")


def _fault(path: Path) -> str | None:
    until = time.monotonic() + DATABASE_S
    try:
        with closing(_read_only(path)) as connection:
            connection.set_progress_handler(lambda: int(time.monotonic() > until), 10_000)
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        return None if "interrupted" in str(error) or "locked" in str(error) else str(error)
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if answer == "ok" else str(answer)


def _read_only(path: Path) -> sqlite3.Connection:
    """Without a log beside it nobody writes: then not even a lock is taken, which a read-only disk would refuse."""
    alone = not path.with_name(f"{path.name}-wal").exists()
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}", uri=True, timeout=1)


def _others(home: Path) -> Iterator[Path]:
    """What belongs to another user among the folders that are written to."""
    mine = os.getuid()
    for path in (home, *sorted(home.glob("*")), *sorted(home.glob("lake/*"))):
        if path.lstat().st_uid != mine and mine != 0:
            yield path


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
