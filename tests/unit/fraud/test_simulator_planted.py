"""Every drift and fault that can be planted is there when asked for, and only then."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fraud.planted import RENAMED_AMOUNT, Planted
from fraud.simulator import RAW_SCHEMA, SimulationConfig, simulate
from millrace.errors import InvalidInput


def days(count: int = 6, customers: int = 400, **planted: Any) -> list[pa.Table]:
    config = SimulationConfig(customers=customers, terminals=1000, days=count, planted=Planted(**planted))
    return list(simulate(config))


def test_nothing_is_planted_by_default() -> None:
    for table in days():
        assert table.schema.equals(RAW_SCHEMA)
        assert pc.max(table["fraud_scenario"]).as_py() <= 3
        assert pc.count_distinct(table["transaction_id"]).as_py() == len(table)


def test_amounts_inflate_week_by_week_from_the_day_on() -> None:
    plain, shifted = (days(29, inflation_pct_per_week=pct, inflation_from_day=14) for pct in (0, 10))

    def mean(table: pa.Table) -> float:
        return float(pc.mean(table.filter(pc.less(table["fraud_scenario"], 3))["amount"]).as_py())

    assert plain[13].equals(shifted[13])
    assert mean(shifted[21]) / mean(plain[21]) == pytest.approx(1.10, abs=0.01)
    assert mean(shifted[28]) / mean(plain[28]) == pytest.approx(1.21, abs=0.01)
    large = pc.greater(shifted[28]["amount"], 220)
    assert pc.min(shifted[28].filter(large)["is_fraud"]).as_py() == 1


def test_the_new_fraud_pattern_is_small_nightly_and_anywhere() -> None:
    planted = days(night_fraud_from_day=3)

    new = [table.filter(pc.equal(table["fraud_scenario"], 4)) for table in planted]
    assert [len(table) > 0 for table in new] == [False] * 3 + [True] * 3
    assert len(new[5]) > len(new[3])  # victims stay victims for a week
    night = pa.concat_tables(new)
    hours = {stamp.hour for stamp in night["event_timestamp"].to_pylist()}
    assert hours <= {1, 2, 3, 4}
    assert pc.max(night["amount"]).as_py() < 10
    assert set(night["is_fraud"].to_pylist()) == {1}
    ids = pa.concat_tables(planted)["transaction_id"].to_numpy()
    assert (np.diff(ids) == 1).all()


def test_the_world_before_the_new_pattern_is_unchanged() -> None:
    assert days(3)[2].equals(days(3, night_fraud_from_day=3)[2])


def test_during_an_outage_a_group_of_terminals_is_silent() -> None:
    planted = days(outage_from_day=2, outage_days=2, outage_terminal_share=0.3)

    heard = [{int(terminal) for terminal in table["terminal_id"].to_pylist()} for table in planted]
    assert [bool(terminals & set(range(300))) for terminals in heard] == [True, True, False, False, True, True]
    assert len(planted[2]) == pytest.approx(0.7 * len(planted[1]), rel=0.15)


def test_the_slip_rename_hides_the_amount_column() -> None:
    planted = days(slip="rename", slip_from_day=4)

    assert "amount" in planted[3].column_names
    assert "amount" not in planted[4].column_names
    assert RENAMED_AMOUNT in planted[4].column_names


def test_the_slip_cents_multiplies_amounts_by_a_hundred() -> None:
    plain, planted = days(), days(slip="cents", slip_from_day=4)

    assert planted[3].equals(plain[3])
    assert planted[4].schema.equals(RAW_SCHEMA)
    wanted = [amount * 100 for amount in plain[4]["amount"].to_pylist()]
    assert planted[4]["amount"].to_pylist() == wanted


def test_the_slip_local_time_drops_the_offset() -> None:
    plain, planted = days(), days(slip="local_time", slip_timezone="Europe/Berlin")

    assert planted[0].schema.field("event_timestamp").type == pa.timestamp("us")
    moved = zip(planted[0]["event_timestamp"].to_pylist(), plain[0]["event_timestamp"].to_pylist(), strict=True)
    assert {local - instant.replace(tzinfo=None) for local, instant in moved} == {timedelta(hours=2)}


def test_local_time_changes_its_offset_with_the_clocks() -> None:
    from datetime import date

    config = SimulationConfig(
        customers=2000, terminals=2000, days=1, start=date(2018, 3, 25), planted=Planted(slip="local_time")
    )
    (local,) = simulate(config)
    (plain,) = simulate(SimulationConfig(customers=2000, terminals=2000, days=1, start=date(2018, 3, 25)))

    shifts = pc.subtract(local["event_timestamp"].cast(pa.int64()), plain["event_timestamp"].cast(pa.int64()))
    assert set(shifts.to_pylist()) == {3_600_000_000, 7_200_000_000}


def test_a_share_of_rows_is_doubled_shuffled_and_late() -> None:
    plain = days()
    doubled = days(duplicate_share=0.1)
    shuffled = days(shuffled_share=0.2)
    late = days(late_share=0.1)

    for one, two, three in zip(plain, doubled, shuffled, strict=True):
        assert len(two) == pytest.approx(1.1 * len(one), rel=0.05)
        assert set(two["transaction_id"].to_pylist()) == set(one["transaction_id"].to_pylist())
        assert three["transaction_id"].to_pylist() != one["transaction_id"].to_pylist()
        assert three.sort_by("transaction_id").equals(one)
    first_day = set(plain[0]["transaction_id"].to_pylist())
    arrived_late = first_day & set(late[1]["transaction_id"].to_pylist())
    assert len(arrived_late) == pytest.approx(0.1 * len(first_day), rel=0.4)
    assert not arrived_late & set(late[0]["transaction_id"].to_pylist())


@pytest.mark.parametrize(
    "wrong", [{"slip": "upside_down"}, {"duplicate_share": 1.5}, {"slip_timezone": "Mars/Olympus"}]
)
def test_a_plant_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Planted(**wrong)
