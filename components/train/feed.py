"""Rows on their way to the device: gathered from the mapped arrays, one batch ahead where that can overlap.

On a GPU a thread gathers and copies the next batch while this one is computed. On a CPU it would take the core from
the computation it runs beside, so batches are gathered when they are asked for. Order and content are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millrace.tabular.rows import Rows, inputs_of

Batch = tuple[Tensor, ...]
"""The network's inputs of B rows (features[B, F], history[B, L, C] where it reads one), then label[B]; all float32."""


class Feed:
    """The rows of a training set as tensors on a device."""

    def __init__(self, rows: Rows, length: int, device: torch.device) -> None:
        self.rows, self.length, self.device = rows, length, device

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Inputs and label of rows[B] on the device."""
        arrays = (*inputs_of(self.rows, rows, self.length), self.rows.label[rows].astype(np.float32))
        return tuple(self._moved(torch.from_numpy(array)) for array in arrays)

    def batches(self, order: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """Each part of `order`, in that order."""
        return ahead(self.batch, order) if self.device.type == "cuda" else map(self.batch, order)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def ahead(make: Callable[[NDArray[np.int64]], Batch], order: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
    """`make` of each part, the next one made by a thread while the last one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
        waiting = [thread.submit(make, part) for part in order[:1]]
        for following in [*order[1:], None]:
            if not waiting:
                return
            made = waiting.pop().result()
            if following is not None:
                waiting.append(thread.submit(make, following))
            yield made
