"""For every rule of the data gate: something that must be blocked, and is blocked by that rule."""

from datetime import date, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from components.gate.core import require
from components.validate.config import ValidateConfig
from components.validate.core import GATE, compare
from components.validate.core import validate as judged_by
from components.validate.rules import judge
from fraud.planted import Planted
from fraud.simulator import SimulationConfig, simulate
from millrace.errors import GateBlocked
from millrace.installed import load
from millrace.judge.gates import Verdict
from millrace.lake.manifest import Manifest

START = date(2018, 4, 1)
CONFIG = ValidateConfig.load(load("fraud"), profile="simulated")
DAYS = 42


@cache
def world(**planted):
    """Tables of 42 days of a small world, with a drift or fault planted."""
    config = SimulationConfig(customers=400, terminals=800, radius=10, days=DAYS, planted=Planted(**planted))
    return tuple(simulate(config))


def replace(table, name, column):
    return table.set_column(table.schema.get_field_index(name), name, column.cast(table.schema.field(name).type))


def change(tables, days, name, how):
    """Column `name` of the given days run through `how`."""
    return [replace(t, name, how(t[name])) if day in days else t for day, t in enumerate(tables)]


def keep(tables, days, mask):
    """The rows of the given days for which `mask(table)` is true."""
    return [t.filter(mask(t)) if day in days else t for day, t in enumerate(tables)]


def last_days(count):
    return range(DAYS - count, DAYS)


def every_second(table):
    return pa.array(np.arange(len(table)) % 2 == 0)


def utc(column):
    return column.cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))


def first_amount(value):
    return lambda column: pa.chunked_array([pa.array([value], pa.decimal128(12, 2)), column.slice(1).combine_chunks()])


def scaled(factor):
    return lambda column: pc.round(pc.multiply(column.cast(pa.float64()), factor), 2)


def renamed(column):
    return pc.binary_join_element_wise(column, pa.scalar("new"), "-")


def without(name, share):
    """Rows of all but a `share` of the values of column `name` (simulated ids are numbers)."""
    return lambda table: pc.greater_equal(pc.bit_wise_and(table[name].cast(pa.int64()), 63), int(share * 64))


def label(value):
    return lambda column: pa.chunked_array([pa.array(np.full(len(column), value))])


def partly_empty(column):
    values = column.to_numpy().astype(float)
    return pa.chunked_array([pa.array(np.where(np.arange(len(values)) % 4 == 0, np.nan, values), from_pandas=True)])


def local_time(days):
    tables = world(slip="local_time", slip_from_day=days.start)
    return change([t.set_column(1, "event_timestamp", utc(t["event_timestamp"])) for t in tables], [], "", None)


# Rule → (tables of the snapshot, tables of its predecessor or None, rows in quarantine).
FAULTS = {
    "days": lambda: (world()[:10], None, 0),
    "missing_days": lambda: ([*world()[:20], None, *world()[21:]], None, 0),
    "columns_lost": lambda: ([t.drop_columns(["fraud_scenario"]) for t in world()], world()[:-1], 0),
    "days_behind_predecessor": lambda: (world()[:-5], world(), 0),
    "rows_lost_share": lambda: (keep(world(), [10, 11], every_second), world()[:-1], 0),
    "day_rows_low": lambda: (keep(world(), [20], every_second), None, 0),
    "day_rows_high": lambda: ([pa.concat_tables([t, t]) if day == 20 else t for day, t in enumerate(world())], None, 0),
    "null_share_rise": lambda: (change(world(), last_days(7), "fraud_scenario", partly_empty), None, 0),
    "unlabelled_share": lambda: (
        change(world(), range(10, DAYS), "is_fraud", lambda c: pa.chunked_array([pa.nulls(len(c), pa.int8())])),
        None,
        0,
    ),
    "amount_min": lambda: (change(world(), [20], "amount", first_amount(-1)), None, 0),
    "amount_max_ratio": lambda: (change(world(), [41], "amount", first_amount(1_000_000)), None, 0),
    "amount_median_ratio": lambda: (world(slip="cents", slip_from_day=40), None, 0),
    "amount_ks": lambda: (change(world(), last_days(7), "amount", scaled(1.4)), None, 0),
    "time_of_day_ks": lambda: (local_time(last_days(7)), None, 0),
    "new_customer_row_share": lambda: (change(world(), last_days(7), "customer_id", renamed), None, 0),
    "new_terminal_row_share": lambda: (change(world(), last_days(7), "terminal_id", renamed), None, 0),
    "silent_customer_share": lambda: (keep(world(), last_days(7), without("customer_id", 0.3)), None, 0),
    "silent_terminal_share": lambda: (world(outage_from_day=35, outage_days=7, outage_terminal_share=0.15), None, 0),
    "positive_share_high": lambda: (change(world(), last_days(7), "is_fraud", label(1)), None, 0),
    "positive_share_low": lambda: (change(world(), last_days(7), "is_fraud", label(0)), None, 0),
    "quarantined_share": lambda: (world(), None, 5_000),
}


def snapshot(lake, identity, tables, quarantined=0):
    folder = lake / "snapshots" / identity
    folder.mkdir(parents=True)
    names = {}
    for number, table in enumerate(tables):
        if table is not None:
            day = str(START + timedelta(days=number))
            # Content-addressed, as ingest does: equal rows have an equal name.
            names[day] = f"{day}-{len(table)}.parquet"
            pq.write_table(table, folder / names[day])
    facts = {
        "tables": {"events": names},
        "rows": sum(len(table) for table in tables if table is not None),
        "first_day": min(names),
        "last_day": max(names),
        "quarantined": {"any": quarantined},
        "source": {"uri": "feed", "hash": identity},
    }
    return Manifest(kind="snapshot", id=identity, workload="fraud", uri=str(folder), facts=facts).write()


def snapshots(lake, tables, before, quarantined):
    previous = snapshot(lake, "before", before) if before else None
    return snapshot(lake, "now", tables, quarantined), previous


def validate(snapshot, previous, lake, config=CONFIG):
    return judged_by(snapshot, previous, lake, config)


@pytest.mark.parametrize("rule", FAULTS)
def test_the_data_gate_blocks(rule, tmp_path):
    comparison, _ = compare(*snapshots(tmp_path, *FAULTS[rule]()), CONFIG, threads=1, memory_limit_gb=1.0)
    verdict = Verdict(GATE, judge(comparison, CONFIG))

    assert rule in {failure.name for failure in verdict.failures}
    with pytest.raises(GateBlocked, match=f"  FAIL  {rule}: "):
        verdict.require()


def test_a_fault_stops_the_pipeline_at_the_gate(tmp_path):
    validation = validate(*snapshots(tmp_path, *FAULTS["day_rows_low"]()), tmp_path)

    with pytest.raises(GateBlocked, match="FAIL  day_rows_low: "):
        require([validation])


@pytest.mark.parametrize("days_before", [0, 35, 41])
def test_clean_data_passes_and_every_rule_has_a_fault_above(days_before, tmp_path):
    validation = validate(*snapshots(tmp_path, world(), world()[:days_before], 0), tmp_path)

    require([validation])

    verdict = Verdict.read(validation.path("verdict.json"))
    assert verdict.gate == GATE
    names = {rule.name for rule in verdict.rules}
    assert names <= FAULTS.keys()
    if days_before:
        assert names == FAULTS.keys()


def test_every_limit_of_the_configuration_is_the_limit_of_a_rule(tmp_path):
    """A limit that no rule reads would be a gate that cannot fail."""
    tight = {
        name: 0 if name not in ("max_median_ratio", "max_positive_share_ratio", "max_value_ratio") else 1
        for name in ValidateConfig.model_fields
        if name.startswith("max_")
    }
    tight["entities"] = {"terminal": {"max_silent_share": 0.01}}
    now = snapshot(tmp_path, "now", world())
    usual = validate(now, None, tmp_path)
    strict = ValidateConfig.load(load("fraud"), tight | {"min_days": 99}, profile="simulated")
    strict = validate(now, None, tmp_path, strict)

    limits = [
        {rule.name: rule.limit for rule in Verdict.read(result.path("verdict.json")).rules}
        for result in (usual, strict)
    ]

    unchanged = {name for name in limits[0] if limits[0][name] == limits[1][name]}
    assert unchanged == {"missing_days", "columns_lost", "amount_min", "day_rows_low", "day_rows_high"}
