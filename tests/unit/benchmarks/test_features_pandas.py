"""The rival in the benchmark does the same work: its tables are ours, where no window is cut to the last N."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks import features_pandas
from components.build_features.core import build_features
from fraud import features, formulas
from millrace.instants import DAY_US
from millrace.lake.manifest import Manifest

KEY = ["terminal_id", "event_timestamp"]
INSTANT = "datetime64[us, UTC]"
REFRESH_US = DAY_US // features.REFRESHES_PER_DAY


def read(files: list[Path], key: list[str], columns: tuple[str, ...]) -> pd.DataFrame:
    rows = pd.concat([pd.read_parquet(path) for path in files])
    return rows.set_index(key).sort_index()[list(columns)]


@pytest.mark.parametrize("vectorised", [False, True])
def test_pandas_computes_the_same_tables(
    tmp_path: Path,
    simulated_days: list[pa.Table],
    snapshot_of: Callable[..., Manifest],
    vectorised: bool,
) -> None:
    snapshot = snapshot_of(tmp_path / "lake", simulated_days[:25])
    ours = build_features(snapshot, tmp_path / "lake", history_length=512, threads=1)

    features_pandas.build(snapshot.table("events"), tmp_path, 512, vectorised=vectorised)

    theirs = sorted((tmp_path / "events").glob("*.parquet"))
    names = (*features.FEATURE_NAMES, "terminal_risk")
    left, right = (read(files, ["transaction_id"], names) for files in (theirs, ours.table("events")))
    np.testing.assert_allclose(left.to_numpy(float), right.to_numpy(float), rtol=1e-5, atol=1e-5)
    states = ours.table("terminal_state")[1:]  # before the first day there is no terminal
    theirs = sorted((tmp_path / "terminal_state").glob("*.parquet"))
    for left_file, right_file in zip(theirs, states, strict=True):
        state = pd.read_parquet(left_file)
        state["event_timestamp"] = pd.to_datetime(state["refresh"] * REFRESH_US, unit="us", utc=True).astype(INSTANT)
        wanted = read([right_file], KEY, formulas.TERMINAL_STATE_FIELDS)
        pd.testing.assert_frame_equal(state.set_index(KEY).sort_index()[wanted.columns], wanted)
