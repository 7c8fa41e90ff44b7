"""The rules of the data gate: one comparison of aggregates in, one rule with value and limit out per question.

Everything is a share, a ratio or a distance beyond what chance explains, so that the same limits fit a small data set
and a large one. Rules about days: `days.py`; about values and times of day: `distributions.py`. How the aggregates are
made is `profile.py`'s business.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from components.validate import days, distributions
from components.validate.comparison import Comparison, new_share, share_of
from components.validate.config import ValidateConfig
from components.validate.profile import Counts, Floats
from millrace.judge.gates import Rule

PRIOR_POSITIVES: Final = 10.0
"""Positives added to both sides at the reference's rate, so that a handful does not make a ratio."""


def judge(c: Comparison, config: ValidateConfig) -> tuple[Rule, ...]:
    """Every rule of the gate."""
    return (
        *days.extent(c, config),
        *days.day_rows(c, config),
        *_missing_values(c, config),
        *(rule for one in c.measured.values for rule in distributions.values(c, one, config)),
        distributions.time_of_day(c, config),
        *distributions.clock(c, config),
        *_entities(c, config),
        *_labels(c, config),
        _quarantine(c, config),
    )


def _missing_values(c: Comparison, config: ValidateConfig) -> list[Rule]:
    now = c.snapshot.take(c.current)
    rises = {
        name: share_of(counts, now.rows) - share_of(c.reference.nulls.get(name, np.zeros(1)), c.reference.rows)
        for name, counts in now.nulls.items()
        if name not in (c.measured.label, "label_timestamp")
    }
    worst = max(rises, key=lambda name: rises[name], default=None)

    waited = c.snapshot.take(c.snapshot.days <= c.snapshot.days[-1] - config.label_wait_days)
    rules = [Rule("null_share_rise", rises.get(worst or ""), "<=", config.max_null_share_rise, worst or "")]
    if not len(waited):  # so few days that no label is due
        return rules

    unlabelled = 1 - share_of(waited.labelled, waited.rows)
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


def _entities(c: Comparison, config: ValidateConfig) -> list[Rule]:
    scale = int(c.current.sum()) / max(len(c.reference), 1)
    rules = []
    for name, activity in c.activity.items():
        new = new_share(activity)
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
    base = share_of(c.reference.positives, c.reference.labelled)
    if not base:
        # So rare that the reference has none: the whole is what there is to compare with.
        base = share_of(s.positives, s.labelled)
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
