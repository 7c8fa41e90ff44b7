"""Write aside, then rename; hash what was written; one holder of a lock at a time. Local file systems only."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from millrace.errors import AlreadyRunning
from millrace.lake.disk import writing_to


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; renamed over it on success, removed on any error."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    aside = Path(name)

    try:
        with writing_to(path):
            yield aside
            _sync(aside)
            aside.chmod(0o644)
            aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` to fill; it takes the name on success, and is removed on any error.

    A folder already at `path` is left as it is when it appears meanwhile: folders here are content-addressed,
    so whoever came first wrote the same thing.
    """
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))

    try:
        with writing_to(path):
            yield aside
            aside.chmod(0o755)
            if not path.exists():
                aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never half."""
    with replacing_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def replace_link(link: Path, target: Path) -> None:
    """Make `link` lead to `target`, whatever it led to before, without a moment in between."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(link)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(*parts: str) -> str:
    """Hex SHA-256 of strings, each closed by a NUL so that no two lists of parts collide."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file at `path`; raises AlreadyRunning when another process has it. Freed when the process ends."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _holder(stream)
            raise AlreadyRunning(
                f"{what} is already running (process {holder}, lock {path}). Wait for it, or stop that process."
            ) from error

        _sign(stream)
        yield


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, when its turn comes. Freed when the process ends."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with path.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        _sign(stream)
        yield


def _holder(stream: TextIO) -> str:
    stream.seek(0)
    return stream.read().strip() or "unknown"


def _sign(stream: TextIO) -> None:
    """Write which process holds the lock."""
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
