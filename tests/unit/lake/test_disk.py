"""A disk that is full, or that may not be written to: one sentence, the old file whole, nothing half left."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.errors import DiskFull, InvalidInput, NotWritable
from millrace.lake.atomic import replacing_file, write_text
from millrace.lake.disk import fault, said_by_a_step, writing_to

LIMITED = """
import sys
from pathlib import Path
from millrace.lake.atomic import write_text
try:
    write_text(Path(sys.argv[1]), "x" * 1_000_000)
except Exception as error:
    print(type(error).__name__, error)
"""


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def test_a_file_that_does_not_fit_is_named_with_what_is_free_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write_text(path, "before")

    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            f"import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{LIMITED}",
            str(path),
        ],
        preexec_fn=_small_files,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith(f"DiskFull no space is left to write {path}: ")
    assert "MB are free below" in done.stdout
    assert "start the same command again" in done.stdout
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("database or disk is full"),
        ValueError('IO Error: Could not write file "x": No space left on device'),
    ],
)
def test_libraries_say_it_in_many_ways(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no space is left to write"), replacing_file(tmp_path / "a"):
        raise error

    assert not list(tmp_path.iterdir())


def test_a_place_of_another_user_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotWritable, match="MILLRACE_HOME"), writing_to(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "lake"))


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput), writing_to(tmp_path):
        raise InvalidInput("no space left on device, says a cell")
    with pytest.raises(FileNotFoundError), writing_to(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    assert fault(KeyError("x"), tmp_path) is None


def test_a_step_that_met_a_full_disk_says_so_without_its_traceback(tmp_path: Path) -> None:
    ours = (
        "Traceback (most recent call last):\n  File\nmillrace.errors.DiskFull: no space is left to write /x: 1 of 2 MB"
    )
    theirs = "Traceback (most recent call last):\n  File\nOSError: [Errno 28] No space left on device"

    assert said_by_a_step(ours, tmp_path) == "no space is left to write /x: 1 of 2 MB"
    assert said_by_a_step(theirs, tmp_path).startswith(f"no space is left to write {tmp_path}")
    assert said_by_a_step("Traceback\nKeyError: 1", tmp_path) == "Traceback\nKeyError: 1"
