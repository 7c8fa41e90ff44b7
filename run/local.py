"""Run a pipeline on this machine through `kfp.local`: the function that compiles for the cluster, step by step here.

What kfp prints goes whole to a log file; `step_view.py` shows the steps. A run that fails shows why, and the command
that takes up from there: finished steps are served from the cache.
"""

from __future__ import annotations

import copy
import io
import logging
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from millrace.errors import AlreadyRunning, MillraceError
from millrace.installed import load
from millrace.judge.refusals import Refusal, refusal_of
from millrace.lake.atomic import exclusive, sha256_text, waiting
from millrace.lake.disk import said_by_a_step, writing_to
from millrace.lake.manifest import Manifest
from millrace.lake.moved import settle
from millrace.observe.progress import log
from millrace.pseudonyms import fingerprint
from millrace.settings import Settings
from millrace.uris import redacted
from run.blocked import told
from run.cached import drop_stale
from run.step_view import StepView

SOURCES = ("src", "components", "pipelines", "feature_repo")


class PipelineFailed(MillraceError, RuntimeError):
    """A step failed; says which, its own traceback or last lines, and where the whole log is."""

    def __init__(self, step: str, detail: str, log_path: Path) -> None:
        self.step = step
        self.cause = f"step {step!r} failed: {detail.rpartition(chr(10))[2]} The whole log: {log_path}"
        """In one line: the last one of the detail stands for all."""
        super().__init__(
            f"step {step!r} failed:\n{detail}\nThe whole log: {log_path}\n"
            f"Run from there (finished steps are served from the cache): {shlex.join(_command())}"
        )


class PipelineBlocked(PipelineFailed):
    """A gate said no; carries what it left behind."""

    def __init__(self, step: str, refusal: Refusal, log_path: Path) -> None:
        super().__init__(step, refusal.message, log_path)
        self.refusal = refusal
        again = f"Then run again (finished steps are served from the cache): {shlex.join(_command())}"
        self.args = ("\n".join([told(refusal), f"The whole log: {log_path}", again]),)


@dataclass(frozen=True)
class LocalRun:
    """A finished run: the manifest of each pipeline output, and the seconds of each step."""

    outputs: dict[str, Manifest]
    seconds: dict[str, float]
    log_path: Path


def run_local(pipeline: Any, arguments: Mapping[str, Any], settings: Settings, *, patient: bool = False) -> LocalRun:
    """Run a pipeline; raises PipelineBlocked, PipelineFailed, or AlreadyRunning for a second run at once.

    With `patient` it waits for its turn instead: what nobody watches has nobody who would start it again.

    Its steps' image, which is part of kfp's cache key, is named by the hash of code and settings as they are now, so
    that a change of either is never answered from the cache.
    """
    runs = settings.home / "runs"
    with writing_to(settings.home), _turn(settings.home, patient):
        run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S-%f")
        settle(settings.home.resolve())
        drop_stale(runs.resolve())
        adapted = _adapted(pipeline, settings, run)
        log_path = runs / f"{run}.log"
        with log_path.open("w", encoding="utf-8") as whole_log, _quiet_kfp(runs):
            view = StepView(sys.stdout, whole_log)
            try:
                with redirect_stdout(view):  # type: ignore[type-var]
                    outputs = adapted(**arguments).outputs
            except RuntimeError as error:
                step, refusal = view.step or "(before the first)", refusal_of(settings.home, run)
                if refusal is not None:
                    raise PipelineBlocked(step, refusal, log_path) from error
                detail = said_by_a_step(view.failure(), settings.home)
                raise PipelineFailed(step, detail, log_path) from error
        return LocalRun({name: Manifest.read(Path(out.path)) for name, out in outputs.items()}, view.seconds, log_path)


@contextmanager
def _turn(home: Path, patient: bool) -> Iterator[None]:
    """Hold the home's pipeline lock."""
    lock = home / "runs" / "lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(lock, f"a pipeline run in {home}"))
        except AlreadyRunning as error:
            if not patient:
                raise
            log("run_waits", reason=str(error))
            stack.enter_context(waiting(lock))
        yield


def state_of_code(settings: Settings, root: Path | None = None) -> str:
    """12 hex digits over every source file of pipeline and workload, and every setting but ports.

    Of the key it is the fingerprint.
    """
    root = root or Path(__file__).parent.parent
    folders = [*(root / name for name in SOURCES), load(settings.workload).folder]  # which may lie anywhere
    code = [part for folder in folders for part in _sources(folder)]
    plain = settings.model_dump_json(exclude={"pseudonym_key", "gateway_port", "gateway_token"})
    return sha256_text(*code, load(settings.workload).document, plain, fingerprint(settings.pseudonym_secret()))[:12]


def _sources(folder: Path) -> Iterator[str]:
    """Name and text of every source file, one after the other."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".py", ".yaml", ".sql", ".html"}:
            yield str(path.relative_to(folder.parent))
            yield path.read_text(encoding="utf-8")


def _adapted(pipeline: Any, settings: Settings, run: str) -> Any:
    """A copy of the pipeline whose steps get their image, the home, the run's id, and one attempt each.

    Retries are for pods that a cluster lost; here a step that failed shows why at once.
    """
    from kfp.dsl import PIPELINE_JOB_ID_PLACEHOLDER

    adapted = copy.deepcopy(pipeline)
    image = f"millrace/pipeline:{state_of_code(settings)}"
    home = {"name": "MILLRACE_HOME", "value": str(settings.home.resolve())}
    executors = adapted.pipeline_spec.deployment_spec["executors"]
    for name in executors:
        executors[name]["container"].update({"image": image, "env": [home]})

    for task in adapted.pipeline_spec.root.dag.tasks.values():
        task.ClearField("retry_policy")
        for given in task.inputs.parameters.values():
            constant = given.runtime_value.constant
            if constant.string_value == PIPELINE_JOB_ID_PLACEHOLDER:
                constant.string_value = run
    return adapted


@contextmanager
def _quiet_kfp(runs: Path) -> Iterator[None]:
    from kfp import local

    root = logging.getLogger()
    level = root.level
    handler = logging.StreamHandler(_CurrentStdout())
    root.addHandler(handler)
    root.setLevel(logging.INFO)  # cache hits are logged at INFO, outside kfp's own handler
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You may be attemping to run a task", category=RuntimeWarning)
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(runs.resolve() / "outputs"),
            enable_caching=True,
            cache_root=str(runs / "cache"),
        )
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)


class _CurrentStdout(io.TextIOBase):
    """Follows sys.stdout to wherever it is redirected at the time of writing."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)


def _command() -> list[str]:
    """What was typed, with this very interpreter: many machines have none called `python`."""
    main = sys.modules["__main__"].__spec__
    python = Path(sys.executable)  # not resolved: the link is what belongs to the environment
    here = Path.cwd()
    python = python.relative_to(here) if python.is_relative_to(here) else python
    program = [str(python), "-m", main.name.removesuffix(".__main__")] if main else sys.argv[:1]
    return [*program, *(redacted(argument) for argument in sys.argv[1:])]
