"""Killed runs, two runs at once, a full disk: the lake is whole afterwards, and the next run finishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.ingest.config import IngestConfig
from components.ingest.core import ingest
from fraud.simulator import SimulationConfig, write
from millrace.errors import AlreadyRunning
from millrace.lake.manifest import Manifest

PROGRAM = """
import resource, sys
from pathlib import Path
from components.ingest.config import IngestConfig
from components.ingest.core import ingest
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
print(ingest(sys.argv[1], Path(sys.argv[2]), IngestConfig(workload="fraud", pseudonym_key=b"k")).id)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty days of two thousand customers: long enough to be interrupted while writing."""
    folder = tmp_path_factory.mktemp("source")
    write(SimulationConfig(customers=2000, terminals=2000, days=40), folder)
    return folder


def start(source: Path, lake: Path, file_size_limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(source), str(lake), str(file_size_limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def test_a_killed_run_leaves_no_snapshot_and_the_next_one_finishes(source: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    process = start(source, lake)
    until(lambda: len(list(lake.glob("events/day=*/*.parquet"))) >= 3 or process.poll() is not None)

    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert process.returncode == -signal.SIGKILL
    assert not list(lake.glob("snapshots/*"))
    manifest = ingest(str(source), lake, IngestConfig(workload="fraud", pseudonym_key=b"k"))
    manifest.verify()
    assert not list(lake.glob("ingest/*/scratch"))
    assert {path.name for path in lake.glob("events/day=*/*")} == {Path(name).name for name in manifest.files}


def test_of_two_runs_at_once_one_works_and_the_other_says_so(source: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    process = start(source, lake)
    until(lambda: bool(list(lake.glob("ingest/*/scratch"))))

    with pytest.raises(AlreadyRunning, match=r"ingest of .* already running"):
        ingest(str(source), lake, IngestConfig(workload="fraud", pseudonym_key=b"k"))

    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert ingest(str(source), lake, IngestConfig(workload="fraud", pseudonym_key=b"k")).id == out.strip()


def test_when_the_disk_is_full_the_last_snapshot_stays(source: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails in the same place."""
    lake = tmp_path / "lake"
    one_day = ingest(str(source / "2018-04-01.parquet"), lake, IngestConfig(workload="fraud", pseudonym_key=b"k"))

    process = start(source, lake, file_size_limit=20_000)
    _, err = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "OSError" in err
    assert [path.name for path in lake.glob("snapshots/*")] == [one_day.id]
    assert not list(lake.glob("ingest/*/scratch"))
    one_day.verify()


def test_an_interrupted_run_cleans_up(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.ingest import refresh

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refresh, "write_partition", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ingest(str(source), tmp_path / "lake", IngestConfig(workload="fraud", pseudonym_key=b"k"))

    assert not list((tmp_path / "lake").rglob("*.parquet"))
    assert not list((tmp_path / "lake").glob("ingest/*/scratch"))


def test_the_key_appears_nowhere(source: Path, tmp_path: Path) -> None:
    key = b"a-very-secret-pseudonym-key"
    config = IngestConfig(workload="fraud", pseudonym_key=key)

    manifest = ingest(str(source / "2018-04-01.parquet"), tmp_path / "lake", config)

    assert "secret" not in repr(config)
    files = [path for path in (tmp_path / "lake").rglob("*") if path.is_file()]
    assert not any(key in path.read_bytes() for path in files)
    assert Manifest.read(manifest.fetch(), "snapshot").id == manifest.id


def test_the_command_line_prints_the_snapshot_and_names_errors(source: Path, tmp_path: Path) -> None:
    environment = os.environ | {"MILLRACE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "components.ingest"]

    good = subprocess.run(
        [*command, str(source / "2018-04-01.parquet")], env=environment, capture_output=True, text=True
    )
    bad = subprocess.run([*command, str(tmp_path / "nowhere")], env=environment, capture_output=True, text=True)

    assert good.returncode == 0, good.stderr
    assert "rows of 1 days, 2018-04-01 to 2018-04-01" in good.stdout
    assert bad.returncode == 2
    assert bad.stderr.strip() == f"error: {tmp_path / 'nowhere'} does not exist"
