"""One process's share of learning: steps over its rows, and the watched figure that they come to.

What an epoch draws (rows, dropout) follows from seed, epoch and rank alone. Which rows those are is `core.py`'s, how
processes share a model `parallel.py`'s, how rows arrive `feed.py`'s, what is learned by which loss the network's.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.train import parallel
from components.train.core import AnyTrainConfig, epoch_rows, network_of, rate_at, shard
from components.train.feed import Batch, Feed
from components.train.meter import Meter
from components.train.parallel import Process
from millrace.tabular.rows import Rows

SCORE_ROWS: Final = 1024
"""Rows per forward pass when nothing is learnt."""


class Trainer:
    """Model, moving average, optimiser and rows of one process, and the steps over them."""

    def __init__(self, rows: Rows, config: AnyTrainConfig, process: Process) -> None:
        self.rows = rows
        self.config = config
        self.process = process
        self.train_rows = rows.rows_of("train")
        self.validation_rows = rows.rows_of("validation")
        self.train_label = rows.label[self.train_rows]

        torch.manual_seed(config.seed)
        self.model = network_of(rows.workload, config).to(process.device)
        self.average = network_of(rows.workload, config).to(process.device).eval()

        self.feed = Feed(rows, self.model.sequence_length, process.device)
        self.steps = len(epoch_rows(self.model, self.train_rows, self.train_label, config, 0))
        if config.parallel == "fsdp" and process.world > 1:
            self.model = parallel.divided(self.model, process)
            self.average = parallel.divided(self.average, process)

        self.together = parallel.together(self.model, process, config.parallel)
        groups = _groups(self.model, config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)

    def fit_preprocessing(self) -> None:
        """Scales and edges from some of the training rows; the same on every rank."""
        chosen = self.model.fitted_rows(self.train_label)
        *inputs, label = self.feed.batch(self.train_rows[chosen])
        self.model.fit_preprocessing(inputs, label, self.train_label)
        self.average.load_state_dict(self.model.state_dict())

    def order(self, epoch: int) -> list[NDArray[np.int64]]:
        """This process's rows of each step of an epoch."""
        batches = epoch_rows(self.model, self.train_rows, self.train_label, self.config, epoch)
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
        for place, batch in enumerate(meter.watched(self.feed.batches(order))):
            total += self.step(batch, first_step + place) * len(batch[-1])  # read once: a GPU need not be waited for
        samples = self.process.world * sum(map(len, order))
        return {"loss": parallel.add_up(total, self.process).item() / samples} | meter.point(samples)

    def step(self, batch: Batch, number: int) -> Tensor:
        """One update of weights and of their average; returns the loss."""
        rate = rate_at(number, self.steps * self.config.epochs, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        self.optimizer.zero_grad(set_to_none=True)
        loss = self.gradient(batch)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()

        with torch.no_grad():
            # Early on the average follows faster, so that the random start is forgotten.
            keep = min(self.config.average_decay, number / (number + 10.0))
            torch._foreach_lerp_(parallel.held(self.average), parallel.held(self.model), 1.0 - keep)
        return loss

    def gradient(self, batch: Batch) -> Tensor:
        """Leave the gradient of the mean loss of all processes' rows in the weights; returns the loss of these rows."""
        parts = _parts(batch, self.config.accumulate)
        total = torch.zeros((), device=self.process.device)

        for place, part in enumerate(parts, 1):
            # Gradients of all but the last part wait in the process: one exchange a step.
            with parallel.apart(self.together) if place < len(parts) else nullcontext():
                share = len(part[-1]) / len(batch[-1])
                loss = self.loss(part) * share
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def loss(self, batch: Batch) -> Tensor:
        """Mean over rows and members."""
        *inputs, label = batch
        low = self.config.precision == "bfloat16"
        with torch.autocast(self.process.device.type, torch.bfloat16, enabled=low):
            outputs = self.together(*inputs)
        return self.model.loss(outputs, label, self.config.negative_share)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The watched figure of the moving average on the validation rows: each process scores a part, all get it."""
        rows = self.validation_rows
        rank = self.process.rank
        world = self.process.world
        # As many for each: divided weights are gathered by all processes at once. What is too many repeats the last.
        scores = torch.zeros(-(-len(rows) // world) * world, dtype=torch.float64, device=self.process.device)
        mine = np.arange(rank, len(scores), world)
        parts = np.split(mine, range(SCORE_ROWS, len(mine), SCORE_ROWS))
        order = [rows[np.minimum(places, len(rows) - 1)] for places in parts]

        for places, (*inputs, _) in zip(parts, self.feed.batches(order), strict=True):
            answers = self.average(*inputs).double()
            scores[torch.from_numpy(places).to(scores.device)] = answers if answers.ndim == 1 else answers[:, 0]

        parallel.add_up(scores, self.process)
        figure = self.model.figure(self.rows.label[rows], scores[: len(rows)].cpu().numpy())
        return {self.model.watched.name: figure}

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


def _parts(batch: Batch, count: int) -> list[Batch]:
    """`batch` cut into `count` parts of about the same size; fewer where there are fewer rows."""
    split = (tensor.tensor_split(min(count, len(batch[-1]))) for tensor in batch)
    return list(zip(*split, strict=True))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
