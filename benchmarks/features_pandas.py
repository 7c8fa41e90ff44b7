"""The same two feature tables in pandas, for comparison: read by day, compute, write by day.

Two ways. Plain: a function of one customer's or one terminal's rows with rolling windows in it, applied group by group,
as published code and most notebooks have it. `vectorised`: pandas' own grouped rolling over all groups at once, which
is the best pandas can do. Both give every column and row that `build_features` gives (a test holds them to it),
but for two corners: windows are not cut to the last N, and of a customer's transactions at one instant the later
ones do not see the earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fraud.features import REFRESHES_PER_DAY
from fraud.formulas import (
    CUSTOMER_WINDOWS_DAYS,
    MAX_RATIO,
    NO_EVENT_DAYS,
    NO_HISTORY_RATIO,
    RATIO_HISTORY,
    RISK_WINDOW_DAYS,
    TERMINAL_LABEL_WINDOWS_DAYS,
    TERMINAL_STATE_FIELDS,
    TERMINAL_VOLUME_WINDOWS_DAYS,
    TYPICAL_WITHIN,
)
from millrace.instants import DAY_US

ROLLED = (
    *((f"count_{days}d", "happened", days * REFRESHES_PER_DAY) for days in TERMINAL_VOLUME_WINDOWS_DAYS),
    *((f"labelled_{days}d", "labelled", days * REFRESHES_PER_DAY) for days in TERMINAL_LABEL_WINDOWS_DAYS),
    *((f"fraud_{days}d", "fraud", days * REFRESHES_PER_DAY) for days in TERMINAL_LABEL_WINDOWS_DAYS),
)
"""Field, what is counted, over how many refreshes."""
LATEST = ["fraud_streak", "streak_start_us", "last_fraud_us", "streak_least_ratio"]


def build(files: Sequence[Path], folder: Path, history_length: int, *, vectorised: bool) -> int:
    """Both tables, one file a day each, in `folder`; returns how many transactions."""
    rows = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
    rows["amount"] = rows["amount"].astype(float)
    rows["cents"] = (rows["amount"] * 100).round().astype("int64")
    rows["event_us"] = rows["event_timestamp"].astype("int64")
    rows["label_us"] = rows["label_timestamp"].astype("int64").where(rows["label_timestamp"].notna())
    rows["day"] = rows["event_us"] // DAY_US
    rows["refresh"] = rows["event_us"] * REFRESHES_PER_DAY // DAY_US
    rows = rows.sort_values(["event_us", "transaction_id"], ignore_index=True)
    if vectorised:
        rows = rows.join(_customers(rows, history_length))
        states = _terminals(rows)
    else:
        by_customer = rows.groupby("customer_id", group_keys=False)
        rows = rows.join(by_customer[rows.columns.tolist()].apply(customer_windows, history_length))
        last = int(rows["day"].max())
        states = rows.groupby("terminal_id").apply(terminal_states, last, include_groups=False).reset_index()
    _write(_changes(states.assign(day=states["refresh"] // REFRESHES_PER_DAY)), folder / "terminal_state")
    rows = rows.merge(states, how="left", on=["terminal_id", "refresh"]).fillna(dict.fromkeys(TERMINAL_STATE_FIELDS, 0))
    _write(add_formulas(rows), folder / "events")
    return len(rows)


def customer_windows(rows: pd.DataFrame, history_length: int) -> pd.DataFrame:
    """What each transaction of one customer finds behind it."""
    amounts = rows.set_index("event_timestamp")["amount"]
    columns: dict[str, Any] = {}
    for days in CUSTOMER_WINDOWS_DAYS:
        window = amounts.rolling(f"{days}D", closed="neither")
        columns[f"customer_count_{days}d"] = window.count()
        columns[f"customer_mean_amount_{days}d"] = window.mean()
    past = amounts.rolling(history_length, closed="left", min_periods=0)
    columns |= {"count": past.count(), "mean": past.mean(), "std": past.std(ddof=0), "max": past.max()}
    frame = pd.DataFrame({name: values.to_numpy() for name, values in columns.items()}, index=rows.index)
    return frame.assign(since=rows["event_us"].diff() / DAY_US, ratio=amount_ratios(rows))


def amount_ratios(rows: pd.DataFrame) -> Any:
    """The amount of each fraud of one customer over what was usual for the customer, per mille; 0 for the rest."""
    cents, ratios = rows["cents"].to_numpy(), np.zeros(len(rows), np.int64)
    for at in np.flatnonzero(rows["is_fraud"] == 1):
        past = cents[max(at - RATIO_HISTORY, 0) : at]
        usual = past[past <= TYPICAL_WITHIN * np.median(past)] if at else past
        ratio = min(cents[at] * 1000 * len(usual) // max(usual.sum(), 1), MAX_RATIO)
        ratios[at] = ratio if at else NO_HISTORY_RATIO
    return ratios


def terminal_states(rows: pd.DataFrame, last: int) -> pd.DataFrame:
    """One terminal's state at every refresh from the day after its first transaction to the one after `last`."""
    first, end = (day * REFRESHES_PER_DAY for day in (rows["day"].min() + 1, last + 2))
    refreshes = pd.RangeIndex(first, end, name="refresh")
    known = _in_order_of_revelation(rows)
    labels = known.groupby("refresh")["is_fraud"]
    new = {
        "happened": _next_midnight(rows).value_counts().reindex(refreshes, fill_value=0),
        "labelled": labels.size().reindex(refreshes, fill_value=0),
        "fraud": labels.sum().reindex(refreshes, fill_value=0),
    }
    columns = {name: new[source].rolling(width, min_periods=1).sum() for name, source, width in ROLLED}
    block = (known["is_fraud"] == 0).cumsum()
    frauds = known["event_us"].where(known["is_fraud"] == 1)
    known["fraud_streak"] = known["is_fraud"].groupby(block).cumsum()
    known["streak_start_us"] = frauds.groupby(block).cummin()
    known["streak_least_ratio"] = known["ratio"].where(known["is_fraud"] == 1).groupby(block).cummin()
    known["last_fraud_us"] = frauds.cummax().ffill()
    latest = known.groupby("refresh")[LATEST].nth(-1).set_index(known.groupby("refresh")["refresh"].nth(-1))
    latest = latest.fillna({"streak_start_us": 0, "streak_least_ratio": 0})
    return pd.DataFrame(columns).join(latest.reindex(refreshes).ffill().fillna(0)).astype("int64")


def add_formulas(rows: pd.DataFrame) -> pd.DataFrame:
    """What follows from windows and states, in place; helper columns are dropped."""
    known = rows["count"] > 0
    means = [f"customer_mean_amount_{days}d" for days in CUSTOMER_WINDOWS_DAYS]
    counts = [f"customer_count_{days}d" for days in CUSTOMER_WINDOWS_DAYS]
    rows = rows.fillna(dict.fromkeys([*means, *counts, "mean", "std", "max"], 0))
    rows["hour"] = rows["event_us"] % DAY_US / 3_600_000_000
    rows["is_weekend"] = rows["event_timestamp"].dt.weekday >= 5
    rows["is_night"] = rows["hour"] < 7
    rows["customer_amount_ratio"] = (rows["amount"] / rows["mean"].clip(lower=0.01)).where(known, 1)
    rows["customer_amount_zscore"] = ((rows["amount"] - rows["mean"]) / rows["std"].clip(lower=1)).where(known, 0)
    rows["customer_days_since_last"] = rows["since"].fillna(NO_EVENT_DAYS).clip(upper=NO_EVENT_DAYS)
    for days in TERMINAL_LABEL_WINDOWS_DAYS:
        rows[f"terminal_risk_{days}d"] = rows[f"fraud_{days}d"] / rows[f"labelled_{days}d"].clip(lower=1)
    for name, source in (("streak_start", "streak_start_us"), ("fraud", "last_fraud_us")):
        since = ((rows["event_us"] - rows[source]) / DAY_US).clip(upper=NO_EVENT_DAYS)
        rows[f"terminal_days_since_{name}"] = since.where(rows[source] > 0, NO_EVENT_DAYS)
    dates = (rows["day"] - rows["streak_start_us"] // DAY_US).clip(upper=NO_EVENT_DAYS)
    rows["terminal_dates_since_streak_start"] = dates.where(rows["streak_start_us"] > 0, NO_EVENT_DAYS)
    rows["terminal_streak_least_ratio"] = rows["streak_least_ratio"] / 1000
    rows["terminal_risk"] = rows[f"terminal_risk_{RISK_WINDOW_DAYS}d"]
    whole = {"count": "customer_history_count"} | {name: f"customer_{name}_amount" for name in ("mean", "std", "max")}
    kept = {name: f"terminal_{name}" for name, source, _ in ROLLED if source != "fraud"}
    unused = [name for name, source, _ in ROLLED if source == "fraud"]
    unused += ["since", "ratio", "cents", "event_us", "label_us", "refresh", *LATEST[1:]]
    return rows.drop(columns=unused).rename(columns=whole | kept | {"fraud_streak": "terminal_fraud_streak"})


def _customers(rows: pd.DataFrame, history_length: int) -> pd.DataFrame:
    """`customer_windows` of all customers at once."""
    groups = rows.set_index("event_timestamp").groupby("customer_id")["amount"]
    columns: dict[str, Any] = {}
    for days in CUSTOMER_WINDOWS_DAYS:
        window = groups.rolling(f"{days}D", closed="neither")
        columns[f"customer_count_{days}d"] = window.count()
        columns[f"customer_mean_amount_{days}d"] = window.mean()
    past = groups.rolling(history_length, closed="left", min_periods=0)
    columns |= {"count": past.count(), "mean": past.mean(), "std": past.std(ddof=0), "max": past.max()}
    order = np.concatenate(list(rows.groupby("customer_id").indices.values()))
    frame = pd.DataFrame({name: values.to_numpy() for name, values in columns.items()}, index=order).sort_index()
    ratio = pd.concat([pd.Series(amount_ratios(part), part.index) for _, part in rows.groupby("customer_id")])
    return frame.assign(since=rows.groupby("customer_id")["event_us"].diff() / DAY_US, ratio=ratio)


def _terminals(rows: pd.DataFrame) -> pd.DataFrame:
    """`terminal_states` of all terminals at once."""
    end = (int(rows["day"].max()) + 2) * REFRESHES_PER_DAY
    known = _in_order_of_revelation(rows)
    appeared = _next_midnight(rows).groupby(rows["terminal_id"]).min()
    dense = appeared.index.repeat(end - appeared).to_frame(index=False)
    dense["refresh"] = np.concatenate([np.arange(first, end) for first in appeared])
    labels = known.groupby(["terminal_id", "refresh"])["is_fraud"]
    new = {
        "happened": rows.groupby(["terminal_id", _next_midnight(rows)]).size(),
        "labelled": labels.size(),
        "fraud": labels.sum(),
    }
    for name, values in new.items():
        frame = values.rename(name).rename_axis(["terminal_id", "refresh"]).reset_index()
        dense = dense.merge(frame, how="left", on=["terminal_id", "refresh"]).fillna({name: 0})
    groups = dense.groupby("terminal_id")
    rolled = {name: groups[source].rolling(width, min_periods=1).sum().to_numpy() for name, source, width in ROLLED}
    block = [known["terminal_id"], (known["is_fraud"] == 0).groupby(known["terminal_id"]).cumsum()]
    frauds = known["event_us"].where(known["is_fraud"] == 1)
    known["fraud_streak"] = known["is_fraud"].groupby(block).cumsum()
    known["streak_start_us"] = frauds.groupby(block).cummin().fillna(0)
    known["streak_least_ratio"] = known["ratio"].where(known["is_fraud"] == 1).groupby(block).cummin().fillna(0)
    known["last_fraud_us"] = frauds.groupby(known["terminal_id"]).cummax().groupby(known["terminal_id"]).ffill()
    latest = known.drop_duplicates(["terminal_id", "refresh"], keep="last")
    latest = latest[["terminal_id", "refresh", *LATEST]]
    dense = dense.merge(latest, how="left", on=["terminal_id", "refresh"])
    dense[LATEST] = dense.groupby("terminal_id")[LATEST].ffill().fillna(0)
    return dense.drop(columns=list(new)).assign(**rolled).astype(dict.fromkeys(TERMINAL_STATE_FIELDS, "int64"))


def _changes(states: pd.DataFrame) -> pd.DataFrame:
    """Of each day's states, by terminal and refresh, those of midnight and those that are not what they were."""
    fields = states[list(TERMINAL_STATE_FIELDS)]
    return states[(states["refresh"] % REFRESHES_PER_DAY == 0) | (fields != fields.shift()).any(axis=1)]


def _next_midnight(rows: pd.DataFrame) -> pd.Series:
    """Refresh that is the first to see each transaction, numbered from 1970 on."""
    return (rows["day"] + 1) * REFRESHES_PER_DAY


def _in_order_of_revelation(rows: pd.DataFrame) -> pd.DataFrame:
    known = rows[rows["label_us"].notna()]
    revealed = known["label_us"].astype("int64") * REFRESHES_PER_DAY // DAY_US + 1
    known = known.assign(refresh=revealed.clip(lower=_next_midnight(known)))
    return known.sort_values(["refresh", "label_us", "transaction_id"])


def _write(rows: pd.DataFrame, folder: Path) -> None:
    folder.mkdir()
    for day, part in rows.groupby("day"):
        part.to_parquet(folder / f"{day}.parquet", index=False)
