"""`make backtest` on a small simulation: one weekly fold with the ordinary components."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fraud.simulator import SimulationConfig, write


@pytest.mark.e2e
@pytest.mark.slow
def test_every_transaction_of_the_test_week_is_scored_under_its_own_id(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write(SimulationConfig(customers=300, terminals=600, days=40, seed=5), raw)
    out = tmp_path / "scores.parquet"
    command = [sys.executable, "-m", "run.backtest", "--data", str(raw), "--from", "2018-05-02"]
    command += ["--weeks", "1", "--days", "14", "--out", str(out)]

    done = subprocess.run(
        command,
        env=os.environ | {"MILLRACE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    scores = pq.read_table(out)
    week = [pq.read_table(raw / f"2018-05-0{day}.parquet")["transaction_id"].to_pylist() for day in range(2, 9)]
    assert sorted(scores["transaction_id"].to_pylist()) == sorted(number for day in week for number in day)
    assert 0.0 <= pc.min(scores["score"]).as_py() <= pc.max(scores["score"]).as_py() <= 1.0
    assert "mean" in done.stdout
