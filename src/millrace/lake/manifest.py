"""Manifests: how every artifact names itself, its files and what it came from.

An artifact is a folder in the lake with a `manifest.json`; between pipeline steps only the manifest travels.
`id` is a hash of content, so equal content has an equal id, and an artifact that exists need not be made again.
What is inside each kind is the business of the component that makes it (docs/architecture.md has the table).
Where the lake has a remote (`millrace.lake.remote`), files that are not here are fetched when they are asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound
from millrace.lake import MANIFEST as MANIFEST
from millrace.lake.atomic import sha256_file, sha256_text, write_text

if TYPE_CHECKING:
    from millrace.lake.remote import Remote

FOLDERS = {
    "promotion": "promotions",
    "evaluation": "evaluations",
    "skew_check": "skew_checks",
    "validation": "validations",
    "model": "models",
    "training_set": "training_sets",
    "online_store": "online",
    "feature_set": "feature_sets",
    "snapshot": "snapshots",
    "scores": "scores",
    "outcome_report": "outcome_reports",
}
"""Kind of artifact → its folder in the lake."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Identity, place, parents and facts of one artifact."""

    kind: str
    id: str
    """Hash of content, 16 hex digits."""
    workload: str
    """Name of the workload that the artifact is of (`millrace.installed.load`)."""
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
        if self.kind not in FOLDERS:
            raise InvalidInput(f"manifest kind is {self.kind!r}; wanted one of {sorted(FOLDERS)}")

    def fetch(self) -> Path:
        """The folder with the artifact's own files; those that only the lake's remote has are downloaded first."""
        if (held := remote()) is not None:
            held.complete(self)
        return Path(self.uri)

    def path(self, name: str) -> Path:
        """Where the file `name` lies; raises NotFound when the manifest does not list it."""
        if name not in self.files:
            raise NotFound(f"{self.kind} {self.id} has no file {name!r}; it has {sorted(self.files)}")
        return self.paths([name])[0]

    def paths(self, names: Collection[str]) -> list[Path]:
        """Where files lie, each relative to `uri`; fetched all at once where only the lake's remote has them."""
        if (held := remote()) is not None:
            if any(not name.startswith("..") for name in names):
                held.complete(self)
            held.fetch({Path(self.uri) / name: self.files[name] for name in names if name in self.files})
        return [Path(self.uri) / name for name in names]

    def table(self, name: str, first_day: date | None = None, last_day: date | None = None) -> list[Path]:
        """Parquet files of a day-partitioned table, oldest first, of the days first_day … last_day (both included).

        `facts["tables"]` maps table → ISO day → path relative to `uri`. Raises NotFound for an unknown table.
        """
        tables = self.facts.get("tables", {})
        if name not in tables:
            raise NotFound(f"{self.kind} {self.id} has no table {name!r}; it has {sorted(tables)}")
        first, last = str(first_day or date.min), str(last_day or date.max)
        return self.paths([path for day, path in sorted(tables[name].items()) if first <= day <= last])

    def as_parents(self) -> dict[str, str]:
        """The parents of what is made from this artifact: all that it came from, and itself."""
        return self.parents | {self.kind: self.id}

    def at(self, uri: str) -> Manifest:
        """The same artifact in another folder."""
        return replace(self, uri=uri)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    def write(self, path: Path | None = None) -> Manifest:
        """Write to `path`, by default into the artifact's own folder; returns self."""
        write_text(path or Path(self.uri) / MANIFEST, self.to_json())
        return self

    def hand_over(self, path: Path) -> Manifest:
        """Write to `path`, a step's output; the lake's remote, where there is one, has all of it by then."""
        if (held := remote()) is not None:
            held.push(self)
        return self.write(path)

    @classmethod
    def read(cls, path: Path | str, kind: str | None = None) -> Manifest:
        """Read a manifest file, or the one of a folder, whose place then is its `uri`; here or in the lake's remote.

        `kind` guards against handing over the wrong artifact.
        """
        path = Path(path)
        path = path / MANIFEST if path.is_dir() else path

        try:
            manifest = _parse(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError as error:
            found = _from_remote(path.parent if path.name == MANIFEST else path)
            if found is None:
                raise NotFound(f"no manifest at {path}. Run the step that makes it first.") from error
            manifest = found

        if kind is not None and manifest.kind != kind:
            raise InvalidInput(f"{path} is a {manifest.kind}; wanted a {kind}")

        # Inside its own folder it names where it lies, so that a home can be moved. A KFP artifact is a copy elsewhere.
        at_home = path.name == MANIFEST and path.absolute().parent.name in {manifest.id, Path(manifest.uri).name}
        return replace(manifest, uri=str(path.parent.absolute())) if at_home else _in_this_lake(manifest)

    @classmethod
    def lying_in(cls, folder: Path, kind: str) -> Manifest:
        """The artifact that was copied into a folder outside the lake: its place is that folder."""
        return cls.read(folder, kind).at(str(folder))

    @classmethod
    def find(cls, lake: Path, kind: str, identity: str) -> Manifest | None:
        """The artifact called so, here or in the lake's remote; None when it has yet to be made."""
        try:
            return cls.read(place(lake, kind, identity) / MANIFEST, kind)
        except NotFound:
            return None

    def verify(self, paths: Collection[Path] | None = None) -> None:
        """Hash every file, or those among `paths`; raises ArtifactCorrupt naming the first that differs or is gone."""
        names = [name for name in self.files if paths is None or Path(self.uri) / name in paths]
        for name, path in zip(names, self.paths(names), strict=True):
            wanted = self.files[name]
            got = sha256_file(path) if path.is_file() else "missing"
            if got != wanted:
                raise ArtifactCorrupt(
                    f"{path}: sha256 is {got}; manifest {self.id} wants {wanted}. Make the artifact again."
                )


def remote() -> Remote | None:
    """The lake's copy in a bucket; None, for the price of a look at the environment, where none is set."""
    if not os.environ.get("MILLRACE_LAKE_REMOTE"):
        return None
    from millrace.lake.remote import Remote
    from millrace.settings import settings

    here = settings()
    return Remote.open(here.lake_remote, here.lake)


def remote_hashes(paths: Iterable[Path]) -> dict[Path, str]:
    """Those of `paths` that are not here but in the lake's remote, with their SHA-256."""
    held = remote()
    missing = [path for path in paths if not path.is_file()] if held is not None else []
    return held.hashes(missing) if held is not None and missing else {}


def fetch(files: Mapping[Path, str]) -> None:
    """Fetches those of `files` (path → SHA-256) that are not here; does nothing where the lake has no remote."""
    if (held := remote()) is not None:
        held.fetch(files)


def place(lake: Path, kind: str, identity: str) -> Path:
    """The folder of an artifact in a lake."""
    return lake.absolute() / FOLDERS[kind] / identity


def hash_files(folder: Path) -> dict[str, str]:
    """Relative path → SHA-256 of every file below `folder` except the manifest, sorted by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {str(path.relative_to(folder)): sha256_file(path) for path in paths}


def content_id(content: Mapping[str, Any]) -> str:
    """16 hex digits over a canonical JSON form of `content`."""
    return sha256_text(json.dumps(content, sort_keys=True, default=str))[:16]


def list_manifests(folder: Path, kind: str) -> Iterator[Manifest]:
    """Every manifest of `kind` one level below `folder`, here or in the lake's remote, oldest first."""
    paths = folder.glob(f"[!.]*/{MANIFEST}")  # a name with a dot: what a killed step was writing
    manifests = {path.parent.name: Manifest.read(path) for path in paths}
    if (held := remote()) is not None:
        for name, text in held.manifests(folder, set(manifests)).items():
            manifests[name] = replace(_parse(text, f"{held.uri}/…/{name}"), uri=str((folder / name).absolute()))
    found = (manifest for manifest in manifests.values() if manifest.kind == kind)
    yield from sorted(found, key=lambda m: (m.created_at, m.id))


def _parse(text: str, where: str) -> Manifest:
    try:
        fields = json.loads(text)
        if {"kind", "id", "uri"} <= set(fields) and "workload" not in fields:
            raise ArtifactCorrupt(
                f"{where} names no workload: an older release made it. "
                "Set MILLRACE_HOME to an empty folder and run the pipeline again."
            )
        return Manifest(**fields)
    except (TypeError, json.JSONDecodeError) as error:
        raise ArtifactCorrupt(f"{where} is not a manifest: {error}") from error


def _from_remote(folder: Path) -> Manifest | None:
    """The manifest of a folder of the lake that is not here."""
    held = remote()
    text = held.manifest(folder) if held is not None else None
    return None if held is None or text is None else replace(_parse(text, f"{held.uri}: {folder}"), uri=str(folder))


def _in_this_lake(manifest: Manifest) -> Manifest:
    """The manifest of a step in another home, as it is in this one, whose lake is a cache of the same remote."""
    held = remote()
    if held is None:
        return manifest
    folder = held.lake / FOLDERS[manifest.kind] / manifest.id
    return Manifest.read(folder) if (folder / MANIFEST).is_file() else replace(manifest, uri=str(folder))
