"""What a person sees of a pipeline that runs here: each step, its own log lines and how long it took.

kfp tells of its steps in its log alone, so that is what is read; nothing is decided by it.
"""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass, field
from typing import TextIO

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
