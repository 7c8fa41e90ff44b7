"""One training process, as torchrun starts it: `python -m components.train.worker <job folder>`.

The job folder holds `job.json`; the process leaves `checkpoint.pt` after every epoch, `training_curve.json`, and at the
end `model/`. What an epoch draws (rows, dropout) follows from seed, epoch and rank alone, so a resumed run repeats an
uninterrupted one bit by bit. Without torchrun's environment it runs alone, in one process.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from components.train.core import Progress, TrainConfig, epoch_rows, rate_at, shard, steps_of
from millrace.artifacts import Manifest
from millrace.atomic import exclusive, replacing_file, write_text
from millrace.fraud.model import FraudModel, save_model
from millrace.fraud.training_set import TrainingSet
from millrace.metrics import Judged, average_precision
from millrace.progress import log

JOB: Final = "job.json"
CHECKPOINT: Final = "checkpoint.pt"
CURVE: Final = "training_curve.json"
MODEL: Final = "model"
SCORE_ROWS: Final = 1024
"""Rows per forward pass when nothing is learnt."""

FITTED_ROWS: Final = 50_000
"""Genuine rows that scales and edges are taken from, about."""

SILENCE: Final = timedelta(minutes=5)
"""A process that waits this long for another one gives up, and all are started again."""


@dataclass(frozen=True, slots=True)
class Process:
    """Which of the processes this is, and what it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0


class Members(nn.Module):
    """The model as it learns: features[B, F], history[B, L, C] → logit[M, B] of each member."""

    def __init__(self, model: FraudModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, history: Tensor) -> Tensor:
        return self.model.member_logits(features, history)


class Trainer:
    """Model, moving average, optimiser and rows of one process, and the steps over them."""

    def __init__(self, rows: TrainingSet, config: TrainConfig, process: Process) -> None:
        self.rows, self.config, self.process = rows, config, process
        self.train_rows, self.validation_rows = rows.rows_of("train"), rows.rows_of("validation")
        self.train_label = rows.label[self.train_rows]
        frauds = int(self.train_label.sum())
        self.steps = steps_of(len(self.train_rows), frauds, config)
        torch.manual_seed(config.seed)
        self.model = FraudModel(config.model.spec()).to(process.device)
        self.average = FraudModel(config.model.spec()).to(process.device).eval()
        self.parallel: nn.Module = Members(self.model)
        if process.world > 1:
            devices = [process.device] if process.device.type == "cuda" else None
            self.parallel = nn.parallel.DistributedDataParallel(
                self.parallel, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        self.optimizer = torch.optim.AdamW(_groups(self.model, config.weight_decay), lr=config.learning_rate)
        # An epoch sees every fraud but a share of the rest; this shift of the logit undoes it: scores stay calibrated.
        self.prior_shift = -float(np.log(config.negative_share))

    def fit_preprocessing(self) -> None:
        """Scales and edges from every fraud and evenly spread genuine training rows; the same on every rank."""
        fraud = np.flatnonzero(self.train_label == 1)
        genuine = np.flatnonzero(self.train_label == 0)
        every = max(len(genuine) // FITTED_ROWS, 1)
        chosen = np.sort(np.concatenate([fraud, genuine[::every]]))
        features, history, label = self.inputs(self.train_rows[chosen])
        self.model.fit_preprocessing(features, history, label, len(fraud) / len(self.train_rows))
        self.average.load_state_dict(self.model.state_dict())

    def epoch(self, number: int) -> dict[str, float]:
        """Train on one draw of rows: mean loss, rows a second over all processes, share of time waiting for rows."""
        process, config = self.process, self.config
        torch.manual_seed((config.seed * 1_000_003 + number) * 1_009 + process.rank)
        self.parallel.train()
        batches = epoch_rows(self.train_rows, self.train_label, config, number)
        total = torch.zeros(2, device=process.device)
        stalled, start = 0.0, time.perf_counter()
        for place, batch in enumerate(batches):
            asked = time.perf_counter()
            mine = shard(batch, process.rank, process.world)
            if not len(mine):
                continue
            features, history, label = self.inputs(mine)
            stalled += time.perf_counter() - asked
            loss = self.step(features, history, label, number * self.steps + place)
            total += torch.stack([loss * len(mine), loss.new_tensor(len(mine))])
        seconds = time.perf_counter() - start
        _sum(total, process)
        return {
            "loss": float(total[0] / total[1]),
            "samples_per_s": float(total[1]) / seconds,
            "stall_share": stalled / seconds,
        }

    def inputs(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """features[B, F], history[B, L, C], label[B] of rows[B] on the device."""
        arrays = (*self.rows.batch(rows, self.config.model.sequence_length), self.rows.label[rows].astype(np.float32))
        features, history, label = (torch.from_numpy(array).to(self.process.device) for array in arrays)
        return features, history, label

    def step(self, features: Tensor, history: Tensor, label: Tensor, number: int) -> Tensor:
        """One update of weights and of their average; returns the loss."""
        rate = rate_at(number, self.steps * self.config.epochs, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = self.parallel(features, history) + self.prior_shift
        loss = binary_cross_entropy_with_logits(logits, label.expand_as(logits))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            # Early on the average follows faster, so that the random start is forgotten.
            keep = min(self.config.average_decay, number / (number + 10.0))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1.0 - keep)
        return loss.detach()

    @torch.no_grad()
    def validate(self) -> float:
        """Average precision of the moving average on the validation days: each process scores a part, all get it."""
        rows, process = self.validation_rows, self.process
        scores = torch.zeros(len(rows), dtype=torch.float64, device=process.device)
        mine = np.arange(process.rank, len(rows), process.world)
        for places in np.split(mine, range(SCORE_ROWS, len(mine), SCORE_ROWS)):
            features, history, _ = self.inputs(rows[places])
            scores[torch.from_numpy(places).to(process.device)] = self.average(features, history).double()
        _sum(scores, process)
        return _average_precision(self.rows.label[rows] == 1, scores.cpu().numpy())

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only: loadable without trusting the file."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def run(folder: Path, process: Process) -> None:
    """Train the job in `folder` from its checkpoint, if there is one, to `model/`."""
    job = json.loads((folder / JOB).read_text())
    config = TrainConfig(**job["config"])
    rows = TrainingSet(Manifest.read(job["training_set"], "training_set"))
    trainer = Trainer(rows, config, process)
    progress = Progress(config.patience, [])
    best: dict[str, Tensor] = {}
    if (folder / CHECKPOINT).is_file():
        saved = torch.load(folder / CHECKPOINT, map_location=process.device, weights_only=True)
        trainer.load(saved["trainer"])
        progress.curve, best = saved["curve"], saved["best"]
        if process.leads:
            log("resumed", epoch=len(progress.curve), checkpoint=folder / CHECKPOINT)
    else:
        trainer.fit_preprocessing()
    for number in range(len(progress.curve), config.epochs):
        if progress.finished:
            break
        point = {"epoch": number} | trainer.epoch(number) | {"average_precision": trainer.validate()}
        progress.curve.append(point)
        if progress.improved:
            best = {name: tensor.clone() for name, tensor in trainer.average.state_dict().items()}
        if process.leads:
            _keep(folder, {"trainer": trainer.state(), "curve": progress.curve, "best": best, "seed": config.seed})
            log("epoch", of=config.epochs, **point)
    if process.leads:
        _write_curve(folder, progress.curve)
        trainer.average.load_state_dict(best)
        save_model(trainer.average, folder / MODEL, **job["description"])


@contextmanager
def processes() -> Iterator[Process]:
    """Join the other processes that torchrun started; alone without its environment."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    if world == 1:
        yield Process(rank, world, device)
        return
    torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=SILENCE)
    try:
        yield Process(rank, world, device)
    finally:
        torch.distributed.destroy_process_group()


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


def _keep(folder: Path, checkpoint: dict[str, Any]) -> None:
    with replacing_file(folder / CHECKPOINT) as aside:
        torch.save(checkpoint, aside)
    _write_curve(folder, checkpoint["curve"])


def _write_curve(folder: Path, curve: list[dict[str, float]]) -> None:
    write_text(folder / CURVE, json.dumps(curve, indent=2) + "\n")


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _sum(tensor: Tensor, process: Process) -> None:
    """Add up over all processes, in place."""
    if process.world > 1:
        torch.distributed.all_reduce(tensor)


def _average_precision(fraud: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    unused = np.zeros(len(fraud), np.int64)
    rows = Judged(unused, unused, fraud, unused.astype(np.float64), 1)
    return float(average_precision(rows, scores).item())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
