"""Columns of one's own: whole days, single requests and a plain count over all events give the same numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.appended.records import Entry, Records
from millrace.errors import ConfigError
from millrace.features.days import DayFeatures, Events
from millrace.inputs import RecentEvents, Requests, States
from millrace.installed import Workload, declare
from millrace.instants import DAY_US, instant_of
from millrace.lake.feast_home import Fill
from millrace.lookup import empty
from millrace.requests import RequestFormat

FIRST_DAY = 17_600
DAYS = 5
LENGTH = 4
"""N: short, so that histories are longer than it."""
HOUR_US = 3_600_000_000
OWN: dict[str, Any] = {
    "features": {
        "mcc": {"column": "merchant_category", "kind": "categorical"},
        "age": {"column": "device_age_days", "kind": "numeric"},
        "chip": {"kind": "boolean"},
        "opened": {"kind": "time"},
        "country": {"kind": "categorical", "entity": "customer"},
        "height": {"kind": "numeric", "entity": "terminal"},
    },
    "aggregates": {
        "mean_age_1d": {"of": "age", "over": "customer", "stat": "mean", "window": "1d"},
        "last_age_2d": {"of": "age", "over": "customer", "stat": "last", "window": "2d"},
        "spent_max_30d": {"of": "amount", "over": "customer", "stat": "max", "window": "30d"},
        "visits_2d": {"over": "customer", "stat": "count", "window": "2d"},
        "there_mean_1d": {"of": "age", "over": "terminal", "stat": "mean", "window": "1d"},
        "there_max_3h": {"of": "age", "over": "terminal", "stat": "max", "window": "3h"},
        "there_last_2d": {"of": "age", "over": "terminal", "stat": "last", "window": "2d"},
        "there_sum_90d": {"of": "amount", "over": "terminal", "stat": "sum", "window": "90d"},
        "there_count_1h": {"over": "terminal", "stat": "count", "window": "1h"},
    },
}


@pytest.fixture
def mine(tmp_path: Path) -> Workload:
    return declare({"name": "mine", "base": "fraud", **OWN}, tmp_path)


def maybe(values: Any) -> Any:
    return st.one_of(st.none(), values)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.integers(0, DAYS * 24 * 2 - 1),  # half hours: many ties, and many on a refresh
            "customer_id": st.sampled_from("ab"),
            "terminal_id": st.sampled_from("xy"),
            "cents": st.integers(0, 20_000),
            "mcc": maybe(st.sampled_from(["5411", "travel", "ö"])),
            "age": maybe(st.integers(-3, 400).map(lambda whole: whole / 7)),
            "chip": maybe(st.booleans()),
            "opened": maybe(st.integers(-1000, 1000)),
            "country": maybe(st.sampled_from(["FR", "DE"])),
            "height": maybe(st.integers(1, 9)),
        }
    ),
    min_size=1,
    max_size=30,
)


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    start_us = FIRST_DAY * DAY_US
    columns: dict[str, Any] = {
        "transaction_id": [100 - place for place in range(len(rows))],  # ids do not follow the order of the rows
        "event_timestamp": [instant_of(start_us + row["at"] * HOUR_US // 2) for row in rows],
        "amount": [Decimal(row["cents"]) / 100 for row in rows],
        "is_fraud": [row["cents"] % 2 for row in rows],
        "label_timestamp": [instant_of(start_us + (row["at"] + 60) * HOUR_US // 2) for row in rows],
        "chip": [None if row["chip"] is None else int(row["chip"]) for row in rows],
        "opened": [None if row["opened"] is None else instant_of(start_us + row["opened"] * HOUR_US) for row in rows],
    }
    for name in ("customer_id", "terminal_id", "mcc", "age", "country", "height"):
        columns[name] = [row[name] for row in rows]
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)


def days_of(workload: Workload, events: Events) -> list[DayFeatures]:
    with duckdb.connect() as connection:
        return list(workload.batch.daily(connection, events, LENGTH, FIRST_DAY, FIRST_DAY + DAYS))


def asked(workload: Workload, table: pa.Table, row: int) -> Requests:
    """An event as a client sends it."""
    form = RequestFormat.of(workload)
    sent = {}
    for name in form.names:
        value = table[name][row].as_py()
        if isinstance(value, datetime):
            value = value.astimezone(UTC).isoformat()
        sent[name] = float(value) if isinstance(value, Decimal) else value
    return form.from_rows([{name: value for name, value in sent.items() if value is not None}], now_us=0)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_whole_days_and_single_requests_give_the_same_features(mine: Workload, rows: list[dict[str, Any]]) -> None:
    table = table_of(rows, mine.schema.EVENTS)
    events = mine.batch.events(table)
    days = days_of(mine, events)
    records = Records(mine.recent, LENGTH)  # type: ignore[arg-type]
    held: dict[str, RecentEvents] = {}
    ids, times = events.column("transaction_id"), events.column("event_us")
    day_of = {int(position): (day, place) for day in days for place, position in enumerate(day.position)}

    for row in np.lexsort((ids, times)).tolist():
        day, place = day_of[row]
        requests = asked(mine, table, row)
        states = _states(mine, events, day, held, row)
        alone, _ = mine.online.model_inputs(requests, states, history_length=LENGTH, sequence_length=LENGTH)

        np.testing.assert_array_equal(day.features[place], alone[0], err_msg=str(rows[row]))
        (kept,) = mine.online.remembered(requests, states)
        for name, value in zip(list(mine.recent.fields)[2:], kept, strict=True):  # type: ignore[union-attr]
            np.testing.assert_array_equal(day.remembered[name][place], value)

        key = rows[row]["customer_id"]
        entry = Entry(int(ids[row]), key, int(times[row]), kept)
        before = held.get(key, empty(mine.recent))  # type: ignore[arg-type]
        held[key] = records.served(before, records.of(entry, now_us=1), Fill("x"))


def _states(workload: Workload, events: Events, day: DayFeatures, held: Any, row: int) -> States:
    customer = events.ids["customer"][int(events.column("customer")[row])].as_py()
    recent = held.get(customer, empty(workload.recent))  # type: ignore[arg-type]
    refreshed = {
        view.name: day.states[view.name].at(events.column(view.entity)[[row]], events.column("event_us")[[row]])
        for view in workload.refreshed
    }
    return States({workload.recent.name: [recent]}, refreshed)  # type: ignore[union-attr]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_features_are_those_of_a_plain_count_over_earlier_events(mine: Workload, rows: list[dict[str, Any]]) -> None:
    table = table_of(rows, mine.schema.EVENTS)
    events = mine.batch.events(table)
    names = mine.features.FEATURE_NAMES
    ids, times = events.column("transaction_id"), events.column("event_us")

    for day in days_of(mine, events):
        for place, row in enumerate(day.position.tolist()):
            found = dict(zip(names, day.features[place].tolist(), strict=True))
            for name, wanted in _counted(rows, ids, times, row).items():
                assert found[name] == pytest.approx(wanted, rel=1e-5, abs=1e-5), (name, rows[row])


def _counted(rows: list[dict[str, Any]], ids: Any, times: Any, row: int) -> dict[str, float]:
    """What every aggregate is by its definition, an event at a time."""
    now = times[row]
    order = np.lexsort((ids, times)).tolist()
    before = order[: order.index(row)]
    own = [one for one in before if rows[one]["customer_id"] == rows[row]["customer_id"]][-LENGTH:]
    refresh = now // HOUR_US * HOUR_US
    there = [one for one in order if times[one] < refresh and rows[one]["terminal_id"] == rows[row]["terminal_id"]]

    wanted: dict[str, float] = {}
    for name, told in OWN["aggregates"].items():
        hours = int(told["window"][:-1]) * (24 if told["window"].endswith("d") else 1)
        start = now if told["over"] == "customer" else refresh
        past = own if told["over"] == "customer" else there
        late = [one for one in past if times[one] > start - hours * HOUR_US or _on_edge(told, times[one], start, hours)]
        said = [_said(rows[one], told.get("of", "")) for one in late]
        values = [value for value in said if value is not None]
        wanted[name] = _stat(told["stat"], values)
        if told["stat"] not in ("count", "sum"):
            wanted[f"{name}_missing"] = float(not values)

    countries = [rows[one]["country"] for one in [*own, row] if rows[one]["country"] is not None]
    wanted["country_code"] = 0.0 if not countries else _code(countries[-1])
    heights = [rows[one]["height"] for one in there if rows[one]["height"] is not None]
    heights += [rows[row]["height"]] if rows[row]["height"] is not None else []
    wanted["height_value"] = float(heights[-1]) if heights else 0.0
    return wanted


def _on_edge(told: dict[str, Any], at: int, refresh: int, hours: int) -> bool:
    """An event at a refresh counts from the next one on, and so leaves a window of refreshes one later."""
    return told["over"] == "terminal" and at == refresh - hours * HOUR_US


def _code(level: str) -> float:
    from millrace.variants.columns import code_of

    return float(code_of(level))


def _said(row: dict[str, Any], of: str) -> float | None:
    if not of:
        return 1.0
    value: float | None = row["cents"] / 100 if of == "amount" else row[of]
    return value


def _stat(stat: str, values: list[float]) -> float:
    if stat == "count":
        return float(len(values))
    if not values:
        return 0.0
    return {"sum": sum(values), "mean": sum(values) / len(values), "max": max(values), "last": values[-1]}[stat]


def test_neither_the_rows_own_label_nor_later_rows_are_seen(mine: Workload) -> None:
    rows = [
        {
            "at": at,
            "customer_id": "a",
            "terminal_id": "x",
            "cents": 100 * at,
            "mcc": "5411",
            "age": float(at),
            "chip": True,
            "opened": 0,
            "country": "FR",
            "height": 1,
        }
        for at in range(0, 200, 7)
    ]
    whole = mine.batch.events(table_of(rows, mine.schema.EVENTS))
    later = [
        row | ({} if row["at"] < 48 else {"age": -1.0, "mcc": "other", "country": "DE", "cents": 1}) for row in rows
    ]
    changed = mine.batch.events(table_of(later, mine.schema.EVENTS))
    width = len(mine.base.features.FEATURE_NAMES)  # type: ignore[attr-defined]

    first, other = days_of(mine, whole)[0], days_of(mine, changed)[0]

    assert len(first.position) > 5
    np.testing.assert_array_equal(first.features[:, width:], other.features[:, width:])


def test_an_entity_has_no_state_before_the_refresh_after_its_first_event(mine: Workload) -> None:
    row = dict.fromkeys(("mcc", "age", "chip", "opened", "country", "height"))
    rows = [row | {"at": at, "customer_id": "a", "terminal_id": "x", "cents": 1} for at in (5, 60)]

    first, second, *_ = days_of(mine, mine.batch.events(table_of(rows, mine.schema.EVENTS)))

    assert first.states["own_terminal_state"].refresh.min() == 3  # 02:30 is seen at 03:00
    assert second.states["own_terminal_state"].refresh.min() == 0


def test_a_base_without_recent_view_has_states_as_of_a_refresh(tmp_path: Path) -> None:
    own = declare(
        {
            "name": "rainy",
            "base": "trips",
            "features": {"rain": {"kind": "numeric"}, "kind_of_day": {"kind": "categorical", "entity": "city"}},
            "aggregates": {"rain_3h": {"of": "rain", "over": "pickup", "stat": "mean", "window": "3h"}},
        },
        tmp_path,
    )

    assert own.recent is None
    assert [view.name for view in own.features.VIEWS[-2:]] == ["own_pickup_state", "own_city_state"]
    assert own.batch.SHARDS == ()


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"features": {"amount": {"kind": "numeric"}}}, "the name 'amount' is taken"),
        ({"features": {"customer_max_amount": {"kind": "numeric"}}}, "is taken"),
        ({"features": {"big": {"kind": "numeric", "column": "TX_AMOUNT"}}}, "which the workload reads already"),
        ({"features": {"big": {"kind": "numeric", "entity": "shop"}}}, "entity is 'shop'; wanted one of"),
        (
            {"aggregates": {"a": {"of": "b", "over": "customer", "stat": "sum", "window": "1h"}}},
            "of is 'b'; wanted a num",
        ),
        ({"aggregates": {"a": {"over": "nobody", "stat": "count", "window": "1h"}}}, "over is 'nobody'"),
        ({"aggregates": {"a": {"over": "customer", "stat": "count", "window": "91d"}}}, "wanted 1h to 90d"),
        ({"aggregates": {"a": {"over": "customer", "stat": "sum", "window": "1h"}}}, "wants `of`"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_by_name(tmp_path: Path, own: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        declare({"name": "mine", "base": "fraud", **own}, tmp_path)

    assert not (tmp_path / "workloads").exists()
