"""The batch path against the single-row path and against definitions written out naively, on random streams."""

from __future__ import annotations

import statistics
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud import features as f
from fraud import formulas, online
from fraud.batch import daily, events
from fraud.days import terminal_states
from fraud.features import VIEWS
from millrace.features.days import Events
from millrace.inputs import RecentEvents, Requests, States
from millrace.instants import DAY_US
from millrace.lookup import empty

CUSTOMERS, TERMINALS = VIEWS
DAY = DAY_US
START = 17_622 * DAY  # 2018-04-01
N = 4
EVERY = DAY // f.REFRESHES_PER_DAY

Row = dict[str, Any]


@st.composite
def streams(draw: st.DrawFn, max_rows: int = 24) -> list[Row]:
    """A few customers and terminals over 45 days, thick with ties, window edges, midnights and odd labels."""
    edges = st.sampled_from([days * DAY + offset for days in (0, 1, 3, 7, 14, 30, 31) for offset in (-1, 0, 1)])
    instants = st.one_of(edges, st.integers(0, 45 * DAY), st.integers(0, 40).map(lambda hour: hour * DAY // 4))
    delays = st.one_of(st.none(), edges.map(abs), st.integers(0, 40 * DAY))
    row = st.tuples(instants, st.integers(0, 2), st.integers(0, 2), st.integers(0, 50_000), st.booleans(), delays)
    rows = draw(st.lists(row, min_size=1, max_size=max_rows))
    ids = draw(st.permutations(range(len(rows))))
    stream = [_row(id_, START + max(at, 0), *rest) for id_, (at, *rest) in zip(ids, rows, strict=True)]
    return sorted(stream, key=lambda row: (row["event_us"], row["transaction_id"]))


def _row(id_: int, event_us: int, customer: int, terminal: int, cents: int, fraud: bool, delay: int | None) -> Row:
    return {
        "transaction_id": id_,
        "event_us": event_us,
        "customer_id": f"c{customer}",
        "terminal_id": f"t{terminal}",
        "amount_cents": cents,
        "is_fraud": None if delay is None else int(fraud),
        "label_us": None if delay is None else event_us + delay,
    }


@cache
def engine() -> duckdb.DuckDBPyConnection:
    """One for all examples: opening it costs more than an example does."""
    return duckdb.connect(config={"threads": 1})


def transactions(stream: list[Row]) -> Events:
    instant = pa.timestamp("us", tz="UTC")
    types = [("transaction_id", pa.int64()), ("customer_id", pa.string()), ("terminal_id", pa.string())]
    types += [("amount_cents", pa.int64()), ("is_fraud", pa.int8())]
    columns = {name: pa.chunked_array([pa.array([row[name] for row in stream], kind)]) for name, kind in types}
    for name, source in (("event_timestamp", "event_us"), ("label_timestamp", "label_us")):
        columns[name] = pa.chunked_array([pa.array([row[source] for row in stream], pa.int64()).cast(instant)])
    return events(pa.table(columns))


def batch(stream: list[Row], first_day: int | None = None, history_length: int = N) -> dict[int, np.ndarray]:
    """transaction_id → its features by the batch path, from first_day on."""
    data = transactions(stream)
    ids, days = data.column("transaction_id"), data.column("event_us") // DAY
    span = (days.min() if first_day is None else first_day, days.max())
    computed = list(daily(engine(), data, history_length, *map(int, span)))
    return {int(ids[at]): row for day in computed for at, row in zip(day.position, day.features, strict=True)}


def terminal_state(stream: list[Row], terminal_id: str, refresh_us: int) -> np.ndarray:
    """TERMINAL_STATE_FIELDS of one terminal at one refresh, as the docstrings of features.py say it."""
    midnight = refresh_us // DAY * DAY
    seen = [row for row in stream if row["terminal_id"] == terminal_id and row["event_us"] < midnight]
    known = [row for row in seen if row["label_us"] is not None and row["label_us"] < refresh_us]
    known.sort(key=lambda row: (first_refresh(row), row["label_us"], row["transaction_id"]))
    counts = [
        sum(row["event_us"] >= midnight - days * DAY for row in seen) for days in formulas.TERMINAL_VOLUME_WINDOWS_DAYS
    ]
    inside = [
        [row for row in known if first_refresh(row) > refresh_us - days * DAY]
        for days in formulas.TERMINAL_LABEL_WINDOWS_DAYS
    ]
    streak: list[int] = []
    ratios: list[int] = []
    for row in known:
        streak = [*streak, row["event_us"]] if row["is_fraud"] else []
        ratios = [*ratios, amount_ratio(stream, row)] if row["is_fraud"] else []
    last_fraud_us = max((row["event_us"] for row in known if row["is_fraud"]), default=0)
    labelled, fraud = [len(rows) for rows in inside], [sum(row["is_fraud"] for row in rows) for rows in inside]
    latest = (len(streak), min(streak, default=0), last_fraud_us, min(ratios, default=0))
    return np.array([*counts, *labelled, *fraud, *latest], np.int64)


def first_refresh(row: Row) -> int:
    """When a label is first seen: by the first refresh after it, but not on the day of its transaction."""
    return max((row["label_us"] // EVERY + 1) * EVERY, (row["event_us"] // DAY + 1) * DAY)


def amount_ratio(stream: list[Row], row: Row) -> int:
    """The row's amount over what is usual for its customer, per mille, by plain arithmetic."""
    order = (row["event_us"], row["transaction_id"])
    past = [r for r in stream if r["customer_id"] == row["customer_id"] if (r["event_us"], r["transaction_id"]) < order]
    amounts = [r["amount_cents"] for r in past]
    usual = [cents for cents in amounts if cents <= formulas.TYPICAL_WITHIN * statistics.median(amounts)]
    if not past:
        return formulas.NO_HISTORY_RATIO
    return min(row["amount_cents"] * 1000 * len(usual) // max(sum(usual), 1), formulas.MAX_RATIO)


def replay(
    stream: list[Row], states: dict[str, RecentEvents] | None = None, history_length: int = N, skip: int = 0
) -> dict[int, np.ndarray]:
    """transaction_id → its features by the single-row path, states appended one transaction at a time.

    `states` is filled as it goes; the first `skip` rows of the stream are in it already.
    """
    states = {} if states is None else states
    features = {}
    for row in stream[skip:]:
        customer = states.get(row["customer_id"], empty(CUSTOMERS))
        terminal = terminal_state(stream, row["terminal_id"], row["event_us"] // EVERY * EVERY)[None]
        event_id, event_us, cents = (np.array([row[name]]) for name in ("transaction_id", "event_us", "amount_cents"))
        request = Requests(event_id, event_us, {}, {"amount": cents})
        known = States({CUSTOMERS.name: [customer]}, {TERMINALS.name: terminal})
        inputs, _ = online.model_inputs(request, known, history_length=history_length, sequence_length=1)
        features[row["transaction_id"]] = inputs[0]
        (values,) = online.remembered(request, known)
        entry = (row["transaction_id"], row["event_us"], values)
        states[row["customer_id"]] = customer.append(*entry, history_length)
    return features


def assert_same(left: dict[int, np.ndarray], right: dict[int, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for id_ in left:
        np.testing.assert_allclose(left[id_], right[id_], rtol=1e-6, atol=1e-6, err_msg=f"transaction {id_}")


@settings(max_examples=60, deadline=None)
@given(streams(), st.sampled_from([1, 2, N, 64]))
def test_batch_and_single_row_features_agree(stream: list[Row], history_length: int) -> None:
    """On any history, with ties, at window edges, with unknown and late labels."""
    assert_same(batch(stream, history_length=history_length), replay(stream, history_length=history_length))


@settings(max_examples=30, deadline=None)
@given(streams(), st.data())
def test_splitting_the_stream_anywhere_and_resuming_gives_the_same(stream: list[Row], data: st.DataObject) -> None:
    """Single row: from the states left behind. Batch: from the first day that is still to be computed."""
    cut = data.draw(st.integers(0, len(stream)))
    states: dict[str, RecentEvents] = {}
    whole = replay(stream)

    before = replay(stream[:cut], states)
    after = replay(stream, states, skip=cut)

    assert_same(before | after, whole)
    day = stream[min(cut, len(stream) - 1)]["event_us"] // DAY
    later = {row["transaction_id"] for row in stream if row["event_us"] // DAY >= day}
    history_length = data.draw(st.sampled_from([1, 2, N]))
    full = batch(stream, history_length=history_length)
    resumed = batch(stream, first_day=day, history_length=history_length)
    assert resumed.keys() == later
    assert all(np.array_equal(resumed[id_], full[id_]) for id_ in later)


@settings(max_examples=30, deadline=None)
@given(streams(), st.integers(0, 45 * DAY))
def test_a_label_is_not_visible_before_it_is_known(stream: list[Row], after: int) -> None:
    """Every label that is not known at t, flipped or taken away, changes nothing at or before t."""
    t = START + after

    def tampered(row: Row) -> Row:
        unknown = row["label_us"] is None or row["label_us"] >= t
        return row | {"is_fraud": 1 - (row["is_fraud"] or 0), "label_us": row["label_us"] or t} if unknown else row

    early = {row["transaction_id"] for row in stream if row["event_us"] <= t}
    honest, leaked = batch(stream), batch([tampered(row) for row in stream])

    assert all(np.array_equal(honest[id_], leaked[id_]) for id_ in early)


@settings(max_examples=20, deadline=None)
@given(streams(), st.randoms(use_true_random=False))
def test_permuting_the_rows_changes_nothing(stream: list[Row], random: Any) -> None:
    shuffled = random.sample(stream, len(stream))

    ordered, permuted = batch(stream), batch(shuffled)

    assert ordered.keys() == permuted.keys()
    assert all(np.array_equal(ordered[id_], permuted[id_]) for id_ in ordered)


@settings(max_examples=40, deadline=None)
@given(streams(), st.integers(0, 46))
def test_the_state_of_every_terminal_at_every_refresh_is_the_documented_one(stream: list[Row], skipped: int) -> None:
    """As of each, looked up in the day's rows: one at midnight for every terminal that appeared, then one a change."""
    data = transactions(stream)
    end = int(stream[-1]["event_us"] // DAY) + 1
    first = min(int(stream[0]["event_us"] // DAY) + skipped, end)

    found = list(terminal_states(engine(), data, first, end))

    assert [states.day for states in found] == list(range(first, end + 1))
    terminals, refreshes = (grid.ravel() for grid in np.indices((len(data.ids["terminal"]), f.REFRESHES_PER_DAY)))
    for states in found:
        instants = states.day * DAY + refreshes * EVERY
        names = data.ids["terminal"].take(pa.array(terminals)).to_pylist()
        wanted = np.array([terminal_state(stream, *at) for at in zip(names, instants.tolist(), strict=True)])
        assert np.array_equal(states.at(terminals, instants + EVERY - 1), wanted)
        here = [any(r["terminal_id"] == t and r["event_us"] < states.day * DAY for r in stream) for t in names]
        changed = (wanted != np.roll(wanted, 1, axis=0)).any(axis=1)
        assert np.array_equal(states.key, np.flatnonzero(here & ((refreshes == 0) | changed)))


def test_amounts_at_the_limit_of_the_schema_keep_their_spread() -> None:
    cents = [10**12 - 1, 10**12 - 3, 10**12 - 5, 10**12 - 7]
    stream = [_row(i, START + i * DAY, 0, 0, value, False, None) for i, value in enumerate([*cents, 10**12 - 9])]

    features = batch(stream)[4]

    std = features[f.FEATURE_NAMES.index("customer_std_amount")]
    assert std == pytest.approx(np.std(cents) / 100)
    assert_same({4: features}, {4: replay(stream)[4]})


def test_a_label_known_exactly_at_a_refresh_counts_from_the_next() -> None:
    midnight = START + 3 * DAY
    stream = [_row(0, START, 0, 0, 100, True, 3 * DAY), _row(1, midnight, 1, 0, 100, False, None)]
    stream += [_row(2, midnight + EVERY, 1, 0, 100, False, None)]

    features = batch(stream)

    labelled = f.FEATURE_NAMES.index("terminal_labelled_30d")
    assert [features[id_][labelled] for id_ in (1, 2)] == [0, 1]


def test_ids_get_the_same_codes_whatever_the_order_of_rows() -> None:
    stream = [_row(i, START + i, i % 3, i % 2, i, False, None) for i in range(6)]
    assert (
        transactions(stream).ids["customer"].to_pylist()
        == transactions(stream[::-1]).ids["customer"].to_pylist()
        == ["c0", "c1", "c2"]
    )


def test_a_resumed_day_finds_the_newest_of_tied_transactions() -> None:
    """Only the last N of the days before are loaded; ties among them are ordered by id."""
    stream = [_row(id_, START, 0, 0, 100 * (id_ + 1), False, None) for id_ in range(4)]
    stream.append(_row(4, START + DAY, 0, 0, 100, False, None))

    resumed = batch(stream, first_day=START // DAY + 1, history_length=2)

    assert resumed[4][f.FEATURE_NAMES.index("customer_mean_amount")] == 3.5
