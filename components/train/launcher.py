"""Where training processes run: what a launcher gives, and which one the settings name.

`torchrun.py` starts them on this machine, `cluster.py` as a PyTorchJob or TrainJob. Each runs `worker.py` on a work
folder that all processes see, until its model lies there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from millrace.settings import Settings

WORKER = "components.train.worker"


class Running(Protocol):
    """Processes under way; leaving the context they were given in ends them."""

    def lines(self) -> Iterator[str]:
        """What they say, as it comes, until they have ended; an empty line when there was nothing for a while."""

    @property
    def exit_code(self) -> int:
        """0 when all ended well; to be read after `lines` has ended."""


Launcher = Callable[[Path, str, Settings], AbstractContextManager[Running]]
"""`launch(work, identity, settings)`: processes for the job in `work`, of the model with that id."""


def launcher(settings: Settings) -> Launcher:
    """What `MILLRACE_TRAIN_LAUNCHER` names."""
    if settings.train_launcher == "torchrun":
        from components.train.torchrun import on_this_machine

        return on_this_machine
    from components.train.cluster import on_cluster

    return on_cluster
