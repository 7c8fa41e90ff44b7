"""How fast training is: one process, two processes, and a bare torch loop over the same tensors, interleaved.

`python -m benchmarks.training [--training-set FOLDER]` prints a table and writes `.millrace/bench/training.json`:
`speedup_2` is two processes over one; `vs_bare_loop` two processes over a bare loop of the same model on both cores;
`one_vs_bare_one_thread` the same on one core, which is what the trainer itself costs. Medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from components.train.core import TrainConfig, epoch_rows, read_config
from components.train.torchrun import ENVIRONMENT, torchrun
from millrace.artifacts import Manifest, content_id, hash_files, list_manifests
from millrace.atomic import write_text
from millrace.fraud.features import DAY_US, FEATURE_NAMES, FEATURE_SERVICE
from millrace.fraud.model import FraudModel
from millrace.fraud.training_set import SPLITS, TrainingSet
from millrace.settings import Settings, settings

ROUNDS: Final = 3
EPOCHS: Final = 3
"""The first epoch of a process warms up; the others count."""


def processes(training_set: Manifest, config: TrainConfig, count: int) -> float:
    """Samples a second of the real trainer on `count` processes: median epoch after the first."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as name:
        folder = Path(name)
        job = {"training_set": training_set.uri, "config": config.model_dump(), "description": {}}
        write_text(folder / "job.json", json.dumps(job))
        command = torchrun(folder, count)
        subprocess.run(command, check=True, env=os.environ | ENVIRONMENT, stderr=subprocess.DEVNULL)
        curve = json.loads((folder / "training_curve.json").read_text())
    return statistics.median(point["samples_per_s"] for point in curve[1:])


def bare_loop(training_set: Manifest, config: TrainConfig, threads: int) -> float:
    """Samples a second of forward, backward and AdamW over tensors that lie in memory; nothing else."""
    torch.set_num_threads(threads)
    torch.manual_seed(config.seed)
    rows = TrainingSet(training_set)
    train_rows = rows.rows_of("train")
    batches = []
    for batch in epoch_rows(train_rows, rows.label[train_rows], config, 0):
        arrays = (*rows.batch(batch, config.model.sequence_length), rows.label[batch].astype(np.float32))
        batches.append(tuple(map(torch.from_numpy, arrays)))
    model = FraudModel(config.model.spec())
    features, history, label = batches[0]
    model.fit_preprocessing(features, history, label, float(rows.label[train_rows].mean()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    speeds = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        for features, history, label in batches:
            logits = model.member_logits(features, history)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, label.expand_as(logits))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        speeds.append(sum(len(label) for *_, label in batches) / (time.perf_counter() - start))
    return statistics.median(speeds[1:])


def measure(training_set: Manifest, config: TrainConfig, rounds: int) -> dict[str, float]:
    """Every contender once a round, so that a slow minute of the machine hits all of them."""
    contenders: dict[str, Callable[[], float]] = {
        "one_process": lambda: processes(training_set, config, 1),
        "two_processes": lambda: processes(training_set, config, 2),
        "bare_loop": lambda: bare_loop(training_set, config, 1),
        "bare_loop_two_threads": lambda: bare_loop(training_set, config, 2),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            speeds[name].append(run())
    median = {f"{name}_samples_per_s": statistics.median(values) for name, values in speeds.items()}

    def over(top: str, bottom: str) -> float:
        return statistics.median(a / b for a, b in zip(speeds[top], speeds[bottom], strict=True))

    return median | {
        "speedup_2": over("two_processes", "one_process"),
        "vs_bare_loop": over("two_processes", "bare_loop_two_threads"),
        "one_vs_bare_one_thread": over("one_process", "bare_loop"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training-set", type=Path, help="default: the latest in the lake, else random rows")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    here = settings()
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as scratch:
        training_set = _training_set(arguments.training_set, here, Path(scratch))
        config = read_config(epochs=EPOCHS, patience=EPOCHS)
        figures = measure(training_set, config, arguments.rounds)
    print(f"{'contender':<28}{'samples/s':>12}")
    for name, value in figures.items():
        print(f"{name:<28}{value:>12.2f}" if "vs" in name or "speed" in name else f"{name:<28}{value:>12.0f}")
    write_text(here.home / "bench" / "training.json", json.dumps(figures, indent=2) + "\n")


def _training_set(folder: Path | None, here: Settings, scratch: Path) -> Manifest:
    if folder is not None:
        return Manifest.read(folder, "training_set")
    found = list(list_manifests(here.lake / "training_sets", "training_set"))
    fitting = [one for one in found if _opens(one)]
    return fitting[-1] if fitting else _random_set(scratch / "set")


def _opens(manifest: Manifest) -> bool:
    try:
        return len(TrainingSet(manifest)) > 0
    except (OSError, LookupError):
        return False


def _random_set(folder: Path, rows: int = 240_000) -> Manifest:
    """As many rows as 28 days have, of random numbers: speed does not depend on what they mean."""
    rng = np.random.default_rng(0)
    customer = np.sort(rng.integers(0, 5_000, rows))
    arrays: dict[str, Any] = {
        "pool_event_us": np.arange(rows) * DAY_US // 1_000,
        "pool_amount_cents": rng.integers(100, 20_000, rows),
        "pool_terminal_risk": rng.random(rows, np.float32),
        "row_position": np.arange(rows),
        "row_start": np.searchsorted(customer, customer),
        "features": rng.random((rows, len(FEATURE_NAMES)), np.float32),
        "label": (rng.random(rows) < 0.01).astype(np.int8),
        "split": rng.choice(len(SPLITS), rows, p=(0.95, 0.03, 0.02)).astype(np.int8),
    }
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    files = hash_files(folder)
    facts = {"history_length": 64, "feature_service": FEATURE_SERVICE}
    return Manifest(kind="training_set", id=content_id(files), uri=str(folder), files=files, facts=facts).write()


if __name__ == "__main__":
    main()
