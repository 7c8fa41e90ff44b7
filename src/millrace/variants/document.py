"""The document of a variant: its name, the workload that it begins from, and the columns that are features in it.

A home keeps the newest document of each name, and every one that there was: a model that serves goes on with the
columns that it was trained on. Values alone; what follows from a document is made in `variant.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from millrace.errors import ConfigError
from millrace.lake.atomic import write_text

VARIABLE: Final = "MILLRACE_VARIANT"
"""The document itself, as JSON, for processes that have no home: what promotion writes into an InferenceService."""
FOLDER: Final = "workloads"
"""Of a home: where its documents lie."""
HOURS: Final = (1, 90 * 24)
"""Shortest and longest window of an aggregate, in hours."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""Part of the names of features, files and tables."""


class Part(BaseModel):
    """Base of what a document says: checked, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(Part):
    """A column of the events that the model reads."""

    column: str = ""
    """What the source calls it; empty: by the feature's name."""
    kind: Literal["numeric", "categorical", "boolean", "time"]
    of: str = ""
    """Entity that it belongs to: where an event says nothing, the last that was said of the entity holds."""


class Aggregate(Part):
    """What a numeric column came to in a window of an entity's past."""

    of: str
    """The feature that is aggregated."""
    over: str
    """The entity."""
    stat: Literal["mean", "count", "sum", "max", "last"]
    window: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,3}[hd]$")]
    """Hours or days, such as 1h or 90d."""

    @property
    def hours(self) -> int:
        """Length of the window."""
        return int(self.window[:-1]) * (24 if self.window.endswith("d") else 1)


class Document(Part):
    """All that a variant is."""

    name: Name
    base: str
    features: dict[Name, Column] = Field(default_factory=dict)
    aggregates: dict[Name, Aggregate] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """The document as JSON, equal for equal documents."""
        return json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True)

    @property
    def digest(self) -> str:
        """8 hex digits that are others where the features mean something else."""
        told = {"features": self.features, "aggregates": self.aggregates}
        plain = {part: {name: one.model_dump() for name, one in of.items()} for part, of in told.items()}  # type: ignore[attr-defined]
        return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def has_own(self) -> bool:
        """Whether the model reads more than the base's does."""
        return bool(self.features)


def document_of(content: Mapping[str, Any], where: str) -> Document:
    """What a mapping says; raises ConfigError naming the key, what it got and what was wanted."""
    try:
        made = Document(**content)
    except (TypeError, ValidationError) as error:
        raise ConfigError(f"{where}: {_reasons(error)}") from error

    for name, aggregate in made.aggregates.items():
        key = f"{where}: aggregates.{name}"
        column = made.features.get(aggregate.of)
        if column is None or column.kind != "numeric":
            numeric = ", ".join(one for one, of in made.features.items() if of.kind == "numeric") or "none yet"
            raise ConfigError(f"{key}.of is {aggregate.of!r}; wanted a numeric one of the features: {numeric}")
        if not HOURS[0] <= aggregate.hours <= HOURS[1]:
            raise ConfigError(f"{key}.window is {aggregate.window!r}; wanted 1h to 90d")
    return made


def read(text: str, where: str) -> Document:
    """The document in a text of JSON; raises ConfigError."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON: {error}. Declare it again: make run NAME=… MAP=….") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} is {content!r}; wanted a mapping with name and base")
    return document_of(content, where)


def home() -> Path:
    """The home that the environment names, as `millrace.settings` reads it."""
    return Path(os.environ.get("MILLRACE_HOME", ".millrace")).expanduser().absolute()


def path_of(home: Path, name: str) -> Path:
    """The newest document of a name."""
    return home / FOLDER / f"{name}.json"


def kept_path(home: Path, document: Document) -> Path:
    """Where this very document stays."""
    return home / FOLDER / document.name / f"{document.digest}.json"


def found(home: Path, name: str, digest: str = "") -> Document | None:
    """The document of a name, or the one of that digest; None where there is none. The environment's goes first.

    Raises ConfigError for one that is not whole.
    """
    given = os.environ.get(VARIABLE, "")
    if given:
        document = _read(given, VARIABLE)
        if document.name == name and digest in ("", document.digest):
            return document

    if not re.fullmatch(r"\w+", name):
        return None
    path = home / FOLDER / name / f"{digest}.json" if digest else path_of(home, name)
    try:
        return _read(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def names_in(home: Path) -> list[str]:
    """Names that have a document: the environment's, and those in the home."""
    given = os.environ.get(VARIABLE, "")
    held = [path.stem for path in (home / FOLDER).glob("*.json") if not path.name.startswith(".")]
    return sorted({*held, *([_read(given, VARIABLE).name] if given else [])})


def keep(home: Path, document: Document) -> None:
    """Make this the newest document of its name; those before it stay."""
    text = json.dumps(json.loads(document.text), indent=2) + "\n"
    for path in (kept_path(home, document), path_of(home, document.name)):
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)


_READ: dict[tuple[str, str], Document] = {}


def _read(text: str, where: str) -> Document:
    """`read`, once for the same text: it is asked for with every artifact."""
    if (where, text) not in _READ:
        _READ[where, text] = read(text, where)
    return _READ[where, text]


def _reasons(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    lines = [f"{'.'.join(map(str, item['loc']))} is {item['input']!r}: {item['msg']}" for item in error.errors()]
    return "; ".join(lines)
