"""Answers of identical requests for a while, bounded in rows; the oldest go first. Each model version has its own."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from millrace.registry.model_artifact import Floats, Outputs


class ScoreCache:
    """Request → outputs, [B] each, for `ttl_s` seconds."""

    def __init__(self, ttl_s: float, max_rows: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s, self._max_rows, self._clock = ttl_s, max_rows, clock
        self._entries: OrderedDict[bytes, tuple[float, Outputs]] = OrderedDict()
        self._rows = 0

    @staticmethod
    def key(*inputs: Floats) -> bytes:
        """Of what the model reads, bit by bit; the numbers of rows and steps are in the shapes."""
        digest = blake2b(repr([tensor.shape for tensor in inputs]).encode(), digest_size=16)
        for tensor in inputs:
            digest.update(tensor.tobytes())
        return digest.digest()

    def get(self, key: bytes) -> Outputs | None:
        expires, outputs = self._entries.get(key, (0.0, None))
        return outputs if outputs is not None and self._clock() < expires else None

    def put(self, key: bytes, outputs: Outputs) -> None:
        """Keep `outputs`; what is too old or too much goes."""
        now = self._clock()
        self._drop(key)
        self._entries[key] = (now + self._ttl_s, outputs)
        self._rows += len(outputs["score"])
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
            self._rows -= len(entry[1]["score"])
