"""The protocol of every step: find the result, lock, write aside, hash, write the manifest last, rename.

A verb says what it makes (`Step`) and returns that where it is `found`. Otherwise it fills a draft, and the artifact
appears whole or not at all; what only lists files that other artifacts share, such as a feature set, it `record`s.
The id is the verb's own affair: a hash of all that decides the result (`content_id`, `provenance.code_of`). What is
written outside the lake, a registered version or an edge package, is made of the parts in `millrace.lake.atomic`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millrace.lake.atomic import exclusive, replacing_folder
from millrace.lake.manifest import MANIFEST, Manifest, hash_files, place


@dataclass(slots=True)
class Draft:
    """An artifact that is being written; it takes its place when the block ends without an error."""

    folder: Path
    """Where its files are put."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What its manifest will say, to be filled while writing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One artifact to be made: what it is called, where it will lie, and what it comes from."""

    kind: str
    id: str
    workload: str
    lake: Path
    parents: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return place(self.lake, self.kind, self.id)

    def found(self) -> Manifest | None:
        """The finished artifact, here or in the lake's remote; None when it has yet to be made."""
        return Manifest.find(self.lake, self.kind, self.id)

    def made(self) -> Manifest:
        """The artifact after it was written; raises NotFound before."""
        return Manifest.read(self.folder, self.kind)

    def alone(self, doing: str) -> AbstractContextManager[None]:
        """Hold the artifact's lock; raises AlreadyRunning where another process does. Freed when the process ends.

        For work that is long or resumes. A step without it may run twice at once, and then the first to finish wins.
        """
        return exclusive(self.folder.with_name(f".{self.id}.lock"), f"{doing} {self.id}")

    @contextmanager
    def writing(self) -> Iterator[Draft]:
        """Yield a draft to fill; at the end its files are hashed, its manifest is written and the folder is renamed.

        After an error nothing is left of it. Where another process was first, the artifact stays as that left it.
        """
        with replacing_folder(self.folder) as aside:
            draft = Draft(aside)
            yield draft
            self._manifest(hash_files(aside), draft.facts).write(aside / MANIFEST)

    def record(self, files: Mapping[str, str], facts: Mapping[str, Any]) -> Manifest:
        """Write only a manifest, in place of one that is there: of `files` elsewhere in the lake, path → SHA-256."""
        return self._manifest(files, facts).write()

    def _manifest(self, files: Mapping[str, str], facts: Mapping[str, Any]) -> Manifest:
        return Manifest(
            kind=self.kind,
            id=self.id,
            workload=self.workload,
            uri=str(self.folder),
            parents=dict(self.parents),
            files=dict(files),
            facts=dict(facts),
        )
