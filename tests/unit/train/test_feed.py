"""Rows on their way to the trainer, and what is told of the wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from components.train.core import AnyTrainConfig
from components.train.feed import Batch, Feed, ahead
from components.train.meter import Meter
from components.train.parallel import Process
from components.train.trainer import Trainer
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet

ALONE = Process(0, 1, torch.device("cpu"))


def test_batches_made_ahead_are_those_made_when_asked_for_in_the_same_order(training_set: Manifest) -> None:
    feed = Feed(TrainingSet(training_set), 8, ALONE.device)
    order = np.array_split(np.random.default_rng(0).permutation(500), 7)

    early, asked = list(ahead(feed.batch, order)), list(feed.batches(order))

    torch.testing.assert_close(early, asked, rtol=0, atol=0)
    assert list(ahead(feed.batch, [])) == []


def test_the_next_batch_is_made_while_one_is_used(training_set: Manifest) -> None:
    feed, made = Feed(TrainingSet(training_set), 8, ALONE.device), threading.Semaphore(0)

    def make(rows: np.ndarray) -> Batch:
        made.release()
        return feed.batch(rows)

    batches = ahead(make, np.array_split(np.arange(40), 4))
    next(batches)

    assert made.acquire(timeout=10)
    assert made.acquire(timeout=10)  # the second one, although nobody asked for it yet
    batches.close()  # type: ignore[attr-defined]


def test_a_row_that_cannot_be_read_ahead_fails_the_epoch(training_set: Manifest) -> None:
    feed = Feed(TrainingSet(training_set), 8, ALONE.device)

    with pytest.raises(IndexError):
        list(ahead(feed.batch, [np.arange(5), np.array([10**9])]))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_starved_epoch_is_seen() -> None:
    clock, cpu = Clock(), Clock()
    meter = Meter(ALONE, clock, cpu)

    def slow() -> Iterator[int]:
        for number in range(4):
            clock.now += 0.75
            yield number

    for _ in meter.watched(slow()):
        clock.now += 0.25
        cpu.now += 0.2

    assert meter.point(800) == pytest.approx({"samples_per_s": 200, "stall_share": 0.75, "cpu_utilisation": 0.2})


def test_an_epoch_tells_how_it_used_the_machine(
    training_set: Manifest, small_config: Callable[..., AnyTrainConfig]
) -> None:
    trainer = Trainer(TrainingSet(training_set), small_config(), ALONE)
    trainer.fit_preprocessing()

    point = trainer.epoch(0)

    assert set(point) == {"loss", "samples_per_s", "stall_share", "cpu_utilisation"}
    assert 0 < point["stall_share"] < 1
    assert 0 < point["cpu_utilisation"] < 1.5
    assert point["samples_per_s"] > 0
