"""How well an epoch used the machine: rows a second, time spent waiting for rows, how busy processor and GPU were."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

import torch

from components.train.parallel import Process, add_up

T = TypeVar("T")


class Meter:
    """Started when made, read once by `point`. Clocks are seconds that pass, and seconds of processor time."""

    def __init__(
        self,
        process: Process,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._process, self._clock, self._cpu_clock = process, clock, cpu_clock
        self._begin, self._cpu_begin, self._stalled = clock(), cpu_clock(), 0.0

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`, with the time that each was waited for counted as a stall."""
        source = iter(batches)
        while True:
            asked = self._clock()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._stalled += self._clock() - asked
            yield batch

    def point(self, samples: float) -> dict[str, float]:
        """Means over the processes, of which all call this; `samples` are those of all of them together.

        `stall_share` of the time went by waiting for rows; `cpu_utilisation` is in processors a process kept busy, one
        at best on CPUs, and what it lacks is waiting for rows, for other processes, or for a processor.
        """
        process = self._process
        busy = self._gpu_utilisation()
        seconds = self._clock() - self._begin
        cpu = self._cpu_clock() - self._cpu_begin
        sums = torch.tensor([seconds, cpu, self._stalled, busy], dtype=torch.float64, device=process.device)
        seconds, cpu, stalled, busy = (add_up(sums, process) / process.world).tolist()

        point = {
            "samples_per_s": samples / seconds,
            "stall_share": stalled / seconds,
            "cpu_utilisation": cpu / seconds,
        }
        told = process.device.type == "cuda" and math.isfinite(busy)
        return point | {"gpu_utilisation": busy} if told else point

    def _gpu_utilisation(self) -> float:
        """Share of the last moments in which the GPU computed, while the epoch's last steps are still queued there."""
        if self._process.device.type != "cuda":
            return 0.0
        share = float("nan")
        with suppress(ModuleNotFoundError, RuntimeError):  # NVML's bindings are not part of torch
            share = torch.cuda.utilization(self._process.device) / 100
        torch.cuda.synchronize(self._process.device)
        return share
