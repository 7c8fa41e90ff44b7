"""What a full or read-only disk means, in a sentence: which file, how much is free, what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from millrace.errors import DiskFull, MillraceError, NotWritable

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CLOSED: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_SAID: Final = re.compile(r"no space left on device|database or disk is full|disk quota exceeded", re.IGNORECASE)
"""How libraries say it whose errors carry no number."""
_OURS: Final = re.compile(r"millrace\.errors\.(?:DiskFull|NotWritable): (.*)")


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn a fault of the disk below `path` into DiskFull or NotWritable; any other error passes."""
    try:
        yield
    except Exception as error:
        told = fault(error, path)
        if told is None:
            raise
        raise told from error


def fault(error: BaseException, path: Path) -> MillraceError | None:
    """The error of ours that says what ails the disk; None for any other error, or one that says so already."""
    if isinstance(error, MillraceError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    named = Path(os.fsdecode(error.filename)) if isinstance(error, OSError) and error.filename else path

    if number in _FULL or _SAID.search(str(error)):
        return DiskFull(
            f"no space is left to write {named}: {_free(named)}. Nothing that was there is lost. Free some space (what "
            "may be removed: docs/runbook.md) and start the same command again; it goes on where it was."
        )
    if number in _CLOSED:
        return NotWritable(
            f"{named} cannot be written: {os.strerror(number).lower()}. Make it yours (chown, chmod, or mount it "
            "writable), or name another folder with MILLRACE_HOME."
        )
    return None


def said_by_a_step(detail: str, home: Path) -> str:
    """What a step printed at its end; where the disk was to blame, the one sentence that says so."""
    last = detail.rpartition("\n")[2]
    ours = _OURS.match(last)
    if ours:
        return ours[1]
    told = fault(OSError(errno.ENOSPC, last), home) if _SAID.search(last) else None
    return detail if told is None else str(told)


def _free(path: Path) -> str:
    """How much the file system has below the nearest folder that is there."""
    folder = next(one for one in (path.absolute(), *path.absolute().parents) if one.is_dir())
    usage = shutil.disk_usage(folder)
    return f"{usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB are free below {folder}"
