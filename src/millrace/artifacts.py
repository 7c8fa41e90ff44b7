"""Manifests: how every artifact names itself, its files and what it came from.

An artifact is a folder in the lake with a `manifest.json`; between pipeline steps only the manifest travels.
`id` is a hash of content, so equal content has an equal id, and an artifact that exists need not be made again.
What is inside each kind is the business of the component that makes it (docs/architecture.md has the table).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from millrace.atomic import sha256_file, sha256_text, write_text
from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound

MANIFEST = "manifest.json"
KINDS = frozenset(
    {
        "snapshot",
        "feature_set",
        "online_store",
        "training_set",
        "model",
        "evaluation",
        "validation",
        "skew_check",
        "promotion",
        "outcome_report",
        "scores",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Identity, place, parents and facts of one artifact."""

    kind: str
    id: str
    """Hash of content, 16 hex digits."""
    uri: str
    """Folder that holds the files; `manifest.json` lies in it."""
    parents: dict[str, str] = field(default_factory=dict)
    """Kind of parent → its id."""
    files: dict[str, str] = field(default_factory=dict)
    """Path relative to `uri` → hex SHA-256."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the kind's table in docs/architecture.md says: row counts, windows, names."""
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When it was first made; not part of the id."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"manifest kind is {self.kind!r}; wanted one of {sorted(KINDS)}")

    @property
    def folder(self) -> Path:
        return Path(self.uri)

    def path(self, name: str) -> Path:
        """Where the file `name` lies; raises NotFound when the manifest does not list it."""
        if name not in self.files:
            raise NotFound(f"{self.kind} {self.id} has no file {name!r}; it has {sorted(self.files)}")
        return self.folder / name

    def table(self, name: str, first_day: date | None = None, last_day: date | None = None) -> list[Path]:
        """Parquet files of a day-partitioned table, oldest first, of the days first_day … last_day (both included).

        `facts["tables"]` maps table → ISO day → path relative to `uri`. Raises NotFound for an unknown table.
        """
        tables = self.facts.get("tables", {})
        if name not in tables:
            raise NotFound(f"{self.kind} {self.id} has no table {name!r}; it has {sorted(tables)}")
        first, last = str(first_day or date.min), str(last_day or date.max)
        return [self.folder / path for day, path in sorted(tables[name].items()) if first <= day <= last]

    def write(self, path: Path | None = None) -> Manifest:
        """Write to `path`, by default into the artifact's own folder; returns self."""
        write_text(path or self.folder / MANIFEST, json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")
        return self

    @classmethod
    def read(cls, path: Path | str, kind: str | None = None) -> Manifest:
        """Read a manifest file, or the one inside a folder, whose place then is its `uri`.

        `kind` guards against handing over the wrong artifact.
        """
        path = Path(path)
        path = path / MANIFEST if path.is_dir() else path
        try:
            manifest = cls(**json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise NotFound(f"no manifest at {path}. Run the step that makes it first.") from error
        except (TypeError, json.JSONDecodeError) as error:
            raise ArtifactCorrupt(f"{path} is not a manifest: {error}") from error
        if kind is not None and manifest.kind != kind:
            raise InvalidInput(f"{path} is a {manifest.kind}; wanted a {kind}")
        # Inside its own folder it names where it lies, so that a home can be moved. A KFP artifact is a copy elsewhere.
        at_home = path.name == MANIFEST and path.absolute().parent.name in {manifest.id, manifest.folder.name}
        return replace(manifest, uri=str(path.parent.absolute())) if at_home else manifest

    def verify(self, paths: Collection[Path] | None = None) -> None:
        """Hash every file, or those among `paths`; raises ArtifactCorrupt naming the first that differs or is gone."""
        for name, wanted in self.files.items():
            path = self.folder / name
            if paths is not None and path not in paths:
                continue
            got = sha256_file(path) if path.is_file() else "missing"
            if got != wanted:
                raise ArtifactCorrupt(
                    f"{path}: sha256 is {got}; manifest {self.id} wants {wanted}. Make the artifact again."
                )


def hash_files(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file below `folder` except the manifest, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): sha256_file(path) for path in paths}


def content_id(content: Mapping[str, Any]) -> str:
    """16 hex digits over a canonical JSON form of `content`."""
    return sha256_text(json.dumps(content, sort_keys=True, default=str))[:16]


def list_manifests(folder: Path, kind: str) -> Iterator[Manifest]:
    """Every manifest of `kind` one level below `folder`, oldest first."""
    paths = folder.glob(f"*/{MANIFEST}")
    manifests = [Manifest.read(path) for path in paths]
    yield from sorted((m for m in manifests if m.kind == kind), key=lambda m: (m.created_at, m.id))
