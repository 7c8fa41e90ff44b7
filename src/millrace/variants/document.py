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
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from millrace.errors import ConfigError
from millrace.lake.atomic import write_text
from millrace.reading.document import Aggregate, FeatureColumn

VARIABLE: Final = "MILLRACE_VARIANT"
"""The document itself, as JSON, for processes that have no home: what promotion writes into an InferenceService."""
FOLDER: Final = "workloads"
"""Of a home: where its documents lie."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""Part of the names of features, files and tables."""


class Document(BaseModel):
    """All that a variant is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    base: str
    features: dict[Name, FeatureColumn] = Field(default_factory=dict)
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
        return bool(self.features or self.aggregates)


def document_of(content: Mapping[str, Any], where: str) -> Document:
    """What a mapping says; raises ConfigError naming the key, what it got and what was wanted."""
    try:
        made = Document(**content)
    except (TypeError, ValidationError) as error:
        raise ConfigError(f"{where}: {_reasons(error)}") from error
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
