"""How fast training is: one process, two, and bare torch loops over the same tensors, taking turns.

`python -m benchmarks.training [--training-set FOLDER] [--config FILE]` prints a table and writes
`.millrace/bench/training.json`; FILE takes the place of `train.yaml`, to try a `precision`, say. A minute or two on a
quiet machine; on a busy one the two-threaded loop waits in a spin for its second thread, and its figures mean little.

- one_process, two_processes: the trainer of `components/train` as it runs, a thread each, on one core and on two. A
  step has the same rows in all, gathered from the mapped arrays.
- bare_loop: forward, backward and AdamW (fused, as the trainer's), one process with one thread, over the same batches
  lying in memory as tensors. No gathering, clipping, moving average or exchange.
- bare_loop_two_threads: the same with two threads: what a plain loop makes of both cores.
- two_bare_loops: two of them side by side that know nothing of each other, each with half of every batch. What learns
  one model cannot be faster on two cores; `ceiling_2` is how much faster than one they are together.

`speedup_2` is two_processes over one_process, `vs_bare_loop` two_processes over bare_loop_two_threads, `vs_ceiling`
over two_bare_loops, `one_vs_bare_one_thread` one_process over bare_loop. All contenders live through all rounds and
take turns of a second or two, so that a slow moment of the machine hits each alike; ratios are of neighbouring turns,
medians over rounds. `cpu_us` is processor time a sample, which neighbours disturb less; `speedup_2_by_cpu` is the
speed-up that it allows: what two processes reach if neither ever waits.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from components.train.core import AnyTrainConfig, epoch_rows, network_of, read_config, shard
from components.train.feed import Feed
from components.train.parallel import processes
from components.train.trainer import Trainer
from fraud.features import FEATURE_NAMES, FEATURE_SERVICE
from millrace.installed import load
from millrace.instants import DAY_US
from millrace.lake.atomic import write_text
from millrace.lake.manifest import Manifest, content_id, hash_files, list_manifests
from millrace.lake.training_set import SPLITS, TrainingSet
from millrace.settings import Settings, settings

ROUNDS: Final = 9
STEPS: Final = 12
"""Of a turn."""

Turn = Callable[[], int]
"""Does the steps of a turn; returns the samples that they were of."""


@dataclass(frozen=True, slots=True)
class Contender:
    """`processes` of them at once, each with `threads`."""

    bare: bool
    processes: int = 1
    threads: int = 1


CONTENDERS: Final = {
    "one_process": Contender(bare=False),
    "two_processes": Contender(bare=False, processes=2),
    "bare_loop": Contender(bare=True),
    "bare_loop_two_threads": Contender(bare=True, threads=2),
    "two_bare_loops": Contender(bare=True, processes=2),
}


def trainer_turn(trainer: Trainer) -> Turn:
    """The trainer's own loop."""
    order = trainer.order(0)[:STEPS]
    trainer.fit_preprocessing()

    def turn() -> int:
        trainer.learn(order, 0)
        return sum(map(len, order))

    return turn


def bare_turn(rows: TrainingSet, config: AnyTrainConfig, rank: int, world: int) -> Turn:
    """A loop over tensors with nothing around it."""
    train_rows = rows.rows_of("train")
    model = network_of(rows.workload, config).train()
    order = epoch_rows(model, train_rows, rows.label[train_rows], config, 0)[:STEPS]
    feed = Feed(rows, model.sequence_length, torch.device("cpu"))
    batches = [feed.batch(shard(batch, rank, world)) for batch in order]
    *inputs, label = batches[0]
    model.fit_preprocessing(inputs, label, rows.label[train_rows])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )

    def turn() -> int:
        for *inputs, label in batches:
            loss = model.loss(model.member_outputs(*inputs), label, negative_share=1.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return sum(len(label) for *_, label in batches)

    return turn


def contend(
    orders: Connection, contender: Contender, rank: int, port: int, folder: str, config: AnyTrainConfig
) -> None:
    """One process of a contender: a turn for every order it gets, answered by samples, seconds, processor seconds."""
    rows = TrainingSet(Manifest.read(folder, "training_set"))
    if contender.bare:
        torch.set_num_threads(contender.threads)
        torch.set_flush_denormal(True)
        _take_turns(orders, bare_turn(rows, config, rank, contender.processes))
        return
    places = {"RANK": rank, "WORLD_SIZE": contender.processes, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in places.items()} | {"MASTER_ADDR": "127.0.0.1"}
    with processes() as process:
        _take_turns(orders, trainer_turn(Trainer(rows, config, process)))


def measure(training_set: Manifest, config: AnyTrainConfig, rounds: int) -> dict[str, float]:
    """Every contender once a round, after a turn that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    costs: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with ExitStack() as stack:
        groups = {name: stack.enter_context(_started(one, training_set, config)) for name, one in CONTENDERS.items()}
        for _ in range(rounds + 1):
            for name, group in groups.items():
                samples, seconds, cpu = _turn(group)
                speeds[name].append(samples / seconds)
                costs[name].append(1e6 * cpu / samples)
    return _figures({n: s[1:] for n, s in speeds.items()}, {n: c[1:] for n, c in costs.items()})


def _figures(speeds: dict[str, list[float]], costs: dict[str, list[float]]) -> dict[str, float]:
    def over(top: str, bottom: str) -> float:
        return statistics.median(a / b for a, b in zip(speeds[top], speeds[bottom], strict=True))

    cpu = {name: statistics.median(values) for name, values in costs.items()}
    return {
        **{f"{name}_samples_per_s": statistics.median(values) for name, values in speeds.items()},
        **{f"{name}_cpu_us": value for name, value in cpu.items()},
        "speedup_2": over("two_processes", "one_process"),
        "speedup_2_by_cpu": 2 * cpu["one_process"] / cpu["two_processes"],
        "ceiling_2": over("two_bare_loops", "bare_loop"),
        "vs_ceiling": over("two_processes", "two_bare_loops"),
        "vs_bare_loop": over("two_processes", "bare_loop_two_threads"),
        "one_vs_bare_one_thread": over("one_process", "bare_loop"),
    }


@contextmanager
def _started(contender: Contender, training_set: Manifest, config: AnyTrainConfig) -> Iterator[list[Connection]]:
    """A connection to each of a contender's processes; all are ended on the way out."""
    context, port = multiprocessing.get_context("spawn"), _free_port()
    connections, children = [], []
    try:
        for rank in range(contender.processes):
            ours, theirs = context.Pipe()
            arguments = (theirs, contender, rank, port, training_set.uri, config)
            children.append(context.Process(target=contend, args=arguments, daemon=True))
            children[-1].start()
            theirs.close()
            connections.append(ours)
        yield connections
    finally:
        for ours in connections:
            ours.close()
        for child in children:
            child.join(30)


def _take_turns(orders: Connection, turn: Turn) -> None:
    """Until the other end is closed."""
    while True:
        try:
            orders.recv()
        except EOFError:
            return
        begin, cpu_begin = time.perf_counter(), time.process_time()
        samples = turn()
        orders.send((samples, time.perf_counter() - begin, time.process_time() - cpu_begin))


def _turn(group: list[Connection]) -> tuple[int, float, float]:
    """Samples and processor seconds of all processes of a contender, and the seconds of the slowest."""
    for connection in group:
        connection.send(None)
    samples, seconds, cpu = zip(*(connection.recv() for connection in group), strict=True)
    return sum(samples), max(seconds), sum(cpu)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training-set", type=Path, help="default: the latest in the lake, else random rows")
    parser.add_argument("--config", type=Path, help="default: the train.yaml of its workload")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    here = settings()
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as scratch:
        training_set = _training_set(arguments.training_set, here, Path(scratch))
        figures = measure(training_set, read_config(load(training_set.workload), arguments.config), arguments.rounds)
    print(f"{'contender':<40}{'samples/s':>12}")
    for name, value in figures.items():
        print(f"{name:<40}{value:>12.2f}" if "per_s" not in name else f"{name:<40}{value:>12.0f}")
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
        "event_us": np.arange(rows) * DAY_US // 1_000,
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
    return Manifest(
        kind="training_set", id=content_id(files), workload="fraud", uri=str(folder), files=files, facts=facts
    ).write()


if __name__ == "__main__":
    main()
