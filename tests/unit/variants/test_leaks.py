"""The label under another name, as a category of one's own, is seen by the data gate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from components.validate.leaks import column_skills
from millrace.installed import declare


def test_a_category_that_is_the_label_tells_all_of_it_and_another_one_nothing(tmp_path: Path) -> None:
    own = {"outcome": {"kind": "categorical"}, "colour": {"kind": "categorical"}}
    mine = declare({"name": "mine", "base": "fraud", "features": own}, tmp_path)
    rows = 400
    columns = {
        "event_timestamp": [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=one) for one in range(rows)],
        "outcome": ["chargeback" if one % 5 == 0 else "paid" for one in range(rows)],
        "colour": [("red", "blue")[one // 7 % 2] for one in range(rows)],
        "is_fraud": [int(one % 5 == 0) for one in range(rows)],
        "amount": [1.0] * rows,
    }
    pq.write_table(pa.table(columns), tmp_path / "day.parquet")

    with duckdb.connect() as db:
        skills = column_skills(db, mine, [tmp_path / "day.parquet"])

    assert skills["outcome"] > 0.99
    assert skills["colour"] < 0.3
    assert "customer_id" not in skills
