"""Scores of identical requests for a while, bounded in rows; the oldest go first. A model version has its own cache."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


class ScoreCache:
    """Request → scores[B], for `ttl_s` seconds."""

    def __init__(self, ttl_s: float, max_rows: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s, self._max_rows, self._clock = ttl_s, max_rows, clock
        self._entries: OrderedDict[bytes, tuple[float, NDArray[np.float32]]] = OrderedDict()
        self._rows = 0

    @staticmethod
    def key(features: NDArray[np.float32], history: NDArray[np.float32]) -> bytes:
        """Of what the model reads, bit by bit; the numbers of rows and steps are in the shapes."""
        digest = blake2b(repr((features.shape, history.shape)).encode(), digest_size=16)
        digest.update(features.tobytes())
        digest.update(history.tobytes())
        return digest.digest()

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        expires, scores = self._entries.get(key, (0.0, None))
        return scores if scores is not None and self._clock() < expires else None

    def put(self, key: bytes, scores: NDArray[np.float32]) -> None:
        """Keep `scores`; what is too old or too much goes."""
        now = self._clock()
        self._drop(key)
        self._entries[key] = (now + self._ttl_s, scores)
        self._rows += len(scores)
        while self._entries:
            oldest = next(iter(self._entries))
            if self._rows <= self._max_rows and self._entries[oldest][0] > now:
                break
            self._drop(oldest)

    def __len__(self) -> int:
        return self._rows

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._rows -= len(entry[1])
