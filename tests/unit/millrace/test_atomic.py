"""Write aside, then rename; one holder of a lock at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from millrace.errors import AlreadyRunning
from millrace.lake.atomic import exclusive, replacing_file, replacing_folder, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_text(path, "old")

    with pytest.raises(OSError, match="disk full"), replacing_file(path) as aside:
        aside.write_text("half")
        raise OSError("disk full")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"), replacing_folder(tmp_path / "out") as aside:
        (aside / "part").write_text("half")
        raise OSError("disk full")

    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_writers_of_one_folder_wins(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "out") as slow:
        (slow / "part").write_text("slow")
        with replacing_folder(tmp_path / "out") as fast:
            (fast / "part").write_text("fast")

    assert (tmp_path / "out" / "part").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = "import pathlib, millrace.lake.atomic as atomic\n"
    code += f"with atomic.exclusive(pathlib.Path({str(lock)!r}), 'a run'): pass"

    with exclusive(lock, "a run"):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    third = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "a run is already running (process " in second.stderr
    assert third.returncode == 0


def test_a_lock_is_not_taken_twice_in_one_process(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", "a run"), pytest.raises(AlreadyRunning), exclusive(tmp_path / "lock", "a run"):
        pass
