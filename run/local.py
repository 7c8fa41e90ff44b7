"""Run a pipeline on this machine through `kfp.local`: the function that compiles for the cluster, step by step here.

What kfp prints goes whole to a log file; the screen shows each step, its own log lines and how long it took. A failed
step shows its own traceback and the command that takes up from there: finished steps are served from the cache.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from millrace.errors import MillraceError
from millrace.installed import load
from millrace.lake.atomic import exclusive, sha256_text
from millrace.lake.manifest import Manifest
from millrace.pseudonyms import fingerprint
from millrace.settings import Settings
from millrace.uris import redacted

ANSI = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"Executing task '([^']+)'")
FINISHED = re.compile(r"Task '([^']+)' finished with status (\w+)")
CACHED = re.compile(r"Task (\S+) cache hit")
INDENT = "    "  # what kfp puts before the lines of a step
CHATTER = "[KFP Executor"
BLOCKS = (
    ("Got executor_input:", re.compile(r"^}$")),  # a JSON object
    ("nanobind: leaked", re.compile(r"refleaks")),  # DuckDB under ibis, at interpreter exit: harmless
)
"""Lines that begin something only the log wants, and what its last line looks like."""
TRACEBACK = "Traceback (most recent call last):"
SOURCES = ("src", "components", "pipelines", "feature_repo")


class PipelineFailed(MillraceError, RuntimeError):
    """A step failed; carries the step, its own traceback or last lines, and where the whole log is."""

    def __init__(self, step: str, detail: str, log_path: Path) -> None:
        self.step = step
        super().__init__(
            f"step {step!r} failed:\n{detail}\nThe whole log: {log_path}\n"
            f"Run from there (finished steps are served from the cache): {shlex.join(_command())}"
        )


@dataclass
class StepView(io.TextIOBase):
    """Stands in for stdout while kfp runs: everything to the log, the steps and their own lines to the screen."""

    screen: TextIO
    log: TextIO
    step: str = ""
    lines: list[str] = field(default_factory=list)
    """What the running step printed."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Step → wall seconds; 0 for one served from the cache."""
    _partial: str = ""
    _since: float = 0.0
    _running: bool = False
    _until: re.Pattern[str] | None = None

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.log.write(text)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._line(ANSI.sub("", line))
        return len(text)

    def flush(self) -> None:
        self.log.flush()

    def _line(self, line: str) -> None:
        if match := CACHED.search(line):
            self.seconds[match[1]] = 0.0
            self._show(f"  = {match[1]} (nothing changed)")
        elif match := STARTED.search(line):
            self.step, self.lines, self._since, self._running = match[1], [], time.perf_counter(), True
            self._show(f"  > {self.step}")
        elif match := FINISHED.search(line):
            self._running = False
            self.seconds[match[1]] = time.perf_counter() - self._since
            mark = "+" if match[2] == "SUCCESS" else "!"
            self._show(f"  {mark} {match[1]} {self.seconds[match[1]]:.1f} s")
        elif self._running and line.startswith(INDENT):
            self._own_line(line.removeprefix(INDENT))

    def _own_line(self, line: str) -> None:
        """A line of the step itself; what kfp's executor says about itself is left to the log."""
        if self._until:
            self._until = None if self._until.search(line) else self._until
        elif begun := next((end for begin, end in BLOCKS if begin in line), None):
            self._until = begun
        elif line.strip() and CHATTER not in line:
            self.lines.append(line)
            self._show(f"      {line}")

    def _show(self, line: str) -> None:
        if TRACEBACK not in self.lines:  # a traceback is shown once, by PipelineFailed
            self.screen.write(f"{line}\n")  # not print: kfp replaces it while a step runs
            self.screen.flush()

    def failure(self) -> str:
        """The step's own traceback; its last lines when it printed none (killed, out of memory)."""
        if TRACEBACK in self.lines:
            return "\n".join(self.lines[self.lines.index(TRACEBACK) :])
        return "\n".join(self.lines[-20:]) or "it printed nothing; was it killed (out of memory)?"


@dataclass(frozen=True)
class LocalRun:
    """A finished run: the manifest of each pipeline output, and the seconds of each step."""

    outputs: dict[str, Manifest]
    seconds: dict[str, float]
    log_path: Path


def run_local(pipeline: Any, arguments: Mapping[str, Any], settings: Settings) -> LocalRun:
    """Run a pipeline; raises PipelineFailed, or AlreadyRunning for a second run at once.

    Its steps' image, which is part of kfp's cache key, is named by the hash of code and settings as they are now, so
    that a change of either is never answered from the cache.
    """
    runs = settings.home / "runs"
    with exclusive(runs / "lock", f"a pipeline run in {settings.home}"):
        os.environ["MILLRACE_HOME"] = str(settings.home.resolve())  # of the steps, which are processes of their own
        _adapt(pipeline, f"millrace/pipeline:{state_of_code(settings)}")
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        log_path = runs / f"{stamp}.log"
        with log_path.open("w") as log, _quiet_kfp(runs):
            view = StepView(sys.stdout, log)
            try:
                with redirect_stdout(view):  # type: ignore[type-var]
                    outputs = pipeline(**arguments).outputs
            except RuntimeError as error:
                raise PipelineFailed(view.step or "(before the first)", view.failure(), log_path) from error
        return LocalRun({name: Manifest.read(Path(out.path)) for name, out in outputs.items()}, view.seconds, log_path)


def state_of_code(settings: Settings, root: Path | None = None) -> str:
    """12 hex digits over every source file of pipeline and workload, and every setting but ports.

    Of the key it is the fingerprint.
    """
    root = root or Path(__file__).parent.parent
    folders = [*(root / name for name in SOURCES), load(settings.workload).folder]  # which may lie anywhere
    code = [part for folder in folders for part in _sources(folder)]
    plain = settings.model_dump_json(exclude={"pseudonym_key", "gateway_port", "gateway_token"})
    return sha256_text(*code, plain, fingerprint(settings.pseudonym_secret()))[:12]


def _sources(folder: Path) -> Iterator[str]:
    """Name and text of every source file, one after the other."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".py", ".yaml", ".sql", ".html"}:
            yield str(path.relative_to(folder.parent))
            yield path.read_text()


def _adapt(pipeline: Any, image: str) -> None:
    """Give its steps this image, and one attempt each.

    Retries are for pods that a cluster lost; here a step that failed shows why at once.
    """
    executors = pipeline.pipeline_spec.deployment_spec["executors"]
    for name in executors:
        executors[name]["container"]["image"] = image
    for task in pipeline.pipeline_spec.root.dag.tasks.values():
        task.ClearField("retry_policy")


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
            pipeline_root=str(runs / "outputs"),
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
