"""The simulated world follows the published recipe; bounds are statistical, five standard errors or more wide."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from fraud.simulator import RAW_SCHEMA, SimulationConfig, World, main, simulate, write
from millrace.errors import InvalidInput

CONFIG = SimulationConfig(customers=1500, terminals=3000, days=60, seed=11)


@pytest.fixture(scope="module")
def events() -> pa.Table:
    return pa.concat_tables(simulate(CONFIG))


def ask(events: pa.Table, sql: str) -> list[tuple[Any, ...]]:
    """SQL over the table `events`."""
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.register("events", events)
        return db.sql(sql).fetchall()


def test_rows_have_the_raw_schema_and_ids_that_grow_with_time(events: pa.Table) -> None:
    ids = events["transaction_id"].to_numpy()
    times = events["event_timestamp"].cast(pa.int64()).to_numpy()

    assert events.schema.equals(RAW_SCHEMA)
    assert (np.diff(ids) == 1).all()
    assert (np.diff(times) >= 0).all()


def test_the_number_of_transactions_is_that_of_the_rates(events: pa.Table) -> None:
    world = World(CONFIG)
    served = np.diff(world.nearby_start) > 0
    inside = math.erf(43_200 / 20_000 / math.sqrt(2))  # the share of a normal time of day that falls inside the day
    expected = world.daily_rate[served].sum() * CONFIG.days * inside

    assert len(events) == pytest.approx(expected, abs=5 * math.sqrt(expected))


def test_amounts_have_the_mean_and_spread_of_their_customer(events: pa.Table) -> None:
    world = World(CONFIG)
    rows = ask(
        events,
        "SELECT CAST(customer_id AS INT), avg(amount), stddev(amount), count(*) FROM events "
        "WHERE fraud_scenario IN (0, 2) GROUP BY 1 HAVING count(*) > 50",
    )
    customer, mean, spread, count = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    wanted = world.mean_amount[customer.astype(int)]

    # A normal draw below zero (2.3 %) becomes uniform on (0, 2 mean): the mean grows by 2.8 %, the spread shrinks.
    assert (mean / wanted).mean() == pytest.approx(1.03, abs=0.01)
    assert (spread / wanted).mean() == pytest.approx(0.47, abs=0.02)
    assert np.abs((mean / wanted - 1.03) * np.sqrt(count) / 0.47).max() < 6


def test_times_of_day_are_normal_around_noon(events: pa.Table) -> None:
    ((mean, spread),) = ask(
        events, "SELECT avg(s), stddev(s) FROM (SELECT epoch(event_timestamp) % 86400 AS s FROM events)"
    )

    assert mean == pytest.approx(43_200, abs=5 * 19_000 / math.sqrt(len(events)))
    assert spread == pytest.approx(18_300, rel=0.02)  # 20,000 s, cut off at midnight on both sides


def test_customers_use_only_terminals_near_them_each_about_equally(events: pa.Table) -> None:
    world = World(CONFIG)
    rows = ask(events, "SELECT DISTINCT CAST(customer_id AS INT), CAST(terminal_id AS INT) FROM events")

    near = [set(part) for part in np.split(world.nearby, world.nearby_start[1:-1])]
    assert all(terminal in near[customer] for customer, terminal in rows)
    counts = np.diff(world.nearby_start)
    assert counts.mean() == pytest.approx(math.pi * 25 / 10_000 * CONFIG.terminals, rel=0.08)  # less at the edges


def test_the_published_size_and_fraud_shares_come_out() -> None:
    config = SimulationConfig(days=60)
    counts = np.zeros(4)
    for table in simulate(config):
        counts += np.bincount(table["fraud_scenario"].to_numpy(), minlength=4)

    assert counts.sum() == pytest.approx(1_754_155 * 60 / 183, rel=0.03)
    assert 0.006 < counts[1:].sum() / counts.sum() < 0.0095
    assert 0.5 < counts[2] / counts[1:].sum() < 0.72
    assert counts[1] / counts.sum() == pytest.approx(978 / 1_754_155, rel=0.35)


def test_large_amounts_are_fraud(events: pa.Table) -> None:
    ((missed, small),) = ask(
        events,
        "SELECT count(*) FILTER (amount > 220 AND is_fraud = 0), "
        "count(*) FILTER (amount <= 220 AND fraud_scenario = 1) FROM events",
    )

    assert (missed, small) == (0, 0)


def test_a_compromised_terminal_is_all_fraud_for_28_days_and_clean_afterwards(events: pa.Table) -> None:
    world = World(CONFIG)
    terminal = int(world.bad_terminals[3, 0])
    others = {int(day) for day in np.argwhere(world.bad_terminals == terminal)[:, 0]} - {3}
    rows = ask(
        events,
        "SELECT datediff('day', DATE '2018-04-01', CAST(event_timestamp AS DATE)) AS day, min(is_fraud), "
        f"count(*) FILTER (fraud_scenario = 2) FROM events WHERE terminal_id = '{terminal}' GROUP BY 1",
    )

    for day, all_fraud, of_terminal in rows:
        if 3 <= day < 31:
            assert all_fraud == 1
        elif not any(other <= day < other + 28 for other in others):
            assert of_terminal == 0


def test_a_third_of_a_compromised_customers_transactions_are_five_times_as_large(events: pa.Table) -> None:
    world = World(CONFIG)
    hit = {(int(customer), day) for start in range(CONFIG.days) for customer in world.bad_customers[start]
           for day in range(start, start + 14)}  # fmt: skip
    rows = ask(
        events,
        "SELECT CAST(customer_id AS INT), datediff('day', DATE '2018-04-01', CAST(event_timestamp AS DATE)), "
        "count(*), count(*) FILTER (fraud_scenario = 3) FROM events GROUP BY 1, 2",
    )
    inside = np.array([(count, bad) for customer, day, count, bad in rows if (customer, day) in hit]).sum(axis=0)
    outside = sum(bad for customer, day, _, bad in rows if (customer, day) not in hit)
    ((ratio,),) = ask(
        events,
        "SELECT avg(b / g) FROM (SELECT avg(amount) FILTER (fraud_scenario = 3) AS b, avg(amount) FILTER "
        "(fraud_scenario = 0) AS g FROM events GROUP BY customer_id) WHERE b IS NOT NULL",
    )

    assert outside == 0
    assert inside[1] / inside[0] == pytest.approx(
        1 / 3, abs=5 * 0.47 / math.sqrt(inside[0]) + 0.02
    )  # a few are hit twice
    assert ratio == pytest.approx(5, abs=0.4)


def test_labels_are_known_seven_days_later(events: pa.Table) -> None:
    delay = ask(events, "SELECT DISTINCT label_timestamp - event_timestamp = INTERVAL 7 DAY FROM events")

    assert delay == [(True,)]


def test_a_seed_gives_the_same_world_and_another_seed_another() -> None:
    small = SimulationConfig(customers=50, terminals=500, days=3)

    first, again = (pa.concat_tables(simulate(small)) for _ in range(2))
    other = pa.concat_tables(simulate(SimulationConfig(customers=50, terminals=500, days=3, seed=1)))

    assert first.equals(again)
    assert not first.equals(other)


def test_a_longer_simulation_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short, long = (SimulationConfig(customers=50, terminals=500, days=days) for days in (3, 5))
    paths = write(short, tmp_path)
    before = {path: path.read_bytes() for path in paths}

    longer = write(long, tmp_path)

    assert [path.name for path in longer] == [f"2018-04-0{day}.parquet" for day in range(1, 6)]
    assert {path: path.read_bytes() for path in paths} == before
    assert write(long, tmp_path / "fresh")[4].read_bytes() == longer[4].read_bytes()


def test_a_folder_with_another_simulation_or_other_files_is_refused(tmp_path: Path) -> None:
    write(SimulationConfig(customers=50, terminals=500, days=2), tmp_path)

    with pytest.raises(InvalidInput, match="Name another folder"):
        write(SimulationConfig(customers=50, terminals=500, days=2, seed=1), tmp_path)


def test_a_world_without_terminals_in_reach_has_no_transactions() -> None:
    (day,) = simulate(SimulationConfig(customers=20, terminals=1, days=1, radius=0.001))

    assert len(day) == 0
    assert day.schema.equals(RAW_SCHEMA)


@pytest.mark.parametrize("wrong", [{"customers": 0}, {"terminals": 0}, {"days": 0}, {"seed": -1}])
def test_a_config_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        SimulationConfig(**wrong)  # type: ignore[arg-type]


def test_the_command_line_writes_a_folder_and_names_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--customers", "50", "--terminals", "500", "--days", "2"]

    assert main(["--out", str(tmp_path), *size, "--start", "2020-02-28"]) == 0
    assert "2 days" in capsys.readouterr().out
    assert main(["--out", str(tmp_path), *size]) == 2
    assert "Name another folder" in capsys.readouterr().err


def test_times_are_instants_of_the_given_day() -> None:
    (day,) = simulate(
        SimulationConfig(customers=50, terminals=500, days=1, start=datetime(2020, 2, 29, tzinfo=UTC).date())
    )

    assert {stamp.date().isoformat() for stamp in day["event_timestamp"].to_pylist()} == {"2020-02-29"}
