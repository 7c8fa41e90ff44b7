"""How the tests are computed: alibi-detect, or SciPy and scikit-learn. One interface, the same p-values.

Both give Kolmogorov-Smirnov and chi-squared per column, maximum mean discrepancy over all, and an isolation forest for
single rows. Libraries are imported where a backend is made.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.errors import ConfigError

PERMUTATIONS: Final = 100
"""Of the multivariate test; the smallest p-value is 1 / 101."""
FOREST_ROWS: Final = 256
"""Rows that grow each tree of the isolation forest (the published default)."""

Table = NDArray[np.float32]
IsOutlier = Callable[[Table], NDArray[np.bool_]]


class Backend(Protocol):
    """What a detector asks of a library."""

    name: str

    def per_feature(
        self, reference: Table, window: Table, categorical: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """reference[R, C], window[W, C] → statistics[C], p-values[C]; chi-squared for `categorical` columns (0/1)."""

    def joint(self, reference: Table, window: Table, seed: int) -> tuple[float, float]:
        """reference[R, C], window[W, C] → squared maximum mean discrepancy, p-value by permutation."""

    def outliers(self, reference: Table, share: float, seed: int) -> IsOutlier:
        """reference[R, C] → a function rows[W, C] → bool[W] that calls `share` of the reference outlying."""


def backend_of(name: str) -> Backend:
    """`alibi` or `streaming`; raises ConfigError."""
    if name == "alibi":
        return Alibi()
    if name == "streaming":
        return Streaming()
    raise ConfigError(f"the drift backend is {name!r}; wanted alibi or streaming")


class Streaming:
    """SciPy and scikit-learn: a tenth of the time and the memory."""

    name = "streaming"

    def per_feature(
        self, reference: Table, window: Table, categorical: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        distances = ks_distances(reference, window)
        p_values = ks_p_values(distances, len(reference), len(window))
        for column in categorical:
            distances[column], p_values[column] = chi_squared(reference[:, column], window[:, column])
        return distances, p_values

    def joint(self, reference: Table, window: Table, seed: int) -> tuple[float, float]:
        kernel = _gaussian_kernel(np.concatenate([reference, window]), len(reference))
        return permutation_test(kernel, len(reference), seed)

    def outliers(self, reference: Table, share: float, seed: int) -> IsOutlier:
        from sklearn.ensemble import IsolationForest

        forest = IsolationForest(max_samples=min(FOREST_ROWS, len(reference)), random_state=seed).fit(reference)
        limit = np.quantile(forest.score_samples(reference), share)
        return lambda rows: np.asarray(forest.score_samples(rows) < limit)


class Alibi:
    """alibi-detect 0.11.4 or 0.13.0: TabularDrift, MMDDrift on PyTorch, IForest."""

    name = "alibi"

    def __init__(self) -> None:
        from serving.drift_detector.alibi import load

        self._cd, self._od = load("cd"), load("od")
        logging.getLogger("alibi_detect").setLevel(logging.ERROR)
        self._fitted: dict[int, tuple[Table, Any]] = {}

    def per_feature(
        self, reference: Table, window: Table, categorical: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Only the categories that occur: a table with an empty column has no chi-squared.
        seen = {int(c): sorted({*reference[:, c].tolist(), *window[:, c].tolist()}) for c in categorical}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that all columns are numerical, where they are
            detector = self._cd.TabularDrift(
                reference, p_val=0.05, correction="fdr", categories_per_feature=dict.fromkeys(seen) or None
            )
        found = detector.predict(window, drift_type="feature", return_p_val=True, return_distance=True)["data"]
        distances, p_values = (np.asarray(found[key], np.float64) for key in ("distance", "p_val"))
        for column, values in seen.items():
            if len(values) < 2:
                distances[column], p_values[column] = 0.0, 1.0
        return distances, p_values

    def joint(self, reference: Table, window: Table, seed: int) -> tuple[float, float]:
        """The kernel is alibi-detect's; its way to shuffle it took 410 ms of CPU, thirty times as long as this one."""
        import torch

        test = self._cd.MMDDrift(reference, backend="pytorch", n_permutations=1, device="cpu")._detector
        with torch.no_grad():
            kernel = test.kernel_matrix(
                *(torch.from_numpy(np.ascontiguousarray(part)) for part in test.preprocess(window))
            )
        return permutation_test(kernel.numpy(), len(reference), seed)

    def outliers(self, reference: Table, share: float, seed: int) -> IsOutlier:
        forest = self._od.IForest()
        forest.isolationforest.set_params(random_state=seed)  # no argument of alibi-detect's
        forest.fit(reference)
        forest.infer_threshold(reference, threshold_perc=100 * (1 - share))
        return lambda rows: np.asarray(forest.predict(rows)["data"]["is_outlier"], bool)


def permutation_test(kernel: NDArray[np.float32], first: int, seed: int) -> tuple[float, float]:
    """kernel[N, N] of two samples, the first of `first` rows → squared mean discrepancy, p-value, in one product."""
    kernel = kernel - np.diag(kernel.diagonal())
    rows, sizes = len(kernel), (first, len(kernel) - first)
    rng = np.random.default_rng(seed)
    member = np.zeros((rows, PERMUTATIONS + 1), np.float32)
    member[:first, 0] = 1
    for permutation in range(1, PERMUTATIONS + 1):
        member[rng.permutation(rows)[:first], permutation] = 1
    inside = np.einsum("ij,ij->j", member, kernel @ member)
    across = kernel.sum(axis=1) @ member - inside
    outside = kernel.sum() - inside - 2 * across
    mmd = inside / (sizes[0] * (sizes[0] - 1)) + outside / (sizes[1] * (sizes[1] - 1))
    mmd = mmd - 2 * across / (sizes[0] * sizes[1])
    return float(mmd[0]), float((1 + (mmd[1:] >= mmd[0]).sum()) / (1 + PERMUTATIONS))


def chi_squared(reference: NDArray[np.float32], window: NDArray[np.float32]) -> tuple[float, float]:
    """Two samples of 0 and 1 → chi-squared with continuity correction, p-value; nothing where both are constant."""
    from scipy.stats import chi2_contingency

    counts = np.array([np.bincount(part.astype(np.int64), minlength=2) for part in (reference, window)])
    if (counts.sum(axis=0) == 0).any():
        return 0.0, 1.0
    statistic, p_value = chi2_contingency(counts)[:2]
    return float(statistic), float(p_value)


def ks_distances(reference: Table, window: Table) -> NDArray[np.float64]:
    """reference[R, C], window[W, C] → Kolmogorov-Smirnov distances[C], ties included."""
    rows, found = len(window), np.empty(reference.shape[1])
    step = np.arange(rows + 1) / rows
    for column, (ordered, new) in enumerate(zip(np.sort(reference.T), np.sort(window.T), strict=True)):
        # The distance is largest at a value of the window, or just before one.
        at = np.searchsorted(ordered, new, side="right") / len(ordered)
        before = np.searchsorted(ordered, new, side="left") / len(ordered)
        last = np.searchsorted(new, new, side="right")
        first = np.searchsorted(new, new, side="left")
        found[column] = max(np.abs(step[last] - at).max(), np.abs(before - step[first]).max())
    return found


def ks_p_values(distances: NDArray[np.float64], reference_rows: int, window_rows: int) -> NDArray[np.float64]:
    """Asymptotic two-sided p-values, as `scipy.stats.ks_2samp` gives them."""
    from scipy.stats import kstwo

    effective = round(reference_rows * window_rows / (reference_rows + window_rows))
    return np.asarray(np.clip(kstwo.sf(distances, effective), 0, 1), np.float64)


def _gaussian_kernel(rows: Table, reference: int) -> NDArray[np.float32]:
    """exp(-distance² / 2σ²), σ² half the median squared distance of the first `reference` rows, as alibi-detect's."""
    squares = np.einsum("ij,ij->i", rows, rows)
    distance = np.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T, 0)
    inner = distance[:reference, :reference][np.triu_indices(reference, 1)]
    kernel: NDArray[np.float32] = np.exp(-distance / max(float(np.median(inner)), 1e-12)).astype(np.float32)
    return kernel
