"""Online detectors: every request one step, a signal when the stream has changed, a run length between false ones.

Companions to the windows, off by default (`MILLRACE_DRIFT_ONLINE`): they signal on a metric and raise no alarm, since a
run length of a month of requests is beyond what their thresholds can be set for. They begin anew with the process.
"""

from __future__ import annotations

import warnings
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 200
"""Steps of an expected run length: with more, alibi-detect needs tens of thousands of bootstraps for its threshold."""
BOOTSTRAPS: Final = 2_000
WINDOW: Final = 40
REFERENCE_ROWS: Final = 400


class Online(Protocol):
    """What follows a stream row by row."""

    def add(self, rows: NDArray[np.float32]) -> int:
        """rows[n, C] without NaN → how many of these steps signalled."""


class Adwin:
    """river's ADWIN on every column: is the mean of the newest rows that of those before?"""

    def __init__(self, columns: int, expected_run_length: int) -> None:
        from river.drift import ADWIN

        # The bound is on every comparison of two means; it compares every 32 rows, in some ten places.
        self._detectors = [ADWIN(delta=min(0.5, 32 / expected_run_length / columns)) for _ in range(columns)]

    def add(self, rows: NDArray[np.float32]) -> int:
        signals = 0
        for detector, column in zip(self._detectors, rows.T.tolist(), strict=True):
            for value in column:
                detector.update(value)
                signals += detector.drift_detected
        return signals


class OnlineMMD:
    """alibi-detect's MMDDriftOnline on every k-th row, so that its run length in steps is one it can be set for."""

    def __init__(self, reference: NDArray[np.float32], expected_run_length: int, seed: int) -> None:
        from serving.drift_detector.alibi import load

        rng = np.random.default_rng(seed)
        sample = reference[rng.choice(len(reference), min(REFERENCE_ROWS, len(reference)), replace=False)]
        self._centre, self._scale = sample.mean(axis=0), np.maximum(sample.std(axis=0), 1e-6)
        self._every, self._seen = max(1, expected_run_length // STEPS), 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._detector = load("cd").MMDDriftOnline(
                (sample - self._centre) / self._scale,
                ert=min(expected_run_length, STEPS),
                window_size=WINDOW,
                backend="pytorch",
                n_bootstraps=BOOTSTRAPS,
                device="cpu",
                verbose=False,
            )

    def add(self, rows: NDArray[np.float32]) -> int:
        places = np.flatnonzero((self._seen + np.arange(len(rows))) % self._every == 0)
        self._seen += len(rows)
        signals = 0
        for row in (rows[places] - self._centre) / self._scale:
            if self._detector.predict(row.astype(np.float32))["data"]["is_drift"]:
                signals += 1
                self._detector.reset_state()
        return signals


def online_of(backend: str, reference: NDArray[np.float32], expected_run_length: int, seed: int = 0) -> Online:
    """The online companion of a backend, for columns like `reference[R, C]`."""
    if backend == "alibi":
        return OnlineMMD(reference, expected_run_length, seed)
    return Adwin(reference.shape[1], expected_run_length)
