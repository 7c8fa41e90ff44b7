"""The lake in a bucket: what a step hands over is pushed there, what a step reads is fetched from there.

`MILLRACE_LAKE_REMOTE` names it, and the lake's folder is then a cache of it. The name of an object holds the hash of
its bytes (`features.<sha256>.npy`), so two writers never mix and a wrong object is known for one; a manifest comes
last, so that half an artifact is never seen. `millrace.lake.manifest` is what asks; docs/adr/0020 says why so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from millrace.errors import ArtifactCorrupt, ConfigError, MillraceError, NotFound, Unavailable
from millrace.lake import MANIFEST
from millrace.lake.atomic import replacing_file, replacing_folder, sha256_file, write_text
from millrace.observe.progress import log, track
from millrace.uris import redacted

VARIABLE: Final = "MILLRACE_LAKE_REMOTE"
AT_ONCE: Final = 16
"""Transfers: a day's partition is small, and most of its time is waiting."""

_OBJECT: Final = re.compile(r"(?P<stem>.+)\.(?P<digest>[0-9a-f]{64})(?P<suffix>\.[^./]+)?")
_REFUSALS: Final = frozenset({"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError"})
"""Refusals of botocore, which is no dependency: another protocol has other words for a PermissionError."""


class Listed(Protocol):
    """An artifact as the bucket sees it (`millrace.lake.manifest.Manifest`): a folder, and the hashes of its files."""

    @property
    def kind(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def uri(self) -> str: ...

    @property
    def files(self) -> Mapping[str, str]: ...

    def at(self, uri: str) -> Listed: ...

    def to_json(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Remote:
    """One lake and the bucket that holds it."""

    fs: Any
    root: str
    """Bucket and prefix, as `fs` knows them."""
    uri: str
    lake: Path

    @classmethod
    def open(cls, uri: str, lake: Path) -> Remote:
        """Asks nothing of the store yet. Raises ConfigError for what is no object store's URI, or holds a secret."""
        parts = urlsplit(uri)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f"{VARIABLE} is {redacted(uri)} with a user, query or fragment, which is not shown; "
                "wanted none: credentials come from the environment (AWS_ACCESS_KEY_ID, or the pod's role)."
            )
        if not parts.netloc or parts.scheme in ("file", "local"):
            raise ConfigError(f"{VARIABLE} is {uri!r}; wanted an object store, such as s3://bucket/prefix")

        try:
            fs, root = url_to_fs(uri.rstrip("/"))
        except ImportError as error:
            raise ConfigError(
                f"{VARIABLE} is {uri}: {error}. Install what it names, such as millrace[cluster]."
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"{VARIABLE} is {uri}: {error}; wanted a protocol that fsspec knows, such as s3"
            ) from error
        return cls(fs, root, uri.rstrip("/"), lake)

    def push(self, manifest: Listed) -> None:
        """Every file that the manifest names and the bucket lacks, then the manifest.

        A push that was killed is finished by the next. Raises NotFound for a file that is nowhere, ArtifactCorrupt for
        one that is not what the manifest says, Unavailable.
        """
        folder = self._known_place(Path(manifest.uri))
        files = {Path(manifest.uri) / name: digest for name, digest in manifest.files.items()}
        objects = {path: _object(self._known_place(path), digest) for path, digest in files.items()}
        there = self._listed(objects.values())
        missing = [path for path in files if objects[path] not in there]

        for path in missing:
            if not path.is_file():
                raise NotFound(f"{path} is neither there nor in {self.uri}. Make {manifest.kind} {manifest.id} again.")
        for path in files.keys() - set(missing):
            if path.is_file() and path.stat().st_size != there[objects[path]]:
                raise ArtifactCorrupt(
                    f"{self.uri}/{objects[path]} has {there[objects[path]]} bytes; {path} has {path.stat().st_size}. "
                    "Remove whichever is wrong and run the step again."
                )

        self._each(lambda path: self._upload(path, files[path], objects[path]), missing, "pushing")
        if self.manifest(Path(manifest.uri)) is None:
            text = manifest.at(f"{self.uri}/{folder}").to_json()
            with self._asking("write", f"{folder}/{MANIFEST}"):
                self.fs.pipe_file(f"{self.root}/{folder}/{MANIFEST}", text.encode())
            log("pushed", kind=manifest.kind, id=manifest.id, files=len(missing), to=self.uri)

    def manifest(self, folder: Path) -> str | None:
        """The text of the manifest that belongs into `folder`; None where there is none, or the lake is another."""
        place = self.place(folder)
        return None if place is None else self._text(f"{place}/{MANIFEST}")

    def manifests(self, folder: Path, but: set[str]) -> dict[str, str]:
        """Name of each folder below `folder`, except `but`, that has a manifest in the bucket → its text."""
        place = self.place(folder)
        if place is None:
            return {}

        with self._asking("list", place):
            self.fs.invalidate_cache()
            try:
                found = self.fs.ls(f"{self.root}/{place}", detail=False)
            except FileNotFoundError as error:
                self._require_bucket(error)
                found = []

        # Day partitions of scores lie beside the folders of the runs that name them.
        names = [name for name in (PurePosixPath(path).name for path in found) if "=" not in name and name not in but]
        texts = self._each(lambda name: self._text(f"{place}/{name}/{MANIFEST}"), names, "reading manifests")
        return {name: text for name, text in zip(names, texts, strict=True) if text is not None}

    def complete(self, manifest: Listed) -> None:
        """Fetch the artifact's own files where some are not here; its folder appears whole, manifest and all."""
        folder = Path(manifest.uri)
        own = {name: digest for name, digest in manifest.files.items() if not name.startswith("..")}
        place = self.place(folder)
        if place is None or all((folder / name).is_file() for name in own):
            return

        if folder.exists():
            self.fetch({folder / name: digest for name, digest in own.items()})
            return

        with replacing_folder(folder) as aside:
            self._each(
                lambda name: self._download(_object(f"{place}/{name}", own[name]), own[name], aside / name),
                own,
                "fetching",
            )
            write_text(aside / MANIFEST, manifest.to_json())
        log("fetched", kind=manifest.kind, id=manifest.id, files=len(own))

    def fetch(self, files: Mapping[Path, str]) -> None:
        """Fetches those of `files` (path → SHA-256) that are not here; each is downloaded aside, hashed, and renamed.

        Raises NotFound, ArtifactCorrupt when an object is not what its name says, Unavailable.
        """
        missing = [path for path in files if not path.is_file() and self.place(path) is not None]
        self._each(lambda path: self._fetch(path, files[path]), missing, "fetching")
        if missing:
            log("fetched", files=len(missing))

    def hashes(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Those of `paths` that the bucket has, with the SHA-256 of what it has."""
        wanted = {place: path for path in paths if (place := self.place(path)) is not None}
        found: dict[Path, str] = {}
        for name in self._listed(wanted):
            match = _OBJECT.fullmatch(name)
            if match is not None and (path := wanted.get(match["stem"] + (match["suffix"] or ""))) is not None:
                found[path] = match["digest"]
        return found

    def fetch_state(self, path: Path) -> None:
        """A file that changes, as the bucket has it, in place of what is here; left alone where the bucket has none."""
        place = self.place(path)
        if place is not None and (text := self._text(place)) is not None:
            write_text(path, text)

    def push_state(self, path: Path) -> None:
        """A file that changes: whoever writes last is believed, so that it must be only worth a hint."""
        if (place := self.place(path)) is not None:
            with self._asking("write", place):
                self.fs.pipe_file(f"{self.root}/{place}", path.read_bytes())

    def place(self, path: Path) -> str | None:
        """Where `path` is in the lake, and so below the root; None where it is not in this lake."""
        name = Path(os.path.normpath(path.absolute()))  # by its name: links inside a lake are its owner's business
        for lake in (self.lake, self.lake.resolve()):
            if name.is_relative_to(lake):
                return name.relative_to(lake).as_posix()
        return None

    def _known_place(self, path: Path) -> str:
        place = self.place(path)
        if place is None:
            raise ConfigError(
                f"{path} is outside the lake {self.lake}, of which {self.uri} is the remote. "
                f"Set MILLRACE_HOME to the home of that file, or unset {VARIABLE}."
            )
        return place

    def _listed(self, places: Iterable[str]) -> dict[str, int]:
        """Objects below the folders that hold `places`, as place → bytes; one listing for each table or artifact."""
        groups: dict[str, list[str]] = {}
        for place in places:
            groups.setdefault(place.partition("/")[0], []).append(str(PurePosixPath(place).parent))

        found: dict[str, int] = {}
        for folders in groups.values():
            top = os.path.commonpath(folders)
            with self._asking("list", top):
                self.fs.invalidate_cache()  # stores remember listings for as long as the process lives
                entries = self.fs.find(f"{self.root}/{top}", detail=True)
            found |= {name[len(self.root) + 1 :]: int(entry["size"]) for name, entry in entries.items()}
        return found

    def _text(self, place: str) -> str | None:
        with self._asking("read", place):
            try:
                content: bytes = self.fs.cat_file(f"{self.root}/{place}")
            except FileNotFoundError as error:
                self._require_bucket(error)
                return None
        return content.decode()

    def _upload(self, path: Path, digest: str, name: str) -> None:
        got = sha256_file(path)
        if got != digest:
            raise ArtifactCorrupt(f"{path}: sha256 is {got}; its manifest wants {digest}. Make the artifact again.")
        with self._asking("write", name):
            self.fs.put_file(str(path), f"{self.root}/{name}")

    def _fetch(self, path: Path, digest: str) -> None:
        with replacing_file(path) as aside:
            self._download(_object(self._known_place(path), digest), digest, aside)

    def _download(self, name: str, digest: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._asking("read", name):
            self.fs.get_file(f"{self.root}/{name}", str(target))
        got = sha256_file(target)
        if got != digest:
            raise ArtifactCorrupt(
                f"{self.uri}/{name}: sha256 is {got}; wanted {digest}. "
                "Remove that object; then run the step that made it, where its files still are or with an empty lake."
            )

    def _each(self, work: Callable[[Any], Any], items: Iterable[Any], label: str) -> list[Any]:
        """`work` of each item, several at a time; the first error ends it."""
        items = list(items)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(track(pool.map(work, items), f"{label} ({self.uri})", total=len(items)))

    def _require_bucket(self, error: FileNotFoundError) -> None:
        """An object that is not there is an answer; a bucket that is not there is a wrong setting."""
        response = getattr(error.__cause__, "response", {})
        if response.get("Error", {}).get("Code") == "NoSuchBucket":
            raise error

    @contextmanager
    def _asking(self, what: str, place: str) -> Iterator[None]:
        """The store's errors as ours; what it says of credentials or signed requests is not repeated."""
        try:
            yield
        except MillraceError:
            raise
        except Exception as error:  # every store has its own
            if isinstance(error, OSError) and error.filename is not None:
                raise  # of this machine's disk
            raise _ours(error, f"cannot {what} {self.uri}/{place}") from None


def _ours(error: Exception, failed: str) -> MillraceError:
    said = f"{type(error).__name__}: {redacted(str(error))}"
    if isinstance(error, FileNotFoundError):
        return NotFound(
            f"{failed}: {said}. Wanted an existing bucket and every object that a manifest names: check {VARIABLE}; "
            "if the object is gone, run the step that made it where its files still are."
        )
    if isinstance(error, PermissionError) or type(error).__name__ in _REFUSALS:
        return Unavailable(
            f"{failed}: refused ({said}). Wanted credentials that may list, read and write there: "
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role of the pod."
        )
    return Unavailable(f"{failed}: {said}. Wanted a store that answers: check AWS_ENDPOINT_URL, and try again.")


def _object(place: str, digest: str) -> str:
    """`a/b.c` → `a/b.<digest>.c`."""
    path = PurePosixPath(place)
    return str(path.with_name(f"{path.stem}.{digest}{path.suffix}"))
