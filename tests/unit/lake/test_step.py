"""The protocol of steps: nothing is made twice, a killed step is finished by the next, half a result is not seen."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.errors import AlreadyRunning, NotFound
from millrace.lake.manifest import Manifest, list_manifests
from millrace.lake.step import Step

KILLED = """
import os, pathlib, signal, sys
from millrace.lake.step import Step

step = Step(kind="model", id="abc", workload="fraud", lake=pathlib.Path(sys.argv[1]))
rename = pathlib.Path.replace

def kill_before_the_folder_takes_its_name(path, target):
    if target == step.folder:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)

pathlib.Path.replace = kill_before_the_folder_takes_its_name
with step.alone("training model"), step.writing() as draft:
    (draft.folder / "weights").write_text("half")
    if sys.argv[2] == "while writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def a_step(lake: Path, identity: str = "abc") -> Step:
    return Step(kind="model", id=identity, workload="fraud", lake=lake, parents={"training_set": "rows"})


def finish(step: Step, weights: str = "whole") -> Manifest:
    with step.alone("training model"), step.writing() as draft:
        (draft.folder / "weights").write_text(weights)
        draft.facts |= {"epochs": 3}
    return step.made()


def in_another_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=os.environ
    )


def test_what_was_written_is_found_with_its_hashes_facts_and_parents(tmp_path: Path) -> None:
    step = a_step(tmp_path)
    assert step.found() is None

    made = finish(step)

    assert step.found() == made
    assert made.fetch() == tmp_path / "models" / "abc"
    assert (made.kind, made.id, made.workload) == ("model", "abc", "fraud")
    assert (made.parents, made.facts, set(made.files)) == ({"training_set": "rows"}, {"epochs": 3}, {"weights"})
    made.verify()


def test_what_is_not_finished_is_asked_for_in_vain(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="Run the step that makes it first"):
        a_step(tmp_path).made()


def test_a_failing_body_leaves_nothing(tmp_path: Path) -> None:
    step = a_step(tmp_path)

    with pytest.raises(OSError, match="disk full"), step.writing() as draft:
        (draft.folder / "weights").write_text("half")
        raise OSError("disk full")

    assert step.found() is None
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("moment", ["while writing", "before the rename"])
def test_a_killed_step_leaves_what_was_there_and_the_next_run_finishes_it(tmp_path: Path, moment: str) -> None:
    before = finish(a_step(tmp_path, "earlier"))

    killed = in_another_process(KILLED, tmp_path, moment)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(list_manifests(tmp_path / "models", "model")) == [before]
    assert a_step(tmp_path).found() is None
    before.verify()

    made = finish(a_step(tmp_path))

    assert made.path("weights").read_text() == "whole"
    made.verify()


def test_a_second_process_is_refused_and_told_what_runs(tmp_path: Path) -> None:
    code = KILLED.replace("kill_before_the_folder_takes_its_name\nwith", "rename\nwith")

    with a_step(tmp_path).alone("training model"):
        second = in_another_process(code, tmp_path, "to the end")
    third = in_another_process(code, tmp_path, "to the end")

    assert f"training model abc is already running (process {os.getpid()}" in second.stderr
    assert third.returncode == 0, third.stderr


def test_a_step_does_not_run_beside_itself_but_beside_another(tmp_path: Path) -> None:
    with a_step(tmp_path).alone("training model"):
        finish(a_step(tmp_path, "other"))

        with pytest.raises(AlreadyRunning, match="training model abc"):
            finish(a_step(tmp_path))


def test_of_two_that_need_no_lock_the_first_to_finish_wins(tmp_path: Path) -> None:
    step = a_step(tmp_path)
    with step.writing() as slow:
        (slow.folder / "weights").write_text("slow")
        first = finish(step, "fast")

    assert step.made() == first
    assert step.made().path("weights").read_text() == "fast"


def test_a_record_lists_files_that_lie_elsewhere_and_replaces_an_older_one(tmp_path: Path) -> None:
    step = Step(kind="scores", id="abc", workload="fraud", lake=tmp_path)
    shared = tmp_path / "scores" / "day=2026-01-01" / "key.parquet"
    shared.parent.mkdir(parents=True)
    shared.write_bytes(b"rows")
    step.record({"../day=2026-01-01/key.parquet": "0" * 64}, {"rows": 1})

    made = step.record({"../day=2026-01-01/key.parquet": "1" * 64}, {"rows": 2})

    assert step.found() == made
    assert made.facts == {"rows": 2}
    assert made.path("../day=2026-01-01/key.parquet").samefile(shared)
