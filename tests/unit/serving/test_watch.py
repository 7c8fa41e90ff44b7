"""Who starts a supervisor again, which processes a home has, and which ports they keep."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from envoy_plane import wait

from serving.local.ports import Ports, free_port, taken
from serving.local.records import Record, command_line, end_all
from serving.local.state import Place
from serving.local.watch import Watch

ROOT = Path(__file__).parents[3]
PROGRAM = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); "


@pytest.fixture
def place(tmp_path) -> Place:
    found = Place(tmp_path)
    found.folder.mkdir()
    return found


class Watching:
    """A watch over a small program in the place of a supervisor."""

    def __init__(self, place: Place, does: str) -> None:
        self.started = place.home / "started"
        words = [sys.executable, "-c", PROGRAM + does, str(self.started)]
        watch = f"Watch(Path({str(place.lock)!r}), {words!r})"
        script = f"from pathlib import Path; from serving.local.watch import Watch; raise SystemExit({watch}.run())"
        self.process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self.started.read_text().split()] if self.started.is_file() else []


@pytest.fixture
def watching(place) -> Iterator[object]:
    made: list[Watching] = []

    def begin(does: str) -> Watching:
        made.append(Watching(place, does))
        return made[-1]

    yield begin
    for watch in made:
        watch.process.kill()
        watch.process.wait()


def test_a_killed_supervisor_is_started_again_and_one_that_is_asked_to_end_is_not(place, watching):
    watch = watching("time.sleep(60)")
    wait("the first", lambda: len(watch.pids) == 1)
    os.kill(watch.pids[0], signal.SIGKILL)
    wait("the second", lambda: len(watch.pids) == 2)
    wait("both ids", lambda: place.pids() == [watch.process.pid, watch.pids[1]])

    watch.process.terminate()

    watch.process.wait(10)
    assert len(watch.pids) == 2
    assert not place.alive()


@pytest.mark.parametrize("status", [0, 3])
def test_a_supervisor_that_ends_by_itself_is_left_alone(place, watching, status):
    watch = watching(f"sys.exit({status})")

    assert watch.process.wait(10) == status
    assert len(watch.pids) == 1


def test_a_supervisor_that_is_being_started_when_the_watch_is_asked_to_end_ends_too(place):
    """The signal comes when the process exists and nobody has its id yet."""
    script = f"""
import os, signal, subprocess, sys
from pathlib import Path
from serving.local import watch

class Popen(subprocess.Popen):
    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        os.kill(os.getpid(), signal.SIGTERM)

watch.subprocess.Popen = Popen
words = [sys.executable, "-c", "import time; time.sleep(60)"]
raise SystemExit(watch.Watch(Path({str(place.lock)!r}), words).run())
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        process.wait(10)

    assert not place.alive()


def test_one_that_fails_again_and_again_is_given_up(place, watching):
    watch = watching("sys.exit(1)")

    assert watch.process.wait(20) == 1
    assert len(watch.pids) == 4


def test_the_lock_is_held_as_long_as_one_of_the_two_lives(place, watching):
    watch = watching("time.sleep(60)")
    wait("the first", lambda: watch.pids and len(place.pids()) == 2)

    watch.process.kill()
    watch.process.wait()
    alone = place.pids()
    with pytest.raises(BlockingIOError):
        Watch(place.lock, [])
    os.kill(watch.pids[0], signal.SIGKILL)
    wait("its end", lambda: not place.alive())

    assert alone == watch.pids


def test_a_record_knows_its_process_from_another_with_the_same_id(tmp_path):
    words = [sys.executable, "-c", "import time; time.sleep(60)", "--http_port=1"]
    with subprocess.Popen(words) as process:
        record = Record(process.pid, words, "e", 1, 2, "now")
        record.write(tmp_path / "a.json")
        other = Record(process.pid, [*words, "--other"], "e", 1, 2, "now")
        other.write(tmp_path / "b.json")
        wait("its program", lambda: record.runs())

        assert Record.read(tmp_path / "a.json") == record
        assert not other.runs()
        kept = end_all(tmp_path, but=["a"])
        still = process.poll()
        ended = end_all(tmp_path)

    assert (kept, still, ended) == ([], None, [process.pid])
    assert command_line(process.pid) == ""
    assert list(tmp_path.iterdir()) == []
    assert Record.read(tmp_path / "a.json") is None


def test_a_name_keeps_its_port_unless_somebody_took_it(tmp_path):
    ports = Ports(tmp_path / "ports.json", held=False)
    first = ports.take("m")
    among = ports.take("gateway", range(free_port(), 32_000))

    again = Ports(tmp_path / "ports.json", held=False)

    assert (again.take("m"), again.take("gateway")) == (first, among)
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", first))
        taker.listen()
        assert taken(first)
        assert Ports(tmp_path / "ports.json", held=True).take("m") == first
        assert again.take("m") != first
    assert again.take_another("gateway", range(among, among + 50)) != among


def test_no_two_names_have_one_port(tmp_path, monkeypatch):
    """Also while nobody listens on them yet."""
    first = free_port()
    monkeypatch.setattr("serving.local.ports.RANGE", [first, free_port(but=[first])])
    ports = Ports(tmp_path / "ports.json", held=True)

    assert ports.take("m") != ports.take("m-predictor")
