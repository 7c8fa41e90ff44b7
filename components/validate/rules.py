"""The rules of the data gate: one comparison of aggregates in, one rule with value and limit out per question.

Everything is a share, a ratio or a distance beyond what chance explains, so that the same limits fit a small data set
and a large one. How the aggregates are made is `profile.py`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as default
from typing import Final

import numpy as np
from numpy.typing import NDArray

from components.validate.clock import clock_shift
from components.validate.config import ValidateConfig
from components.validate.profile import BINS_PER_E, ZERO_BIN, Counts, Floats, Measured, Profile, Values
from millrace.fields import Field, Kind
from millrace.instants import date_of
from millrace.judge.gates import Rule

PRIOR_POSITIVES: Final = 10.0
"""Positives added to both sides at the reference's rate, so that a handful does not make a ratio."""
CENT: Final = 0.01
RANGE_FLOOR: Final = 1e-3
"""Values below this share of the reference's largest are as good as 0 in a ratio."""
KS_DAY, KS_WINDOW = 1.95, 1.63
"""Kolmogorov's distance exceeded by chance once in a thousand, and in a hundred, comparisons."""
MEDIAN_ROWS: Final = 20
"""Fewer values than this make no median of a day."""
MAD_TO_SIGMA: Final = 1.4826


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A snapshot beside what it is compared with."""

    snapshot: Profile
    judged: NDArray[np.bool_]
    """[D] days of the snapshot judged one by one."""
    current: NDArray[np.bool_]
    """[D] days of the snapshot judged as a whole."""
    reference: Profile
    measured: Measured
    activity: dict[str, dict[str, Counts]]
    """Entity → `profile.entity_activity`."""
    quarantined: int = 0
    previous_last_day: int | None = None
    """Day number; absent without a predecessor."""
    rows_lost_share: float | None = None
    """Absent when no day is held by both."""
    columns_lost: tuple[str, ...] = ()
    usual_new: dict[str, float] = default(default_factory=dict)
    """Entity → share of the reference's newer rows whose id is in none of its older ones."""
    first_seen: dict[str, Counts] = default(default_factory=dict)
    """For the page only: entity → [D] how many ids appear for the first time."""


def judge(c: Comparison, config: ValidateConfig) -> tuple[Rule, ...]:
    """Every rule of the gate."""
    return (
        *_extent(c, config),
        *_day_rows(c, config),
        *_missing_values(c, config),
        *(rule for one in c.measured.values for rule in _values(c, one, config)),
        _time_of_day(c, config),
        *_clock(c, config),
        *_entities(c, config),
        *_labels(c, config),
        _quarantine(c, config),
    )


def _extent(c: Comparison, config: ValidateConfig) -> list[Rule]:
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


def _day_rows(c: Comparison, config: ValidateConfig) -> list[Rule]:
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


def _missing_values(c: Comparison, config: ValidateConfig) -> list[Rule]:
    now = c.snapshot.take(c.current)
    rises = {
        name: _share(counts, now.rows) - _share(c.reference.nulls.get(name, np.zeros(1)), c.reference.rows)
        for name, counts in now.nulls.items()
        if name not in (c.measured.label, "label_timestamp")
    }
    worst = max(rises, key=lambda name: rises[name], default=None)

    waited = c.snapshot.take(c.snapshot.days <= c.snapshot.days[-1] - config.label_wait_days)
    rules = [Rule("null_share_rise", rises.get(worst or ""), "<=", config.max_null_share_rise, worst or "")]
    if not len(waited):  # so few days that no label is due
        return rules

    unlabelled = 1 - _share(waited.labelled, waited.rows)
    return [
        *rules,
        Rule(
            "unlabelled_share",
            unlabelled,
            "<=",
            config.max_unlabelled_share,
            f"rows older than {config.label_wait_days} days",
        ),
    ]


def _values(c: Comparison, measured: Field, config: ValidateConfig) -> list[Rule]:
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
        smallest = _worst(now.minimum, days, np.argmin)
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
    largest = _worst(now.maximum / max(highest, floor), days, np.argmax)
    middle = _worst(np.maximum(ratio, 1 / ratio), middle_days, np.argmax)

    return [
        Rule(f"{name}_max_ratio", largest[0], "<=", config.max_value_ratio, largest[1]),
        Rule(f"{name}_median_ratio", middle[0], "<=", config.max_median_ratio, middle[1]),
    ]


def _time_of_day(c: Comparison, config: ValidateConfig) -> Rule:
    """The largest shift of the judged days against the same weekdays, and of the current days as a whole."""
    shifts, days = [], c.snapshot.days[c.judged]
    for day, minutes in zip(days, c.snapshot.minutes[c.judged], strict=True):
        shifts.append(excess_ks(minutes, c.reference.minutes[_same_weekday(c.reference, [day])].sum(axis=0), KS_DAY))
    like = _same_weekday(c.reference, c.snapshot.days[c.current])
    whole = excess_ks(c.snapshot.minutes[c.current].sum(axis=0), c.reference.minutes[like].sum(axis=0), KS_WINDOW)
    value, detail = _worst(np.array([np.nan if shift is None else shift for shift in shifts]), days, np.argmax)
    if value is not None and whole is not None and whole >= value:
        value, detail = whole, "the current days as a whole"
    return Rule("time_of_day_ks", value, "<=", config.max_time_of_day_ks, detail)


def _clock(c: Comparison, config: ValidateConfig) -> list[Rule]:
    """Whether a moved clock explains a week; where the workload asks."""
    if config.max_clock_shift_ks is None:
        return []

    value, detail = clock_shift(c.snapshot, c.judged, c.reference)
    return [Rule("clock_shift_ks", value, "<=", config.max_clock_shift_ks, detail)]


def _entities(c: Comparison, config: ValidateConfig) -> list[Rule]:
    scale = int(c.current.sum()) / max(len(c.reference), 1)
    rules = []
    for name, activity in c.activity.items():
        new = _share(activity["current"] * (activity["seen"] == 0), activity["current"])
        usual = c.usual_new.get(name)
        allowed = config.new_row_share(name)
        if usual is not None and config.max_new_rows_over_usual is not None:
            allowed = max(allowed, usual + config.max_new_rows_over_usual)
        silent = silent_share(scale * activity["reference"].astype(np.float64), activity["current"])
        rules.append(
            Rule(f"new_{name}_row_share", new, "<=", allowed, "" if usual is None else f"{usual:.0%} are usual")
        )
        rules.append(Rule(f"silent_{name}_share", silent, "<=", config.silent_share(name)))
    return rules


def _labels(c: Comparison, config: ValidateConfig) -> list[Rule]:
    """Positives among the newest days whose labels are there, against the reference's share; either way.

    A label that is a quantity is one of the measured values.
    """
    if not c.measured.classes:
        return []

    s = c.snapshot
    mature = np.flatnonzero(s.labelled >= 0.5 * s.rows)[-config.current_days :]
    base = _share(c.reference.positives, c.reference.labelled)
    if not base:
        # So rare that the reference has none: the whole is what there is to compare with.
        base = _share(s.positives, s.labelled)
    if not base and config.min_label_values is not None:
        return []  # that rule says so

    ratio = None
    if base and len(mature):
        positives = s.positives[mature].sum()
        labelled = s.labelled[mature].sum()
        ratio = float((positives + PRIOR_POSITIVES) / (labelled * base + PRIOR_POSITIVES))

    detail = f"reference {base:.3%}" if base else "no labelled positive"
    return [
        Rule("positive_share_high", ratio, "<=", config.max_positive_share_ratio, detail),
        Rule("positive_share_low", ratio, ">=", 1 / config.max_positive_share_ratio, detail),
    ]


def _quarantine(c: Comparison, config: ValidateConfig) -> Rule:
    rows = int(c.snapshot.rows.sum())
    share = c.quarantined / (rows + c.quarantined) if rows + c.quarantined else None
    return Rule("quarantined_share", share, "<=", config.max_quarantined_share, f"{c.quarantined} rows")


def excess_ks(a: Counts, b: Counts, chance: float) -> float | None:
    """KS distance of two histograms on the same bins, less what chance explains: `chance` × √(1/n + 1/m); ≥ 0."""
    n, m = a.sum(), b.sum()
    if not n or not m:
        return None
    distance = np.abs(a.cumsum() / n - b.cumsum() / m).max()
    return float(max(distance - chance * np.sqrt(1 / n + 1 / m), 0.0))


def silent_share(expected: Floats, current: Counts) -> float | None:
    """Share of the expected rows that belongs to entities without any, less what a Poisson process leaves silent.

    Three standard deviations of that are granted on top, so that few entities or few days do not raise an alarm.
    """
    if not expected.sum():
        return None
    by_chance = np.exp(-expected)
    excess = (expected * ((current == 0) - by_chance)).sum()
    spread = np.sqrt((expected**2 * by_chance * (1 - by_chance)).sum())
    return float(max((excess - 3 * spread) / expected.sum(), 0.0))


def _by_weekday(reference: Profile, days: Counts) -> Floats:
    """[D] median rows of the reference's days with the same weekday."""
    medians = {
        weekday: np.median(reference.rows[_same_weekday(reference, [weekday])]) if len(reference) else 0.0
        for weekday in range(7)
    }
    return np.array([medians[int(day) % 7] for day in days], np.float64)


def _same_weekday(reference: Profile, days: Counts | list[int]) -> NDArray[np.bool_]:
    """[R] reference days with a weekday of `days`; all of them when there are fewer than two."""
    same = np.isin(reference.days % 7, np.asarray(days, np.int64) % 7)
    return same if same.sum() >= 2 else np.ones(len(reference), bool)


def _share(part: NDArray[np.int64] | Floats, whole: NDArray[np.int64] | Floats) -> float:
    total = float(whole.sum())
    return float(part.sum()) / total if total else float("nan")


def _worst(values: Floats, days: Counts, choose: Callable[[Floats], np.intp]) -> tuple[float | None, str]:
    """The extreme value that `choose` (argmin or argmax) finds, and its day; absent when there is none."""
    if not len(values) or not np.isfinite(values).all():
        return None, "not every day could be measured"
    place = choose(values)
    return float(values[place]), str(date_of(days[place]))


def bin_median(bins: Counts) -> float:
    """The median of a histogram over the bins of `profile`; NaN of an empty one."""
    if not bins.sum():
        return float("nan")
    place = int(np.searchsorted(bins.cumsum(), bins.sum() / 2)) - ZERO_BIN
    return float(np.sign(place) * np.expm1(abs(place) / BINS_PER_E))


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
