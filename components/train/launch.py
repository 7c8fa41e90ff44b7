"""Have the training processes started, follow them, tell MLflow, and publish what they leave.

When a process dies the group is started again; each start goes on from the last checkpoint. A failure that remains
reaches the caller as TrainingFailed with the traceback of the process that failed first. Where processes run is
`launcher.py`'s.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from components.train.checkpoint import CURVE
from components.train.core import AnyTrainConfig, Progress, network_of
from components.train.launcher import launcher
from components.train.tracking import Tracking
from components.train.worker import JOB, MODEL
from millrace.errors import MillraceError
from millrace.installed import load
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest
from millrace.lake.step import Step
from millrace.observe.progress import log
from millrace.settings import Settings

TAIL_LINES: Final = 30


class TrainingFailed(MillraceError, RuntimeError):
    """The training processes ended without a model; the message ends with the first failing one's traceback."""


def run_workers(training_set: Manifest, config: AnyTrainConfig, settings: Settings, identity: str, work: Path) -> str:
    """Train in `work` until `model/` lies there; returns the MLflow run id. Raises TrainingFailed."""
    work.mkdir(parents=True, exist_ok=True)
    for stale in work.glob("error-*.txt"):
        stale.unlink()
    write_text(work / JOB, json.dumps(_job(training_set, config, settings), indent=2) + "\n")
    log("training", model=identity, processes=settings.processes, rows=training_set.facts["splits"]["train"]["rows"])

    tracking, tail, code = _train(training_set, config, settings, identity, work)
    finished = code == 0 and (work / MODEL / "model.json").is_file()
    tracking.close("FINISHED" if finished else "FAILED")
    if not finished:
        raise TrainingFailed(_why(work, code, tail))
    return tracking.run_id


def publish(step: Step, config: AnyTrainConfig, settings: Settings, work: Path, run_id: str) -> Manifest:
    """Give `work/model` its place and manifest, and drop the rest of `work`."""
    curve = json.loads((work / CURVE).read_text(encoding="utf-8"))
    watched = network_of(load(step.workload), config).watched
    best = Progress(config.patience, watched, curve).best
    with step.writing() as draft:
        shutil.copytree(work / MODEL, draft.folder, dirs_exist_ok=True)
        shutil.copy(work / CURVE, draft.folder / CURVE)
        draft.facts |= {
            "mlflow_run_id": run_id,
            f"validation_{watched.name}": best[watched.name],
            "best_epoch": best["epoch"],
            "epochs": len(curve),
            "processes": settings.processes,
            "seeds": {"seed": config.seed},
        }
    shutil.rmtree(work)
    log("trained", model=step.id, epoch=best["epoch"], **{watched.name: best[watched.name]})
    return step.made()


def _job(training_set: Manifest, config: AnyTrainConfig, settings: Settings) -> dict[str, Any]:
    """What a training process reads: everything that decides the model, and what `model.json` says besides."""
    description: dict[str, Any] = {
        "name": settings.model_name,
        "training": config.model_dump(),
        "seeds": {"seed": config.seed},
    }
    if load(training_set.workload).recent is not None:
        description["history_length"] = training_set.facts["history_length"]

    return {
        "config": config.model_dump(),
        "training_set": str(training_set.fetch().resolve()),
        "description": description,
    }


def _train(
    training_set: Manifest, config: AnyTrainConfig, settings: Settings, identity: str, work: Path
) -> tuple[Tracking, list[str], int]:
    """Run the processes to their end: the MLflow run, their last lines, their exit status."""
    with launcher(settings)(work, identity, settings) as running:
        # MLflow's import and database set-up run while the processes start.
        tracking = Tracking.open(training_set, config, settings, identity, work)
        tail = _follow(running.lines(), tracking, work / CURVE)
    return tracking, tail, running.exit_code


def _follow(lines: Iterable[str], tracking: Tracking, curve: Path) -> list[str]:
    """Pass the processes' lines on, logging each finished epoch; returns the last lines."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    for line in lines:
        if line:
            tail.append(line)
            sys.stderr.write(line)
        tracking.log_curve(curve)
    tracking.log_curve(curve)
    return list(tail)


def _why(work: Path, code: int, tail: list[str]) -> str:
    """The traceback that came first in the last start, or the last lines when the processes left none."""
    errors = sorted(work.glob("error-*.txt"), key=lambda path: (-int(path.stem.split("-")[1]), path.stat().st_mtime_ns))
    cause = errors[0].read_text(encoding="utf-8") if errors else "".join(tail)
    return f"training ended with status {code}; checkpoint kept in {work}.\n{cause}"
