"""What the benchmark of Spark makes of its runs."""

from __future__ import annotations

import pytest

from benchmarks.spark import line_of


def test_the_price_of_a_start_is_told_from_the_price_of_a_row():
    runs = [{"engine": "spark", "rows": rows, "cpu_s": 20 + rows * 3e-5} for rows in (1_000_000, 500_000, 2_000_000)]
    runs.append({"engine": "duckdb", "rows": 2_000_000, "cpu_s": 1.0})

    assert line_of(runs, "spark") == pytest.approx({"start_cpu_s": 20.0, "cpu_s_a_million_rows": 30.0})
