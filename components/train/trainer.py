"""One process's share of learning: steps over its rows, and the average precision that they come to.

What an epoch draws (rows, dropout) follows from seed, epoch and rank alone. Which rows those are is `core.py`'s, how
processes share a model `parallel.py`'s, how rows arrive `feed.py`'s.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from components.train import parallel
from components.train.core import TrainConfig, epoch_rows, rate_at, shard, steps_of
from components.train.feed import Feed, Inputs
from components.train.meter import Meter
from components.train.parallel import Process
from fraud.model import FraudModel
from fraud.training_set import TrainingSet
from millrace.judge.ranking import Judged, average_precision

SCORE_ROWS: Final = 1024
"""Rows per forward pass when nothing is learnt."""

FITTED_ROWS: Final = 50_000
"""Genuine rows that scales and edges are taken from, about."""


class Trainer:
    """Model, moving average, optimiser and rows of one process, and the steps over them."""

    def __init__(self, rows: TrainingSet, config: TrainConfig, process: Process) -> None:
        self.rows, self.config, self.process = rows, config, process
        self.feed = Feed(rows, config.model.sequence_length, process.device)
        self.train_rows, self.validation_rows = rows.rows_of("train"), rows.rows_of("validation")
        self.train_label = rows.label[self.train_rows]
        frauds = int(self.train_label.sum())
        self.steps = steps_of(len(self.train_rows), frauds, config)
        torch.manual_seed(config.seed)
        self.model = FraudModel(config.model.spec()).to(process.device)
        self.average = FraudModel(config.model.spec()).to(process.device).eval()
        if config.parallel == "fsdp" and process.world > 1:
            self.model, self.average = (parallel.divided(model, process) for model in (self.model, self.average))
        self.together = parallel.together(self.model, process, config.parallel)
        groups = _groups(self.model, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
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

    def inputs(self, rows: NDArray[np.int64]) -> Inputs:
        """features[B, F], history[B, L, C], label[B] of rows[B] on the device."""
        return self.feed.inputs(rows)

    def order(self, epoch: int) -> list[NDArray[np.int64]]:
        """This process's rows of each step of an epoch."""
        batches = epoch_rows(self.train_rows, self.train_label, self.config, epoch)
        shards = [shard(batch, self.process.rank, self.process.world) for batch in batches]
        return [rows for rows in shards if len(rows)]

    def epoch(self, number: int) -> dict[str, float]:
        """Train on one draw of rows: mean loss, and how well the machine was used (`Meter.point`)."""
        torch.manual_seed((self.config.seed * 1_000_003 + number) * 1_009 + self.process.rank)
        return self.learn(self.order(number), number * self.steps)

    def learn(self, order: list[NDArray[np.int64]], first_step: int) -> dict[str, float]:
        """One step for each part of `order`, counted from `first_step`."""
        self.together.train()
        total = torch.zeros((), dtype=torch.float64, device=self.process.device)
        meter = Meter(self.process)
        for place, inputs in enumerate(meter.watched(self.feed.batches(order))):
            total += self.step(inputs, first_step + place) * len(inputs[-1])  # read once: a GPU need not be waited for
        samples = self.process.world * sum(map(len, order))
        return {"loss": parallel.add_up(total, self.process).item() / samples} | meter.point(samples)

    def step(self, inputs: Inputs, number: int) -> Tensor:
        """One update of weights and of their average; returns the loss."""
        rate = rate_at(number, self.steps * self.config.epochs, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.gradient(inputs)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            # Early on the average follows faster, so that the random start is forgotten.
            keep = min(self.config.average_decay, number / (number + 10.0))
            torch._foreach_lerp_(parallel.held(self.average), parallel.held(self.model), 1.0 - keep)
        return loss

    def gradient(self, inputs: Inputs) -> Tensor:
        """Leave the gradient of the mean loss of all processes' rows in the weights; returns the loss of these rows."""
        parts = _parts(inputs, self.config.accumulate)
        total = torch.zeros((), device=self.process.device)
        for place, (features, history, label) in enumerate(parts, 1):
            # Gradients of all but the last part wait in the process: one exchange a step.
            with parallel.apart(self.together) if place < len(parts) else nullcontext():
                share = len(label) / len(inputs[-1])
                loss = self.loss(features, history, label) * share
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def loss(self, features: Tensor, history: Tensor, label: Tensor) -> Tensor:
        """Mean over rows and members."""
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.process.device.type, torch.bfloat16, enabled=low):
            logits = self.together(features, history)
        logits = logits.float() + self.prior_shift
        return binary_cross_entropy_with_logits(logits, label.expand_as(logits))

    @torch.no_grad()
    def validate(self) -> float:
        """Average precision of the moving average on the validation days: each process scores a part, all get it."""
        rows, rank, world = self.validation_rows, self.process.rank, self.process.world
        # As many for each: divided weights are gathered by all processes at once. What is too many repeats the last.
        scores = torch.zeros(-(-len(rows) // world) * world, dtype=torch.float64, device=self.process.device)
        mine = np.arange(rank, len(scores), world)
        parts = np.split(mine, range(SCORE_ROWS, len(mine), SCORE_ROWS))
        order = [rows[np.minimum(places, len(rows) - 1)] for places in parts]
        for places, (features, history, _) in zip(parts, self.feed.batches(order), strict=True):
            scores[torch.from_numpy(places).to(scores.device)] = self.average(features, history).double()
        parallel.add_up(scores, self.process)
        return _average_precision(self.rows.label[rows] == 1, scores[: len(rows)].cpu().numpy())

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only: loadable without trusting the file. All processes call it together."""
        return {
            "model": parallel.weights(self.model),
            "average": parallel.weights(self.average),
            "optimizer": parallel.moments(self.model, self.optimizer),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        parallel.load_weights(self.model, state["model"])
        parallel.load_weights(self.average, state["average"])
        parallel.load_moments(self.model, self.optimizer, state["optimizer"])


def _parts(inputs: Inputs, count: int) -> list[Inputs]:
    """`inputs` cut into `count` parts of about the same size; fewer where there are fewer rows."""
    features, history, label = (tensor.tensor_split(min(count, len(inputs[-1]))) for tensor in inputs)
    return list(zip(features, history, label, strict=True))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _average_precision(fraud: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    unused = np.zeros(len(fraud), np.int64)
    rows = Judged(unused, unused, fraud, unused.astype(np.float64), 1)
    return float(average_precision(rows, scores).item())
