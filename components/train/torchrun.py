"""Training processes on this machine, started, watched and restarted by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from components.train.launcher import WORKER
from millrace.settings import Settings

MAX_RESTARTS: Final = 2
"""How often torchrun starts the processes again after one died."""
ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    # Otherwise restarted processes meet the addresses of the dead ones in the shared store and wait for ever.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


class _Local:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def lines(self) -> Iterator[str]:
        assert self._process.stdout is not None
        yield from self._process.stdout
        self._process.wait()

    @property
    def exit_code(self) -> int:
        return int(self._process.returncode)


@contextmanager
def on_this_machine(work: Path, identity: str, settings: Settings) -> Iterator[_Local]:  # noqa: ARG001 - a Launcher
    """Starts as many processes as `MILLRACE_PROCESSES` says."""
    with subprocess.Popen(
        torchrun(work, settings.processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | ENVIRONMENT,
    ) as process:
        try:
            yield _Local(process)
        except BaseException:
            process.terminate()
            raise


def torchrun(work: Path, processes: int) -> list[str]:
    """The command that trains the job in `work`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [
        *launcher,
        f"--nproc-per-node={processes}",
        f"--max-restarts={MAX_RESTARTS}",
        "--module",
        WORKER,
        str(work),
    ]
