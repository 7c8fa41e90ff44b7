"""The data gate of a workload whose label is a quantity: each rule that its fields and label have is seen to block."""

from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.validate.config import ValidateConfig
from components.validate.core import GATE, compare, validate
from components.validate.rules import judge
from millrace.errors import GateBlocked
from millrace.judge.gates import Verdict
from millrace.lake.manifest import Manifest

START = datetime(2021, 3, 1, tzinfo=UTC)
DAYS, A_DAY, STOPS = 42, 300, 12


@cache
def days():
    """Tables of 42 days of rides, as `tests/rides/schema.py`."""
    return tuple(day(number) for number in range(DAYS))


def day(number):
    rng = np.random.default_rng(number)
    seconds = np.sort(rng.integers(0, 86_400, A_DAY))
    minutes = np.round(rng.gamma(4, 3, A_DAY) + 1, 2)
    boarded = [START + timedelta(days=number, seconds=int(second)) for second in seconds]
    return pa.table(
        {
            "ride_id": pa.array(number * A_DAY + np.arange(A_DAY), pa.int64()),
            "event_timestamp": pa.array(boarded, pa.timestamp("us", tz="UTC")),
            "stop": rng.integers(0, STOPS, A_DAY).astype(str),
            "riders": pa.array(rng.integers(1, 5, A_DAY), pa.int64(), mask=rng.random(A_DAY) < 0.5),
            "metres": rng.gamma(3, 300, A_DAY) + 1,
            "line": rng.choice(["a", "b"], A_DAY),
            "minutes": minutes,
            "label_timestamp": pa.array(
                [at + timedelta(minutes=float(took)) for at, took in zip(boarded, minutes, strict=True)],
                pa.timestamp("us", tz="UTC"),
            ),
        }
    )


def change(chosen, name, how):
    """Column `name` of the chosen days run through `how`."""
    return [_with(table, name, how(table[name])) if number in chosen else table for number, table in enumerate(days())]


def _with(table, name, column):
    return table.set_column(table.schema.get_field_index(name), name, pa.chunked_array([column]))


def first(value):
    return lambda column: pa.array([value, *column.to_pylist()[1:]], column.type)


def times(factor):
    return lambda column: pa.array([None if one is None else one * factor for one in column.to_pylist()], column.type)


def empty(column):
    return pa.nulls(len(column), column.type)


LAST_WEEK = range(DAYS - 7, DAYS)
FAULTS = {
    "metres_min": lambda: change([20], "metres", first(0.5)),
    "metres_max_ratio": lambda: change([DAYS - 1], "metres", first(900_000.0)),
    "metres_median_ratio": lambda: change([20], "metres", times(0.001)),
    "metres_ks": lambda: change(LAST_WEEK, "metres", times(1.5)),
    "riders_min": lambda: change([20], "riders", first(-1)),
    "riders_max_ratio": lambda: change([DAYS - 1], "riders", first(900)),
    "riders_median_ratio": lambda: change([20], "riders", times(10)),
    "riders_ks": lambda: change(LAST_WEEK, "riders", times(2)),
    "minutes_min": lambda: change([20], "minutes", first(-3.0)),
    "minutes_max_ratio": lambda: change([DAYS - 1], "minutes", first(90_000.0)),
    "minutes_median_ratio": lambda: change([20], "minutes", times(60)),
    "minutes_ks": lambda: change(LAST_WEEK, "minutes", times(1.5)),
    "unlabelled_share": lambda: change(range(10, DAYS), "minutes", empty),
    "null_share_rise": lambda: change(LAST_WEEK, "riders", empty),
    "new_stop_row_share": lambda: change(
        LAST_WEEK, "stop", lambda c: pa.array([f"new {one}" for one in c.to_pylist()])
    ),
    "silent_stop_share": lambda: change(LAST_WEEK, "stop", lambda c: pa.array(["1"] * len(c))),
    "new_line_row_share": lambda: change(LAST_WEEK, "line", lambda c: pa.array(["c"] * len(c))),
    "silent_line_share": lambda: change(LAST_WEEK, "line", lambda c: pa.array(["a"] * len(c))),
    "new_stop_of_line_row_share": lambda: change(LAST_WEEK, "line", lambda c: pa.array(["c"] * len(c))),
    "silent_stop_of_line_share": lambda: change(LAST_WEEK, "line", lambda c: pa.array(["a"] * len(c))),
}
"""Rule → the snapshot that it must block."""
OF_EVERY_WORKLOAD = {
    "days", "missing_days", "columns_lost", "day_rows_low", "day_rows_high", "time_of_day_ks", "quarantined_share"
}  # fmt: skip


def snapshot(lake, tables):
    folder = lake / "snapshots" / "rides"
    folder.mkdir(parents=True)
    names = {str((START + timedelta(days=number)).date()): f"{number}.parquet" for number in range(len(tables))}
    for name, table in zip(names.values(), tables, strict=True):
        pq.write_table(table, folder / name)
    facts = {
        "tables": {"events": names},
        "rows": sum(map(len, tables)),
        "first_day": min(names),
        "last_day": max(names),
        "quarantined": {},
        "source": {"uri": "rides", "hash": "x"},
    }
    return Manifest(kind="snapshot", id="rides", workload="rides", uri=str(folder), facts=facts).write()


@pytest.mark.parametrize("rule", FAULTS)
def test_the_data_gate_blocks(rule, rides, tmp_path):
    config = ValidateConfig.load(rides)

    comparison, _ = compare(snapshot(tmp_path, FAULTS[rule]()), None, config, threads=1, memory_limit_gb=1.0)
    verdict = Verdict(GATE, judge(comparison, config))

    with pytest.raises(GateBlocked, match=f"  FAIL  {rule}: "):
        verdict.require()


def test_clean_data_passes_and_no_rule_is_without_a_fault(rides, tmp_path):
    validation = validate(snapshot(tmp_path, days()), None, tmp_path)

    verdict = Verdict.read(validation.path("verdict.json"))

    assert verdict.passed, verdict.summary()
    assert {rule.name for rule in verdict.rules} == FAULTS.keys() | OF_EVERY_WORKLOAD
    assert ValidateConfig.load(rides).label_wait_days == 1


def test_the_page_speaks_of_the_workloads_fields(rides, tmp_path):
    validation = validate(snapshot(tmp_path, days()), None, tmp_path)

    page = validation.path("report.html").read_text()

    assert "12,600" in page
    assert "rides" in page
    assert "amount" not in page.lower()
    assert "fraud" not in page.lower()


def test_a_day_whose_labels_are_not_known_yet_is_not_judged_by_them(rides, tmp_path):
    tables = change([DAYS - 1], "minutes", empty)

    validation = validate(snapshot(tmp_path, tables), None, tmp_path)

    assert Verdict.read(validation.path("verdict.json")).passed
