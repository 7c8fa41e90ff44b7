"""Rules about days: which there are, and how many rows each has, by what is usual on its weekday."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.validate.comparison import Comparison, same_weekday
from components.validate.config import ValidateConfig
from components.validate.profile import Counts, Floats, Profile
from millrace.instants import date_of
from millrace.judge.gates import Rule

MAD_TO_SIGMA: Final = 1.4826


def extent(c: Comparison, config: ValidateConfig) -> list[Rule]:
    """Which days and columns there are, and whether history has shrunk against the predecessor."""
    days = c.snapshot.days
    span = int(days[-1] - days[0]) + 1
    # A snapshot that holds only what is new still has to follow on its predecessor.
    first = days[0] if c.previous_last_day is None else min(days[0], c.previous_last_day + 1)
    missing = np.setdiff1d(np.arange(first, days[-1] + 1), days)
    missing = missing[_usual_weekday(days, missing)]
    allowed = max(config.max_missing_days, int((config.max_missing_share or 0.0) * span))
    rules = [
        Rule("days", span, ">=", config.min_days),
        Rule("missing_days", len(missing), "<=", allowed, _listed(missing)),
        Rule("columns_lost", len(c.columns_lost), "<=", 0, ", ".join(c.columns_lost)),
    ]

    if c.previous_last_day is not None:
        rules.append(Rule("days_behind_predecessor", c.previous_last_day - int(days[-1]), "<=", 0))
    if c.rows_lost_share is not None:
        rules.append(Rule("rows_lost_share", c.rows_lost_share, "<=", config.max_rows_lost_share))
    return rules


def day_rows(c: Comparison, config: ValidateConfig) -> list[Rule]:
    """The judged day with the fewest rows, and the one with the most, against those expected."""
    expected, tolerance = expected_rows(c, config)
    expected, tolerance, days = expected[c.judged], tolerance[c.judged], c.snapshot.days[c.judged]
    share = c.snapshot.rows[c.judged] / np.maximum(expected, 1)
    rise = allowed_rise(expected, tolerance, config)
    low = int(np.argmin((share - 1) / tolerance))
    high = int(np.argmax((share - 1) / rise))
    return [
        Rule("day_rows_low", float(share[low]), ">=", float(1 - tolerance[low]), str(date_of(days[low]))),
        Rule("day_rows_high", float(share[high]), "<=", float(1 + rise[high]), str(date_of(days[high]))),
    ]


def expected_rows(c: Comparison, config: ValidateConfig) -> tuple[Floats, Floats]:
    """[D] rows expected on each day (the reference's median of that weekday), [D] the share they may fall short by."""
    expected = _by_weekday(c.reference, c.snapshot.days)
    usual = _by_weekday(c.reference, c.reference.days)
    deviation = np.abs(c.reference.rows / np.maximum(usual, 1) - 1)
    sigma = np.maximum(MAD_TO_SIGMA * np.median(deviation), 1 / np.sqrt(np.maximum(expected, 1)))  # a count's own noise
    tolerance = config.day_rows_sigmas * sigma
    return expected, np.clip(tolerance, config.day_rows_min_tolerance, config.day_rows_max_tolerance)


def allowed_rise(expected: Floats, tolerance: Floats, config: ValidateConfig) -> Floats:
    """[D] the share by which rows may exceed those expected: the tolerance, and more of a handful or where allowed."""
    by_chance = config.day_rows_sigmas / np.sqrt(np.maximum(expected, 1))
    few = np.where(by_chance > config.day_rows_max_tolerance, by_chance, 0.0)
    return np.maximum(np.maximum(tolerance, few), config.day_rows_max_rise or 0.0)


def _by_weekday(reference: Profile, days: Counts) -> Floats:
    """[D] median rows of the reference's days with the same weekday."""
    medians = {
        weekday: np.median(reference.rows[same_weekday(reference, [weekday])]) if len(reference) else 0.0
        for weekday in range(7)
    }
    return np.array([medians[int(day) % 7] for day in days], np.float64)


def _usual_weekday(days: Counts, asked: Counts) -> NDArray[np.bool_]:
    """Which of the `asked` days are of a weekday that has rows in half of its weeks or more."""
    everywhere = np.arange(days[0], days[-1] + 1)
    whole = np.bincount(everywhere % 7, minlength=7)
    held = np.bincount(days % 7, minlength=7)
    usual: NDArray[np.bool_] = (2 * held >= whole)[asked % 7]
    return usual


def _listed(days: Counts) -> str:
    shown = ", ".join(str(date_of(day)) for day in days[:5])
    return shown + (f" and {len(days) - 5} more" if len(days) > 5 else "")
