"""Whether anything can be learned from a snapshot, and judged: asked before anything is computed from it.

A snapshot and the instant that the run speaks from in, rules out. The windows are those that training will have
(`millrace.lake.windows`); columns that tell the label too well are found by `leaks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from components.validate.config import ValidateConfig
from components.validate.leaks import column_skills
from components.validate.profile import select
from millrace.errors import InvalidInput
from millrace.installed import Workload, load
from millrace.judge.gates import Rule, wanted
from millrace.lake.horizon import resolve_as_of
from millrace.lake.manifest import Manifest
from millrace.lake.windows import (
    Cases,
    Windows,
    fit_windows,
    longest_test,
    more_days,
    needed_days,
    too_short,
    usable_days,
)
from millrace.sql import quoted
from millrace.workload import Task

TABLE = "events"


@dataclass(frozen=True, kw_only=True, slots=True)
class Learnable:
    """What a snapshot offers to those who learn from it."""

    label_values: int
    """Different labels."""
    skills: dict[str, float]
    """Column → how far it alone tells the label."""
    cases: Cases
    first_day: date
    as_of: datetime
    train_days: int
    """0 where the data decide."""
    windows: Windows | None
    """Absent where none fit."""


def examine(
    db: duckdb.DuckDBPyConnection, snapshot: Manifest, config: ValidateConfig, as_of: str, train_days: int
) -> Learnable | None:
    """None where no rule asks. Raises InvalidInput for an `as_of` that is no time, or lies outside the snapshot."""
    if all(getattr(config, name) is None for name in ASKED):
        return None

    workload = load(snapshot.workload)
    instant = resolve_as_of(snapshot, as_of)
    first = date.fromisoformat(snapshot.facts["first_day"])
    files = snapshot.table(TABLE)
    label = quoted(workload.schema.LABEL.column)
    kinds = db.sql(select(f"count(distinct {label}) as kinds", files)).fetchnumpy()["kinds"]
    cases = Cases.among(workload, _rows(workload, snapshot, instant), instant)
    try:
        windows = fit_windows(cases, first, train_days=train_days)
    except InvalidInput:
        windows = None
    return Learnable(
        label_values=int(kinds[0]),
        skills={} if config.max_column_skill is None else column_skills(db, workload, files),
        cases=cases,
        first_day=first,
        as_of=instant,
        train_days=train_days,
        windows=windows,
    )


ASKED = (
    "min_label_values",
    "max_column_skill",
    "min_window_days",
    "min_train_cases",
    "min_validation_cases",
    "min_test_positives",
    "min_test_rows",
)
"""Limits of these rules."""


def judge(found: Learnable | None, config: ValidateConfig) -> list[Rule]:
    """The rules; none where nothing was asked."""
    if found is None:
        return []

    constant = "a label that is always the same teaches nothing" if found.label_values < 2 else ""
    rules = wanted("label_values", found.label_values, ">=", config.min_label_values, constant)
    if config.max_column_skill is not None:
        rules += [
            Rule(f"leaked_column[{name}]", skill, "<=", config.max_column_skill, f"column {name!r} alone")
            for name, skill in found.skills.items()
        ]
    if config.min_window_days is not None:
        rules.append(_days(found, config.min_window_days))
    return [*rules, *_cases(found, config)]


def _days(found: Learnable, least: int) -> Rule:
    delay = found.cases.workload.schema.LABEL.delay_days
    have = (found.as_of.date() - found.first_day).days
    need = needed_days(delay, found.train_days) + least - 1
    detail = too_short(found.first_day, found.as_of, delay, found.train_days) if have < need else ""
    return Rule("window_days", have, ">=", need, detail)


def _cases(found: Learnable, config: ValidateConfig) -> list[Rule]:
    """Enough cases in each window; where no window fits, that is the rule before this one's to say."""
    quantity = found.cases.workload.task is Task.REGRESSION
    what = "labelled rows" if quantity else "positives"
    name, least = ("test_rows", config.min_test_rows) if quantity else ("test_positives", config.min_test_positives)
    windows = found.windows
    if windows is None:
        return []

    train, held_out, test = windows.train_days, windows.validation_days, windows.test_days
    validation = found.cases.learning(test, held_out)
    known = found.cases.learning(test, train) - validation
    to_train = f"{what} in the {train - held_out} days to train on whose label is known by the test window"
    to_stop = f"{what} in the {held_out} days to stop training by"
    rules = [
        *wanted("train_cases", known, ">=", config.min_train_cases, to_train),
        *wanted("validation_cases", validation, ">=", config.min_validation_cases, to_stop),
    ]
    if least is not None:
        rules.append(Rule(name, found.cases.testing(test), ">=", least, _smallest(found, windows, least, what)))
    return rules


def _smallest(found: Learnable, windows: Windows, least: int, what: str) -> str:
    """What a test window holds, and where that is too little the smallest data that would do."""
    days = windows.test_days
    held = found.cases.testing(days)
    delay = found.cases.workload.schema.LABEL.delay_days
    usable = usable_days(found.first_day, found.as_of, delay)
    said = f"{held} {what} in a test window of {days} days"
    if held >= least:
        return said
    if days == longest_test(usable, found.train_days):
        said += ", the longest that leaves enough to learn from"
    if not held:
        return said

    rate, wanted, more = more_days(found.cases, days, least, usable)
    would = f"at {rate:.2g} a day {wanted} days would do, give {more} more days of data"
    return f"{said}: {would}"


def _rows(workload: Workload, snapshot: Manifest, as_of: datetime) -> pa.Table:
    """The columns that judging requires, of the days that the run may look at."""
    files = snapshot.table(TABLE, last_day=as_of.date())
    columns = workload.judging.COLUMNS
    held = set(pq.read_schema(files[0]).names)
    wanted = [name for name in columns.required if name in held]
    tables = [pq.read_table(path, columns=wanted, partitioning=None) for path in files]
    rows = pa.concat_tables(tables, promote_options="permissive")
    if columns.unit not in held:  # made of others, or the only one there is: then every event is a unit of its own
        rows = rows.append_column(columns.unit, pa.array(range(rows.num_rows)).cast(pa.string()))
    return rows
