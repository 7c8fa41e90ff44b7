"""The rules of a row, declared once as a pandera schema; a batch in, the reason of each bad row out.

Why pandera, and on what frame: docs/adr/0002-row-validation.md.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
from numpy.typing import NDArray

from components.ingest.casts import LABEL_DELAY, UNREADABLE

FIRST_EVENT, LAST_EVENT = pd.Timestamp("1970-01-01", tz="UTC"), pd.Timestamp("2200-01-01", tz="UTC")
_MISSING: Final = "missing"
CHECKED: Final = (UNREADABLE, "transaction_id", "event_timestamp", "customer_id", "terminal_id", "amount", LABEL_DELAY)


@functools.cache
def row_schema() -> pandera.DataFrameSchema:
    """Every check carries the reason that a row failing it gets; nulls fail where a column must not have them."""
    check = pandera.Check
    in_range = check.in_range(FIRST_EVENT, LAST_EVENT, error="event_timestamp_out_of_range")
    after_event = check.ge(0, error="label_before_event")
    return pandera.DataFrameSchema(
        {
            # Read errors come first: what could not be read is null, and would be called missing.
            UNREADABLE: pandera.Column(nullable=True, checks=check(lambda reason: reason.isna(), error=UNREADABLE)),
            "transaction_id": pandera.Column(nullable=False),
            "event_timestamp": pandera.Column(nullable=False, checks=in_range),
            "customer_id": pandera.Column(nullable=False),
            "terminal_id": pandera.Column(nullable=False),
            "amount": pandera.Column(nullable=False, checks=check.ge(0, error="amount_negative")),
            LABEL_DELAY: pandera.Column(nullable=True, checks=after_event),
        }
    )


def reasons(batch: pa.Table) -> NDArray[Any]:
    """[rows] object: None for a good row, else the first rule it breaks, in the order of the schema."""
    frame = batch.select(CHECKED).to_pandas(types_mapper=pd.ArrowDtype)
    found: NDArray[Any] = np.full(len(frame), None, dtype=object)
    try:
        with warnings.catch_warnings():
            # pandera joins failure cases of which some hold only nulls; pandas will type that differently one day.
            warnings.filterwarnings("ignore", "The behavior of DataFrame concatenation", FutureWarning)
            row_schema().validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        order = cases["column"].map({name: place for place, name in enumerate(CHECKED)})
        cases = cases.assign(order=order).sort_values("order", kind="stable").drop_duplicates("index")
        found[cases["index"].to_numpy(dtype=np.int64)] = [_reason(*case) for case in _cases(cases)]
    return found


def _cases(cases: pd.DataFrame) -> zip[tuple[str, str, Any]]:
    return zip(cases["column"], cases["check"], cases["failure_case"], strict=True)


def _reason(column: str, check: str, value: Any) -> str:
    if column == UNREADABLE:
        return str(value)
    return f"{column}_{_MISSING}" if check == "not_nullable" else check
