"""Runs the jobs named on the command line one after another in the processes that torchrun started.

A job whose folder is called `broken` is interrupted in its second epoch and then run again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from components.train.parallel import Process, processes
from components.train.trainer import Trainer
from components.train.worker import run


class Interrupted(Exception):
    """What ends the first try of `broken`."""


def interrupted(folder: Path, process: Process) -> None:
    validate, calls = Trainer.validate, []

    def once(self: Trainer) -> float:
        calls.append(1)
        if len(calls) > 1:
            raise Interrupted
        return validate(self)

    Trainer.validate = once  # type: ignore[method-assign]
    try:
        run(folder, process)
    except Interrupted:
        pass
    finally:
        Trainer.validate = validate  # type: ignore[method-assign]


if __name__ == "__main__":
    with processes() as process:
        for folder in map(Path, sys.argv[1:]):
            if folder.name == "broken":
                interrupted(folder, process)
            run(folder, process)
