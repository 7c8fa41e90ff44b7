"""Comparable features in pandas, for comparison only: read by day, group by, rolling, shift, merge, write by day.

Two ways over the same formulas: rolling windows group by group, as the published code and most notebooks have it; or
`vectorised`, all groups handed to pandas' own grouped rolling, which few know and which is the best pandas can do.
Both leave out what rolling windows cannot say: labels by the day they became known (a fixed delay instead, as in the
published code) and fraud streaks. So they do a little less than the real thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from millrace.fraud.features import (
    CUSTOMER_WINDOWS_DAYS,
    NO_EVENT_DAYS,
    TERMINAL_LABEL_WINDOWS_DAYS,
    TERMINAL_VOLUME_WINDOWS_DAYS,
)
from millrace.fraud.schema import LABEL_DELAY_DAYS

DAY = pd.Timedelta(days=1)
Columns = dict[str, "pd.Series[float]"]


def build(files: Sequence[Path], folder: Path, history_length: int, *, vectorised: bool) -> int:
    """Features of all rows of `files`, one Parquet file a day in `folder`; returns how many rows."""
    rows = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
    rows["amount"] = rows["amount"].astype(float)
    rows = rows.sort_values(["event_timestamp", "transaction_id"], ignore_index=True)
    rows["hour"] = (rows["event_timestamp"] - rows["event_timestamp"].dt.normalize()) / pd.Timedelta(hours=1)
    rows["is_weekend"] = rows["event_timestamp"].dt.weekday >= 5
    rows["is_night"] = rows["hour"] < 7
    over = _over_all_groups if vectorised else _group_by_group
    customer = over(rows, "customer_id", "amount", lambda amounts: customer_windows(amounts, history_length))
    rows = rows.join(customer).join(over(rows, "terminal_id", "is_fraud", terminal_windows))
    add_formulas(rows)
    for day, part in rows.groupby(rows["event_timestamp"].dt.date):
        part.to_parquet(folder / f"{day}.parquet", index=False)
    return len(rows)


def customer_windows(amounts: Any, history_length: int) -> Columns:
    """Windows over earlier amounts; closed on the left, so the present one is not in."""
    columns = {}
    for days in CUSTOMER_WINDOWS_DAYS:
        window = amounts.rolling(f"{days}D", closed="left")
        columns[f"customer_count_{days}d"] = window.count()
        columns[f"customer_mean_amount_{days}d"] = window.mean()
    past = amounts.rolling(history_length, closed="left", min_periods=0)
    return columns | {f"customer_{name}": getattr(past, name)() for name in ("count", "mean", "std", "max")}


def terminal_windows(frauds: Any) -> Columns:
    """How much happened, and the labels that the delay lets through: a longer window less the hidden days."""
    columns = {f"terminal_count_{days}d": frauds.rolling(f"{days}D").count() for days in TERMINAL_VOLUME_WINDOWS_DAYS}
    delayed = frauds.rolling(f"{LABEL_DELAY_DAYS}D")
    hidden, hidden_frauds = delayed.count(), delayed.sum()
    for days in TERMINAL_LABEL_WINDOWS_DAYS:
        window = frauds.rolling(f"{days + LABEL_DELAY_DAYS}D")
        labelled = window.count() - hidden
        columns[f"terminal_labelled_{days}d"] = labelled
        columns[f"terminal_risk_{days}d"] = (window.sum() - hidden_frauds) / labelled
    return columns


def add_formulas(rows: pd.DataFrame) -> None:
    """What follows from the windows, in place."""
    rows.fillna({name: 0.0 for name in rows.columns if name.startswith(("customer_", "terminal_"))}, inplace=True)
    known = rows["customer_count"] > 0
    rows["customer_amount_ratio"] = (rows["amount"] / rows["customer_mean"].clip(lower=0.01)).where(known, 1)
    deviation = (rows["amount"] - rows["customer_mean"]) / rows["customer_std"].clip(lower=1)
    rows["customer_amount_zscore"] = deviation.where(known, 0)
    since = rows.groupby("customer_id")["event_timestamp"].diff() / DAY
    rows["customer_days_since_last"] = since.fillna(NO_EVENT_DAYS).clip(upper=NO_EVENT_DAYS)
    rows["terminal_days_since_fraud"] = days_since_known_fraud(rows)


def days_since_known_fraud(rows: pd.DataFrame) -> pd.Series:
    """Days since the latest fraud at the terminal that was old enough to be known."""
    frauds = rows.loc[rows["is_fraud"] == 1, ["terminal_id", "event_timestamp"]]
    known = (frauds["event_timestamp"] + LABEL_DELAY_DAYS * DAY).dt.as_unit("us")
    frauds = frauds.rename(columns={"event_timestamp": "fraud_at"}).assign(known=known).sort_values("known")
    joined = pd.merge_asof(rows, frauds, left_on="event_timestamp", right_on="known", by="terminal_id")
    since = (joined["event_timestamp"] - joined["fraud_at"]) / DAY
    return pd.Series(np.minimum(since.fillna(NO_EVENT_DAYS), NO_EVENT_DAYS).to_numpy(), index=rows.index)


def _group_by_group(rows: pd.DataFrame, key: str, value: str, windows: Callable[[Any], Columns]) -> pd.DataFrame:
    """`windows` of one group after the other, in the order of `rows`."""
    groups = rows.set_index("event_timestamp").groupby(key)[value]
    return _in_order(rows, key, groups.apply(lambda group: pd.DataFrame(windows(group))))


def _over_all_groups(rows: pd.DataFrame, key: str, value: str, windows: Callable[[Any], Columns]) -> pd.DataFrame:
    """`windows` of all groups at once, in the order of `rows`."""
    columns = windows(rows.set_index("event_timestamp").groupby(key)[value])
    return _in_order(rows, key, pd.DataFrame({name: values.to_numpy() for name, values in columns.items()}))


def _in_order(rows: pd.DataFrame, key: str, grouped: pd.DataFrame) -> pd.DataFrame:
    order = np.concatenate(list(rows.groupby(key).indices.values()))
    return grouped.set_axis(order).sort_index()
