"""Hours and weekends: which columns vary with them, and reference rows of the same hours as a window.

A window of a thousand requests is two hours of a day. Compared with whole days, whatever varies with the hour would
drift in every window; compared with the same hours, it does not.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

HOURS: Final = 24
SEASONAL_EFFECT: Final = 0.01
"""Share of a column's rank variance that the hour and the weekend explain, from which it counts as seasonal."""
MIN_MATCHED_ROWS: Final = 500


def season_bins(hour: NDArray[np.float32], weekend: NDArray[np.float32]) -> NDArray[np.int64]:
    """Hour in [0, 24) and weekend 0/1 of every row → bin in [0, 48)."""
    return np.clip(hour, 0, HOURS - 1).astype(np.int64) + HOURS * (weekend > 0.5)


def seasonal_columns(table: NDArray[np.float32], bins: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[R, C] and the rows' bins → [C]: does the season explain a column? Epsilon squared of a Kruskal-Wallis test."""
    from scipy.stats import kruskal

    # Blocks of three hours: enough rows in each, also of a small reference.
    blocks = (bins % HOURS) // 3 + 8 * (bins >= HOURS)
    groups = [blocks == block for block in np.unique(blocks) if (blocks == block).sum() >= 20]
    rows = sum(int(group.sum()) for group in groups)
    seasonal = np.zeros(table.shape[1], bool)
    if len(groups) < 2:
        return seasonal
    for index, column in enumerate(table.T):
        if np.ptp(column) == 0:
            continue
        statistic, p_value = kruskal(*(column[group] for group in groups))
        effect = (statistic - len(groups) + 1) / (rows - len(groups))
        seasonal[index] = effect > SEASONAL_EFFECT and p_value < 1e-3
    return seasonal


def matched_rows(
    reference: NDArray[np.int64], window: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of the reference, without repetition, in the window's mix of hours and weekends.

    A reference without the window's days (only weekdays, say) is matched by the hour alone; where the hours have
    fewer than MIN_MATCHED_ROWS rows, neighbouring hours are drawn more often instead of repeating rows.
    """
    everything = np.arange(len(reference))
    if len(window) == 0:
        return everything
    for pair in ((reference, window), (reference % HOURS, window % HOURS)):
        chosen = _stratified(*pair, rng)
        if len(chosen) >= MIN_MATCHED_ROWS:
            return chosen
    near = np.unique((window[:, None] % HOURS + np.arange(-1, 2)) % HOURS)
    wider = everything[np.isin(reference % HOURS, near)]
    return wider if len(wider) >= min(MIN_MATCHED_ROWS, len(reference)) else everything


def _stratified(reference: NDArray[Any], window: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many rows as possible so that every bin has the window's share; bins with under 2 % of it do not bind."""
    size = 2 * HOURS
    share = np.bincount(window, minlength=size) / len(window)
    there = np.bincount(reference, minlength=size)
    binding = share >= 0.02
    total = (there[binding] / share[binding]).min()
    wanted = np.minimum(np.floor(total * share), there).astype(np.int64)
    order = rng.permutation(len(reference))
    ordered = reference[order]
    rank = np.empty(len(reference), np.int64)
    for place in np.flatnonzero(wanted):
        inside = ordered == place
        rank[inside] = np.arange(int(inside.sum()))
    chosen = np.isin(ordered, np.flatnonzero(wanted))
    chosen[chosen] = rank[chosen] < wanted[ordered[chosen]]
    return np.sort(order[chosen])
