"""Train the model: what the hyper-parameters mean, which rows an epoch sees, when to stop; pure but for `train`.

The loop that a process runs is `worker.py`; starting the processes and restarting killed ones is `launch.py`.
In: a training set. Out: a `model` folder with weights, `model.json` and the curve (docs/architecture.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictFloat, StrictInt

from millrace.config import Config, load_config
from millrace.errors import InvalidInput
from millrace.installed import Workload, load
from millrace.lake.manifest import Manifest, content_id
from millrace.lake.provenance import code_of
from millrace.lake.step import Step
from millrace.lake.training_set import TrainingSet
from millrace.settings import Settings
from millrace.tabular.network import Network, Watched

A = TypeVar("A", bound=Config)

LEAST_STEPS: Final = 20
"""Steps that an epoch has at least, where its rows allow."""
LEAST_BATCH: Final = 32
"""Rows that a step has at least, unless the configuration wants fewer."""


class TrainConfig(Config, Generic[A]):
    """Everything that decides the weights, besides the rows."""

    seed: StrictInt = Field(ge=0, lt=2**31)
    """Seed of initial weights, sampling and dropout."""
    epochs: StrictInt = Field(ge=1, le=1000)
    """At most; the learning rate falls to zero over all of them."""
    patience: StrictInt = Field(ge=1)
    """Epochs without a better watched figure of the validation rows before stopping."""
    batch_size: StrictInt = Field(ge=1)
    """Rows of a step, over all processes."""
    accumulate: StrictInt = Field(ge=1)
    """Parts in which a process computes its share of a step, one after another: the same step in less memory."""
    parallel: Literal["ddp", "fsdp"]
    """What each process holds: all weights, or a part of them, for models that do not fit (`parallel.py`)."""
    precision: Literal["float32", "bfloat16"]
    """Precision of matrix products while learning; weights, sums and what is kept are float32 either way."""
    learning_rate: StrictFloat = Field(gt=0)
    """Peak of the one-cycle schedule."""
    warmup_share: StrictFloat = Field(ge=0, lt=1)
    """Share of all steps over which the rate rises."""
    weight_decay: StrictFloat = Field(ge=0)
    clip_norm: StrictFloat = Field(gt=0)
    """Largest norm of a gradient."""
    average_decay: StrictFloat = Field(ge=0, lt=1)
    """Per step, of the moving average of the weights that is validated and kept; 0 keeps the last weights."""
    negative_share: StrictFloat = Field(gt=0, le=1)
    """Of classes: share of the rows that are not positive that an epoch sees, drawn anew each time; the loss corrects
    the prior, so scores stay probabilities."""
    model: A
    """The workload's `Architecture`."""


AnyTrainConfig = TrainConfig[Any]


@dataclass(slots=True)
class Progress:
    """The curve so far and when to stop; plain values, so that a checkpoint can hold it."""

    patience: int
    watched: Watched
    curve: list[dict[str, float]]

    @property
    def best(self) -> dict[str, float]:
        """The earliest epoch of the best watched figure."""
        choose = max if self.watched.higher_is_better else min
        return choose(self.curve, key=lambda point: point[self.watched.name])

    @property
    def improved(self) -> bool:
        """Whether the latest epoch is the best one."""
        return self.best is self.curve[-1]

    @property
    def finished(self) -> bool:
        return bool(self.curve) and self.curve[-1]["epoch"] - self.best["epoch"] >= self.patience


def config_type(workload: Workload) -> type[AnyTrainConfig]:
    """TrainConfig with the workload's architecture under `model`."""
    return TrainConfig[workload.model.Architecture]  # type: ignore[name-defined]


def read_config(workload: Workload, path: Path | None = None, **overrides: Any) -> AnyTrainConfig:
    """The workload's `train.yaml`, or the file at `path`; raises ConfigError naming key, value and what was wanted."""
    return load_config(config_type(workload), path or workload.model.TRAIN_CONFIG, overrides)


def network_of(workload: Workload, config: AnyTrainConfig) -> Network:
    """One with random weights, from torch's generator."""
    made: Network = workload.model.network(config.model, workload.features.FEATURE_NAMES)
    return made


def epoch_rows(
    network: Network, rows: NDArray[np.int64], label: NDArray[Any], config: AnyTrainConfig, epoch: int
) -> list[NDArray[np.int64]]:
    """Batches of an epoch over all processes, shuffled; the same on every rank."""
    chosen = network.epoch_rows(rows, label, config.negative_share, np.random.default_rng((config.seed, epoch)))
    return np.split(chosen, range(config.batch_size, len(chosen), config.batch_size))


def shard(batch: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """One process's part of a batch: equal sizes, so that the mean of gradients is the gradient of the mean."""
    return batch[: len(batch) - len(batch) % world][rank::world]


def rate_at(step: int, steps: int, config: AnyTrainConfig) -> float:
    """Learning rate of a step: a straight rise, then half a cosine down to zero (one cycle)."""
    rise = max(round(steps * config.warmup_share), 1)
    if step < rise:
        return config.learning_rate * (step + 1) / rise
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


def model_id(training_set: Manifest, config: AnyTrainConfig, processes: int) -> str:
    """Id of what training would give: rows, hyper-parameters, code, and how many processes split a batch."""
    code = code_of(Path(__file__).parent, *load(training_set.workload).files("model", "features", "batch"))
    config = fitted_to(training_set, config)
    inputs = {"training_set": training_set.id, "config": config.model_dump(), "processes": processes, "code": code}
    return content_id(inputs)


def fitted_to(training_set: Manifest, config: AnyTrainConfig) -> AnyTrainConfig:
    """The same with smaller batches, where the rows are so few that an epoch would have hardly a step.

    Weights that moved a dozen times have learned nothing, and their moving average is still what it began as.
    """
    split = training_set.facts["splits"]["train"]
    positives = split.get("positives")
    seen = split["rows"]
    if positives is not None:
        seen = positives + int(config.negative_share * (split["rows"] - positives))
    batch_size = min(config.batch_size, max(seen // LEAST_STEPS, LEAST_BATCH))
    return config if batch_size == config.batch_size else config.model_copy(update={"batch_size": batch_size})


def train(training_set: Manifest, lake: Path, config: AnyTrainConfig, settings: Settings) -> Manifest:
    """The trained model, made unless it is there; a run that was killed goes on from its last epoch.

    Raises InvalidInput when the rows cannot train this model, AlreadyRunning for a second run of the same model, and
    TrainingFailed with the worker's traceback.
    """
    from components.train.launch import publish, run_workers

    config = fitted_to(training_set, config)
    identity = model_id(training_set, config, settings.processes)
    parents = training_set.as_parents()
    step = Step(kind="model", id=identity, workload=training_set.workload, lake=lake, parents=parents)
    done = step.found()
    if done is not None:
        return done

    require_trainable(TrainingSet(training_set), config)
    # Checkpoints outlive a killed run, which what is written aside does not: they lie in a folder of their own.
    work = step.folder.with_name(f".{identity}.run")
    with step.alone("training model"):
        training_set.verify()
        run_id = run_workers(training_set, config, settings, identity, work)
        return publish(step, config, settings, work, run_id)


def require_trainable(rows: TrainingSet, config: AnyTrainConfig) -> None:
    """Raise InvalidInput unless both splits have labels to learn from and the history is long enough."""
    network = network_of(rows.workload, config)
    if network.sequence_length and network.sequence_length > rows.history_length:
        raise InvalidInput(
            f"model.sequence_length is {network.sequence_length}; the training set keeps {rows.history_length} "
            "events. Shorten it, or raise MILLRACE_HISTORY_LENGTH and build the features again."
        )
    for split in ("train", "validation"):
        if lacking := network.lacking(rows.label[rows.rows_of(split)]):
            raise InvalidInput(f"the {split} rows {lacking}. Take more days: raise train_days or validation_days.")
