"""The local runner: cached steps, a step's own traceback, one run at a time. A real kfp pipeline of two tiny steps."""

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kfp import dsl
from kfp.dsl import PIPELINE_JOB_ID_PLACEHOLDER, Dataset, Input, Output
from pydantic import SecretStr

from millrace.errors import AlreadyRunning
from millrace.installed import Workload
from millrace.judge.gates import Rule
from millrace.lake.atomic import exclusive, sha256_text
from millrace.settings import Settings
from run.local import PipelineBlocked, PipelineFailed, run_local, state_of_code


class Outputs(NamedTuple):
    first: Dataset
    second: Dataset


def two_steps() -> Any:
    @dsl.component(base_image="millrace/pipeline:0", install_kfp_package=False)
    def make(number: int, out: Output[Dataset]):
        from pathlib import Path

        from millrace.lake.manifest import Manifest
        from millrace.settings import settings

        print(f"making {number}")
        (settings().home / "seen").write_text(str(settings().home))
        Manifest(kind="snapshot", id=str(number), workload="fraud", uri=".").write(Path(out.path))

    @dsl.component(base_image="millrace/pipeline:0", install_kfp_package=False)
    def copy(source: Input[Dataset], fail: bool, out: Output[Dataset]):
        import shutil

        if fail:
            raise ValueError("a reason that people can read")
        shutil.copy(source.path, out.path)

    @dsl.pipeline(name="two-steps")
    def pipeline(number: int = 1, fail: bool = False) -> Outputs:
        made = make(number=number)
        copied = copy(source=made.outputs["out"], fail=fail)
        return Outputs(first=made.outputs["out"], second=copied.outputs["out"])

    return pipeline


def a_gate() -> Any:
    """A pipeline of one gate, for a figure that is .5."""

    @dsl.component(base_image="millrace/pipeline:0", install_kfp_package=False)
    def gate(limit: float, run_id: str):
        from millrace.judge.gates import Rule, Verdict
        from millrace.judge.refusals import recorded
        from millrace.settings import settings

        with recorded(settings().home, run_id):
            Verdict("model", (Rule("gain", 0.5, ">", limit),)).require()

    @dsl.pipeline(name="a-gate")
    def pipeline(limit: float) -> None:
        gate(limit=limit, run_id=PIPELINE_JOB_ID_PLACEHOLDER).set_caching_options(False)

    return pipeline


Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return lambda **arguments: run_local(two_steps(), arguments, Settings(home=tmp_path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestRunLocal:
    def test_outputs_are_manifests_and_every_step_is_shown(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        done = run(number=7)

        shown = capsys.readouterr().out
        assert done.outputs["second"].id == "7"
        assert "> make" in shown
        assert "making 7" in shown
        assert "executor_input" not in shown
        assert "executor_input" in done.log_path.read_text()

    def test_a_second_run_is_served_from_the_cache(self, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        run(number=7)
        capsys.readouterr()

        again = run(number=7)

        assert again.seconds == {"make": 0.0, "copy": 0.0}
        assert again.outputs["second"].id == "7"
        assert "making" not in capsys.readouterr().out

    def test_a_changed_setting_is_not_served_from_the_cache(self, tmp_path: Path) -> None:
        pipeline = two_steps()  # made before, as one is that a module has
        run_local(pipeline, {"number": 7}, Settings(home=tmp_path))

        changed = run_local(pipeline, {"number": 7}, Settings(home=tmp_path, history_length=5))

        assert changed.seconds["make"] > 0

    def test_a_failed_step_shows_its_own_traceback_and_how_to_go_on(self, run: Run) -> None:
        with pytest.raises(PipelineFailed) as failure:
            run(number=7, fail=True)

        text = str(failure.value)
        assert failure.value.step == "copy"
        assert "ValueError: a reason that people can read" in text
        assert "Run from there" in text

    def test_a_failure_in_one_line_is_the_step_what_it_said_last_and_where_the_log_is(self, run: Run) -> None:
        with pytest.raises(PipelineFailed) as failure:
            run(number=7, fail=True)

        step, _, log_path = failure.value.cause.partition(" The whole log: ")
        assert step == "step 'copy' failed: ValueError: a reason that people can read"
        assert "a reason that people can read" in Path(log_path).read_text(encoding="utf-8")
        assert not isinstance(failure.value, PipelineBlocked)

    def test_the_home_reaches_the_steps_and_nothing_else_of_this_process_changes(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MILLRACE_HOME", "another")
        before = dict(os.environ)

        run(number=7)

        assert (tmp_path / "seen").read_text() == str(tmp_path)
        assert dict(os.environ) == before

    def test_after_a_failure_only_what_is_missing_runs(self, run: Run) -> None:
        with pytest.raises(PipelineFailed):
            run(number=7, fail=True)

        done = run(number=7, fail=False)

        assert done.seconds["make"] == 0.0
        assert done.seconds["copy"] > 0.0

    def test_a_second_run_at_once_is_told_so(self, run: Run, tmp_path: Path) -> None:
        with (
            exclusive(tmp_path / "runs" / "lock", "a pipeline run"),
            pytest.raises(AlreadyRunning, match="already running"),
        ):
            run()

    def test_a_patient_run_waits_until_the_one_before_has_ended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, said = ExitStack(), []
        before.enter_context(exclusive(tmp_path / "runs" / "lock", "a pipeline run"))

        def hears(event: str, **fields: str) -> None:
            said.append((event, fields["reason"]))
            before.close()

        monkeypatch.setattr("run.local.log", hears)

        done = run_local(two_steps(), {"number": 7}, Settings(home=tmp_path), patient=True)

        assert done.outputs["second"].id == "7"
        ((event, reason),) = said
        assert event == "run_waits"
        assert f"process {os.getpid()}" in reason


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_gate_that_said_no_is_known_by_its_verdict(tmp_path: Path) -> None:
    pipeline, here = a_gate(), Settings(home=tmp_path)
    run_local(pipeline, {"limit": 0.0}, here)

    with pytest.raises(PipelineBlocked) as blocked:
        run_local(pipeline, {"limit": 1.0}, here)

    error = blocked.value
    assert (error.step, error.refusal.verdicts[0].failures) == ("gate", (Rule("gain", 0.5, ">", 1.0),))
    assert "Blocked by the model gate (1 of 1 rules). Nothing was promoted" in str(error)
    assert "gain: got 0.5, wanted more than 1." in str(error)
    assert "Traceback" not in str(error)
    assert (tmp_path / "runs" / f"{error.refusal.run}.log").is_file()


def test_another_pseudonym_key_is_not_served_from_the_cache(tmp_path: Path) -> None:
    keys = ("one key", "one key", "another key")
    first, again, other = (Settings(home=tmp_path, pseudonym_key=SecretStr(key)) for key in keys)

    assert state_of_code(first) == state_of_code(again) != state_of_code(other)


def test_another_word_in_the_workload_is_not_served_from_the_cache_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere"
    package.mkdir()
    monkeypatch.setattr(Workload, "folder", package)
    here = Settings(home=tmp_path / "home")
    (package / "batch.py").write_text("one = 1")
    before = state_of_code(here)

    (package / "batch.py").write_text("one = 2")

    assert state_of_code(here) != before


def test_the_command_to_go_on_with_names_an_interpreter_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)

    monkeypatch.setattr(sys.modules["__main__"], "__spec__", find_spec("json.tool"))
    monkeypatch.chdir(tmp_path)
    assert shlex.split(_go_on())[:3] == [sys.executable, "-m", "json.tool"]

    monkeypatch.setattr(sys, "executable", str(python))
    assert shlex.split(_go_on())[:2] == ["venv/bin/python", "-m"]


def _go_on() -> str:
    return str(PipelineFailed("make", "reason", Path("log"))).rpartition("from the cache): ")[2]


def test_a_key_made_in_the_home_counts_as_well(tmp_path: Path) -> None:
    before = state_of_code(Settings(home=tmp_path))
    (tmp_path / "pseudonym.key").write_text("one that was put there instead")

    assert state_of_code(Settings(home=tmp_path)) != before


def test_the_cache_key_does_not_hold_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr("run.local.sha256_text", lambda *parts: hashed.extend(parts) or sha256_text(*parts))

    state = state_of_code(Settings(home=tmp_path, pseudonym_key=SecretStr("top-secret-key")))

    assert hashed
    assert not any("top-secret-key" in part for part in [state, *hashed[-2:]])
