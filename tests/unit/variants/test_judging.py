"""What judges, explains and watches a variant: the base's, and something for each column of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.evaluate.config import load_limits
from edge.package import EdgeOptions, build
from millrace.errors import InvalidInput
from millrace.inputs import Requests, States
from millrace.installed import Workload, declare, load
from millrace.lookup import unknown_states
from millrace.variants.columns import code_of

OWN: dict[str, Any] = {
    "features": {"mcc": {"kind": "categorical"}, "age": {"kind": "numeric"}},
    "aggregates": {"mean_age_7d": {"of": "age", "over": "customer", "stat": "mean", "window": "7d"}},
}
NAMES = ("age_value", "age_missing", "mcc_code", "mean_age_7d", "mean_age_7d_missing")
BASE = load("fraud")
WIDTH = len(BASE.features.FEATURE_NAMES)


@pytest.fixture
def mine(tmp_path: Path) -> Workload:
    return declare({"name": "mine", "base": "fraud", **OWN}, tmp_path)


def test_every_own_feature_is_watched_and_explained(mine: Workload) -> None:
    assert mine.features.FEATURE_NAMES[WIDTH:] == NAMES
    assert mine.watch.PER_REQUEST[-3:] == NAMES[:3]
    assert mine.watch.AGGREGATE[-2:] == NAMES[3:]
    assert (*BASE.explain.GROUPS, "age", "mcc", "mean_age_7d") == mine.explain.GROUPS
    assert {name for part in mine.explain.INPUTS for name in part.features} >= set(NAMES)
    assert "age (numeric), mcc (categorical)" in mine.judging.CAVEATS[-1]


def test_a_variant_of_a_request_lacks_one_group_at_a_time(mine: Workload) -> None:
    requests = Requests(
        np.array([1]),
        np.array([10**15]),
        {"customer": ["a"], "terminal": ["x"]},
        {"amount": np.array([500]), "mcc": np.array(["5411"], object), "age": np.array([3.0])},
    )
    states: States = unknown_states(mine.features.VIEWS, 1)

    features, history = mine.explain.variants(requests, states, history_length=4, sequence_length=4)

    own = features[:, WIDTH:].tolist()
    said = [3.0, 0.0, float(code_of("5411")), 0.0, 1.0]
    assert history is not None
    assert len(features) == len(history) == len(mine.explain.GROUPS)
    assert own == [said] * 4 + [[0.0, 1.0, *said[2:]], [*said[:2], 0.0, *said[3:]], said]


def test_levels_are_slices_and_a_day_without_own_columns_is_a_stress_with_a_limit(mine: Workload) -> None:
    rows = pa.table({"mcc": ["5411", None, "5411", "7995"]})
    features = np.zeros((4, WIDTH + 5), np.float32)

    masks = mine.judging.slices(rows, features)

    assert masks["mcc_is_5411"].tolist() == [True, False, True, False]
    assert masks["mcc_is_7995"].tolist() == [False, False, False, True]
    simulated = load_limits(mine, profile="simulated")
    assert simulated.stress_floors.keys() >= mine.judging.STRESSES.keys()  # type: ignore[union-attr]
    assert load_limits(mine).stress_floors is None  # type: ignore[union-attr]
    assert "own_columns_missing" not in load_limits(BASE, profile="simulated").stress_floors  # type: ignore[union-attr]


def test_the_stress_leaves_the_base_and_blanks_what_is_its_own(mine: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.arange(2 * (WIDTH + 5), dtype=np.float32).reshape(2, -1)
    theirs = SimpleNamespace(tensors=lambda length: (whole[:, :WIDTH], None), label=np.array([True, False]))
    monkeypatch.setattr("fraud.judging.what_if", lambda data, rows: theirs)

    events = mine.judging.what_if(SimpleNamespace(features=whole), np.arange(2))
    silent = mine.judging.STRESSES["own_columns_missing"](events)

    np.testing.assert_array_equal(events.tensors(1)[0], whole)
    np.testing.assert_array_equal(silent.tensors(1)[0][:, :WIDTH], whole[:, :WIDTH])
    np.testing.assert_array_equal(silent.tensors(1)[0][:, WIDTH:], [[0, 1, 0, 0, 1]] * 2)


def test_an_edge_package_of_own_columns_is_refused(
    mine: Workload, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = SimpleNamespace(require_contract=lambda: None, of_workload=lambda: mine)
    monkeypatch.setattr("edge.package.ModelSpec.read", lambda folder: spec)
    whole: Any = SimpleNamespace(verify=lambda: None, fetch=lambda: tmp_path)

    with pytest.raises(InvalidInput, match="has columns of its own"):
        build(whole, "1", whole, tmp_path / "out", EdgeOptions())
