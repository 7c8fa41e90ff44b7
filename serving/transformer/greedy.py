"""The next batch of what waits, without a timer: whoever is free takes what has gathered meanwhile."""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import TypeVar

T = TypeVar("T")


def take(waiting: MutableSequence[T], size: Callable[[T], int], most: int) -> list[T]:
    """Remove the first that have at most `most` together, and return them; one alone may have more."""
    total = 0
    batch: list[T] = []
    while waiting and (not batch or total + size(waiting[0]) <= most):
        batch.append(waiting[0])
        total += size(waiting[0])
        del waiting[0]
    return batch
