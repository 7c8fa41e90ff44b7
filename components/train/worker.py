"""One training process, as torchrun starts it: `python -m components.train.worker <job folder>`.

The job folder holds `job.json`; the process leaves `checkpoint.pt` and `training_curve.json` after every epoch, and at
the end `model/`. A resumed run repeats an uninterrupted one bit by bit. Without torchrun's environment it runs alone.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from components.train import checkpoint, parallel
from components.train.core import AnyTrainConfig, Progress, config_type, network_of
from components.train.parallel import Process, processes
from components.train.trainer import Trainer
from millrace.installed import Workload
from millrace.lake.atomic import exclusive, write_text
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.observe.progress import log
from millrace.tabular.weights import save_network

JOB: Final = "job.json"
MODEL: Final = "model"


def run(folder: Path, process: Process) -> None:
    """Train the job in `folder` from its checkpoint, if there is one, to `model/`."""
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    rows = TrainingSet(Manifest.read(job["training_set"], "training_set"))
    config = config_type(rows.workload)(**job["config"])
    trainer = Trainer(rows, config, process)
    progress, best = _begun(folder, trainer)

    for number in range(len(progress.curve), config.epochs):
        if progress.finished:
            break
        point = {"epoch": number} | trainer.epoch(number) | trainer.validate()
        progress.curve.append(point)
        if progress.improved:
            best = parallel.weights(trainer.average)
        state = trainer.state()
        if process.leads:
            checkpoint.keep(folder, {"trainer": state, "curve": progress.curve, "best": best, "seed": config.seed})
            log("epoch", of=config.epochs, **point)

    if process.leads:
        checkpoint.write_curve(folder, progress.curve)
        _write_model(folder, rows.workload, config, best, job["description"])


def _begun(folder: Path, trainer: Trainer) -> tuple[Progress, dict[str, Tensor]]:
    """What is behind the trainer, which stands where the last epoch ended, and the best weights so far."""
    saved = checkpoint.kept(folder)
    if saved is None:
        trainer.fit_preprocessing()
        return Progress(trainer.config.patience, trainer.model.watched, []), {}
    trainer.load(saved["trainer"])
    if trainer.process.leads:
        log("resumed", epoch=len(saved["curve"]), checkpoint=folder / checkpoint.CHECKPOINT)
    return Progress(trainer.config.patience, trainer.model.watched, saved["curve"]), saved["best"]


def _write_model(
    folder: Path, workload: Workload, config: AnyTrainConfig, best: dict[str, Tensor], description: dict[str, Any]
) -> None:
    network = network_of(workload, config)
    network.load_state_dict(best)
    save_network(network, workload, folder / MODEL, **description)


def main(folder: Path) -> None:
    """Run, and leave the traceback of a failure in the folder, where the caller finds it."""
    restart, rank = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("RANK", "0")
    try:
        # A process left over from a killed run must be gone before another writes to the same folder.
        with exclusive(folder / f"rank-{rank}.lock", f"training process {rank} of {folder}"), processes() as process:
            run(folder, process)
    except BaseException:
        write_text(folder / f"error-{restart}-{rank}.txt", traceback.format_exc())
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
