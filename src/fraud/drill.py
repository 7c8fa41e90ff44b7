"""The days of the drill: after healthy weeks all amounts are larger, and later cards are drained at night.

Limits for a world so small are in `drill.yaml`; the outage is the drill's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from fraud.planted import Planted
from fraud.simulator import SimulationConfig, simulate

OVERRIDES: Final = Path(__file__).with_name("drill.yaml")
SETTINGS: Final = {"review_capacity": "20"}
SHIFT: Final = "larger amounts"
SHIFTED: Final = "amount"
PATTERN: Final = "a new fraud pattern"


def days(
    *, start: date, size: int, count: int, seed: int, shift_day: int, shift_pct: float, pattern_day: int
) -> Iterator[pa.Table]:
    """`size` customers at twice as many terminals."""
    config = SimulationConfig(
        start=start,
        customers=size,
        terminals=2 * size,
        radius=10.0,
        days=count,
        seed=seed,
        planted=Planted(night_fraud_from_day=pattern_day),
    )

    for number, table in enumerate(simulate(config)):
        yield table if number < shift_day else _inflated(table, shift_pct)


def _inflated(table: pa.Table, pct: float) -> pa.Table:
    """Larger amounts; frauds stay frauds."""
    cents = pc.multiply(table["amount"].cast(pa.float64()), 100 + pct)
    amount = pc.divide(pc.round(cents), 100.0).cast(pa.decimal128(12, 2), safe=False)
    return table.set_column(table.schema.get_field_index("amount"), table.schema.field("amount"), amount)
