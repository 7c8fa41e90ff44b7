"""The rules of a row, declared once as a pandera schema; a batch in, the reason of each bad row out.

Why pandera, and on what frame: docs/adr/0002-row-validation.md.
"""

from __future__ import annotations

import functools
import warnings
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
from numpy.typing import NDArray

from millrace.fields import Field, Kind
from millrace.reading.casts import BROKEN, FAULT, LABEL_DELAY

_MISSING: Final = "missing"


@functools.cache
def row_schema(fields: tuple[Field, ...]) -> pandera.DataFrameSchema:
    """Every check carries the reason that a row failing it gets; nulls fail where a field must not have them."""
    check = pandera.Check
    # Read errors come first: what could not be read is null, and would be called missing.
    columns = {FAULT: pandera.Column(nullable=True, checks=check(lambda reason: reason.isna(), error=FAULT))}
    for field in fields:
        if not field.empty or _range(field):
            columns[field.name] = pandera.Column(nullable=field.empty, checks=_range(field))
    columns[LABEL_DELAY] = pandera.Column(nullable=True, checks=check.ge(0, error="label_before_event"))
    columns[BROKEN] = pandera.Column(nullable=True, checks=check(lambda reason: reason.isna(), error=BROKEN))
    return pandera.DataFrameSchema(columns)


def reasons(batch: pa.Table, fields: tuple[Field, ...]) -> NDArray[Any]:
    """[rows] object: None for a good row, else the first rule it breaks, in the order of the schema."""
    schema = row_schema(fields)
    checked = list(schema.columns)
    frame = batch.select(checked).to_pandas(types_mapper=pd.ArrowDtype)
    found: NDArray[Any] = np.full(len(frame), None, dtype=object)

    try:
        with warnings.catch_warnings():
            # pandera joins failure cases of which some hold only nulls; pandas will type that differently one day.
            warnings.filterwarnings("ignore", "The behavior of DataFrame concatenation", FutureWarning)
            schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        order = cases["column"].map({name: place for place, name in enumerate(checked)})
        cases = cases.assign(order=order).sort_values("order", kind="stable").drop_duplicates("index")
        found[cases["index"].to_numpy(dtype=np.int64)] = [_reason(*case) for case in _cases(cases)]

    return found


def _range(field: Field) -> list[pandera.Check]:
    checks = []
    if field.minimum is not None:
        below = f"{field.name}_negative" if field.minimum == 0 else f"{field.name}_too_small"
        checks.append(pandera.Check.ge(_limit(field, field.minimum), error=below))
    if field.maximum is not None:
        checks.append(pandera.Check.le(_limit(field, field.maximum), error=f"{field.name}_too_large"))
    return checks


def _limit(field: Field, value: float) -> float | Decimal:
    return Decimal(str(value)) if field.kind is Kind.MONEY else value


def _cases(cases: pd.DataFrame) -> zip[tuple[str, str, Any]]:
    return zip(cases["column"], cases["check"], cases["failure_case"], strict=True)


def _reason(column: str, check: str, value: Any) -> str:
    if column in (FAULT, BROKEN):
        return str(value)
    return f"{column}_{_MISSING}" if check == "not_nullable" else check
