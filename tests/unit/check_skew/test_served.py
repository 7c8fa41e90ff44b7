"""What the gate says of terminals in the store that serves; customers, and a live Redis, are tests/contract's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.build_features.core import build_features
from components.check_skew.served import refreshed_rules
from components.materialize.core import sources_of
from fraud.formulas import TERMINAL_STATE_FIELDS
from millrace.installed import load
from millrace.lake.manifest import Manifest
from millrace.lake.states import refreshed_states

AS_OF = datetime(2018, 5, 14, 5, tzinfo=UTC)
Held = dict[str, tuple[datetime, tuple[int, ...]]]


def wrong(held: Held, name: str) -> Held:
    at, counts = held[name]
    return held | {name: (at, (counts[0] + 1, *counts[1:]))}


def gone(held: Held, name: str) -> Held:
    return {key: state for key, state in held.items() if key != name}


def old(held: Held, name: str) -> Held:
    at, counts = held[name]
    return held | {name: (at - timedelta(days=30), counts)}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda held, _: held, set()),
        (wrong, {"terminal_state that differs in the serving store"}),
        (gone, {"terminal_state missing in the serving store"}),
        # What it holds was never true on that day either.
        (
            old,
            {
                "terminal_state of an earlier refresh in the serving store",
                "terminal_state that differs in the serving store",
            },
        ),
    ],
)
def test_a_terminal_that_is_not_what_the_feature_set_says_is_blocked(
    tmp_path: Path,
    simulated_days: list[pa.Table],
    snapshot_of: Callable[..., Manifest],
    spoil: Callable[[Held, str], Held],
    named: set[str],
) -> None:
    features = build_features(snapshot_of(tmp_path / "lake", simulated_days), tmp_path / "lake", history_length=8)
    filled = sources_of(features, tmp_path / "lake", AS_OF, 2, 1.0)
    (day,) = features.table("terminal_state", AS_OF.date(), AS_OF.date())
    (view,) = (view for view in load("fraud").features.VIEWS if not view.recent)
    rows: list[dict[str, Any]] = refreshed_states(load("fraud"), view, day, AS_OF).to_pylist()
    held: Held = {row["terminal_id"]: (AS_OF, tuple(row[name] for name in TERMINAL_STATE_FIELDS)) for row in rows}

    rules = list(
        refreshed_rules(load("fraud"), view, spoil(held, rows[3]["terminal_id"]), list(held), features, filled, 0.0)
    )

    assert {rule.name for rule in rules if not rule.passed} == named
    assert len(rules) == 3
