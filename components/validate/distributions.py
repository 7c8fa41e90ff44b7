"""Rules about distributions: the values of fields, times of day, the clock."""

from __future__ import annotations

from typing import Final

import numpy as np

from components.validate.clock import clock_shift
from components.validate.comparison import Comparison, same_weekday, worst
from components.validate.config import ValidateConfig
from components.validate.profile import BINS_PER_E, ZERO_BIN, Counts, Profile, Values
from millrace.fields import Field, Kind
from millrace.judge.gates import Rule

CENT: Final = 0.01
RANGE_FLOOR: Final = 1e-3
"""Values below this share of the reference's largest are as good as 0 in a ratio."""
KS_DAY, KS_WINDOW = 1.95, 1.63
"""Kolmogorov's distance exceeded by chance once in a thousand, and in a hundred, comparisons."""
MEDIAN_ROWS: Final = 20
"""Fewer values than this make no median of a day."""


def values(c: Comparison, measured: Field, config: ValidateConfig) -> list[Rule]:
    """Rules of one field: its range, its median day by day, its distribution as a whole.

    A label is judged on the days that have most of theirs. Ratios are asked of fields that are never negative. A field
    that may be empty, and is in every row of both sides, has nothing to judge.
    """
    name = measured.name
    known = c.snapshot.values[name].known.any() or c.reference.values[name].known.any()
    if measured.empty and name != c.measured.label and not known:
        return []

    expected = c.snapshot.labelled >= 0.5 * c.snapshot.rows if name == c.measured.label else c.snapshot.rows > 0
    judged = np.flatnonzero(c.judged & expected & (c.snapshot.values[name].known > 0))
    now, days = c.snapshot.values[name].take(judged), c.snapshot.days[judged]
    shift = excess_ks(
        c.snapshot.values[name].bins[c.current & expected].sum(axis=0),
        c.reference.values[name].bins.sum(axis=0),
        KS_WINDOW,
    )
    rules = []
    if measured.minimum is not None:
        smallest = worst(now.minimum, days, np.argmin)
        rules.append(Rule(f"{name}_min", smallest[0], ">=", measured.minimum, smallest[1]))
    if measured.minimum is not None and measured.minimum >= 0:
        rules += _ratios(now, days, c.reference.take(c.reference.values[name].known > 0), measured, config)
    return [*rules, Rule(f"{name}_ks", shift, "<=", config.max_value_ks)]


def _ratios(now: Values, days: Counts, reference: Profile, measured: Field, config: ValidateConfig) -> list[Rule]:
    name = measured.name
    usual = reference.values[name]
    highest = usual.maximum.max(initial=0)
    floor = CENT if measured.kind is Kind.MONEY else max(RANGE_FLOOR * highest, 1e-9)
    median = float(np.average(usual.median, weights=reference.rows)) if len(reference) else np.nan

    medians, middle_days = now.median, days
    if not (enough := now.known >= MEDIAN_ROWS).all():
        # A handful's median says little: such days count together.
        together = bin_median(now.bins.sum(axis=0))
        medians = np.append(now.median[enough], together)
        middle_days = np.append(days[enough], days[-1:])
    ratio = np.maximum(medians, floor) / max(median, floor)
    largest = worst(now.maximum / max(highest, floor), days, np.argmax)
    middle = worst(np.maximum(ratio, 1 / ratio), middle_days, np.argmax)

    return [
        Rule(f"{name}_max_ratio", largest[0], "<=", config.max_value_ratio, largest[1]),
        Rule(f"{name}_median_ratio", middle[0], "<=", config.max_median_ratio, middle[1]),
    ]


def time_of_day(c: Comparison, config: ValidateConfig) -> Rule:
    """The largest shift of the judged days against the same weekdays, and of the current days as a whole."""
    shifts, days = [], c.snapshot.days[c.judged]
    for day, minutes in zip(days, c.snapshot.minutes[c.judged], strict=True):
        shifts.append(excess_ks(minutes, c.reference.minutes[same_weekday(c.reference, [day])].sum(axis=0), KS_DAY))
    like = same_weekday(c.reference, c.snapshot.days[c.current])
    whole = excess_ks(c.snapshot.minutes[c.current].sum(axis=0), c.reference.minutes[like].sum(axis=0), KS_WINDOW)
    value, detail = worst(np.array([np.nan if shift is None else shift for shift in shifts]), days, np.argmax)
    if value is not None and whole is not None and whole >= value:
        value, detail = whole, "the current days as a whole"
    return Rule("time_of_day_ks", value, "<=", config.max_time_of_day_ks, detail)


def clock(c: Comparison, config: ValidateConfig) -> list[Rule]:
    """Whether a moved clock explains a week; where the workload asks."""
    if config.max_clock_shift_ks is None:
        return []

    value, detail = clock_shift(c.snapshot, c.judged, c.reference)
    return [Rule("clock_shift_ks", value, "<=", config.max_clock_shift_ks, detail)]


def excess_ks(a: Counts, b: Counts, chance: float) -> float | None:
    """KS distance of two histograms on the same bins, less what chance explains: `chance` × √(1/n + 1/m); ≥ 0."""
    n, m = a.sum(), b.sum()
    if not n or not m:
        return None
    distance = np.abs(a.cumsum() / n - b.cumsum() / m).max()
    return float(max(distance - chance * np.sqrt(1 / n + 1 / m), 0.0))


def bin_median(bins: Counts) -> float:
    """The median of a histogram over the bins of `profile`; NaN of an empty one."""
    if not bins.sum():
        return float("nan")
    place = int(np.searchsorted(bins.cumsum(), bins.sum() / 2)) - ZERO_BIN
    return float(np.sign(place) * np.expm1(abs(place) / BINS_PER_E))
