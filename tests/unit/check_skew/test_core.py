"""The skew gate: agreement passes, and every skew that is planted is blocked by name."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from components.build_features.core import build_features
from components.check_skew import core, paths
from components.check_skew.core import SkewConfig, check_skew
from components.materialize.core import materialize
from fraud import batch, formulas
from fraud import features as f
from millrace.errors import GateBlocked, InvalidInput, NotFound
from millrace.features.days import DayFeatures
from millrace.fields import View
from millrace.inputs import States
from millrace.instants import DAY_US
from millrace.judge.gates import Rule, Verdict
from millrace.lake.feast_home import DATABASE, repository
from millrace.lake.manifest import Manifest
from millrace.lookup import Response

N = 6
RECENT = "customer_state"
AS_OF = datetime(2018, 5, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def feature_set(lake: Path, simulated_days: list[pa.Table], snapshot_of: Callable[..., Manifest]) -> Manifest:
    return build_features(snapshot_of(lake, simulated_days), lake, history_length=N, threads=1)


@pytest.fixture
def filled(lake: Path, feature_set: Manifest, tmp_path: Path) -> Callable[..., Manifest]:
    """`filled(as_of)` fills the store of this test's own home."""

    def fill(as_of: datetime = AS_OF) -> Manifest:
        return materialize(feature_set, lake, tmp_path, as_of, generation="served")

    return fill


@pytest.fixture(scope="module")
def home(lake: Path, feature_set: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A home whose store is filled as of AS_OF, for tests that leave it as it is; and the artifact it is of."""
    folder = tmp_path_factory.mktemp("home")
    return folder, materialize(feature_set, lake, folder, AS_OF, generation="served")


@pytest.fixture(autouse=True)
def _no_earlier_checks(lake: Path) -> None:
    shutil.rmtree(lake / "skew_checks", ignore_errors=True)


def check(feature_set: Manifest, store: Manifest, lake: Path, home: Path, **config: Any) -> Verdict:
    result = check_skew(feature_set, store, lake, home, SkewConfig(**{"sample": 30} | config), threads=1)
    verdict = Verdict.read(result.fetch() / "verdict.json")
    assert result.facts["passed"] == verdict.passed
    return verdict


def blocked_by(verdict: Verdict) -> dict[str, Rule]:
    with pytest.raises(GateBlocked):
        verdict.require()
    return {rule.name: rule for rule in verdict.failures}


@pytest.mark.parametrize(
    "as_of", [AS_OF, AS_OF + timedelta(hours=13, minutes=7), datetime(2018, 5, 16, tzinfo=UTC)], ids=str
)
def test_paths_that_agree_pass(
    tmp_path: Path, lake: Path, feature_set: Manifest, filled: Callable[..., Manifest], as_of: datetime
) -> None:
    """At midnight, in the middle of a day, and at the end of the data, where there is nothing real to probe with."""
    verdict = check(feature_set, filled(as_of), lake, tmp_path)

    verdict.require()
    compared = {rule.name for rule in verdict.rules}
    assert {"online against offline", "online against batch", "offline against batch"} <= compared
    assert ("stored against batch" in compared) == (as_of < datetime(2018, 5, 16, tzinfo=UTC))


def test_the_sample_holds_the_inputs_by_every_path(
    lake: Path, feature_set: Manifest, home: tuple[Path, Manifest]
) -> None:
    folder, store = home
    result = check_skew(feature_set, store, lake, folder, SkewConfig(sample=30), threads=1)

    sample = pq.read_table(result.path("sample.parquet"))
    assert pc.value_counts(sample["path"]).to_pylist() == [
        {"values": path, "counts": 31} for path in ("offline", "online", "batch")
    ]
    assert {"real", "reissued", "unseen"} == set(sample["kind"].to_pylist())
    known = sample.filter(pc.not_equal(sample["kind"], "unseen"))
    assert pc.min(known["customer_history_count"]).as_py() > 0
    assert len(sample["history"][0]) == N * len(f.HISTORY_CHANNELS)


def test_a_window_off_by_a_day_is_blocked(
    lake: Path, feature_set: Manifest, home: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = home
    right = formulas.history_totals

    def off_by_a_day(now_us: Any, states: formulas.CustomerStates) -> formulas.HistoryTotals:
        return replace(right(now_us, states), window_count=right(now_us - DAY_US, states).window_count)

    monkeypatch.setattr(formulas, "history_totals", off_by_a_day)
    failures = blocked_by(check(feature_set, store, lake, folder))

    assert set(failures) == {"online against batch", "offline against batch"}
    assert "customer_count_" in failures["online against batch"].detail
    assert "of transaction" in failures["online against batch"].detail


def test_a_scaler_fitted_twice_in_serving_is_blocked(
    lake: Path, feature_set: Manifest, home: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Amounts divided by a hundred once more on the way out of the store: the paths through Feast share the error."""
    folder, store = home
    right = paths.states_of

    def scaled_again(response: Response, views: Sequence[View]) -> States:
        states = right(response, views)
        scaled = [replace(state, values=(state.values[0] // 100, state.values[1])) for state in states.recent[RECENT]]
        return replace(states, recent={RECENT: scaled})

    monkeypatch.setattr(paths, "states_of", scaled_again)
    failures = blocked_by(check(feature_set, store, lake, folder))

    assert set(failures) == {"online against batch", "offline against batch"}


def test_amounts_scaled_in_the_training_rows_are_blocked(
    lake: Path, feature_set: Manifest, home: tuple[Path, Manifest]
) -> None:
    folder, store = home
    path = feature_set.table("events", AS_OF.date(), AS_OF.date())[0]
    honest = pq.read_table(path)
    column = honest.column_names.index("amount")
    pq.write_table(honest.set_column(column, honest.schema.field(column), pc.multiply(honest["amount"], pa.scalar(0.5, pa.float32()))), path)  # fmt: skip  # noqa: E501
    try:
        failures = blocked_by(check(feature_set, store, lake, folder))
    finally:
        pq.write_table(honest, path)

    assert set(failures) == {"stored against batch"}
    assert "amount of transaction" in failures["stored against batch"].detail


def test_a_stale_online_store_is_blocked(
    tmp_path: Path, lake: Path, feature_set: Manifest, filled: Callable[..., Manifest]
) -> None:
    fresh = filled()
    sources = (repository(tmp_path, "fraud", "served") / "sources").resolve()
    filled(AS_OF - timedelta(days=2))
    (repository(tmp_path, "fraud", "served") / "sources").unlink()
    (repository(tmp_path, "fraud", "served") / "sources").symlink_to(sources)

    failures = blocked_by(check(feature_set, fresh, lake, tmp_path))

    assert {"generation is filled from this online_store", "online against offline", "online against batch"} <= set(
        failures
    )
    assert "offline against batch" not in failures


def test_a_store_that_knows_the_future_is_blocked(
    tmp_path: Path, lake: Path, feature_set: Manifest, filled: Callable[..., Manifest]
) -> None:
    today = filled()
    filled(AS_OF + timedelta(days=3))

    failures = blocked_by(check(feature_set, today, lake, tmp_path))

    assert "probes compared" in failures


def test_states_that_are_gone_are_blocked(
    tmp_path: Path, lake: Path, feature_set: Manifest, filled: Callable[..., Manifest]
) -> None:
    store = filled()
    with sqlite3.connect(repository(tmp_path, "fraud", "served") / DATABASE) as live:
        live.execute("DELETE FROM fraud_customer_state")

    failures = blocked_by(check(feature_set, store, lake, tmp_path))

    assert failures["customer_state missing online"].value == 30


def test_refreshed_states_that_are_gone_are_blocked(
    tmp_path: Path, lake: Path, feature_set: Manifest, filled: Callable[..., Manifest]
) -> None:
    store = filled()
    with sqlite3.connect(repository(tmp_path, "fraud", "served") / DATABASE) as live:
        live.execute("DELETE FROM fraud_terminal_state")

    failures = blocked_by(check(feature_set, store, lake, tmp_path))

    assert {"terminal_state missing online", "online against offline", "online against batch"} == set(failures)
    assert "transaction" in failures["terminal_state missing online"].detail


def test_an_input_that_is_not_a_number_is_blocked(
    lake: Path, feature_set: Manifest, home: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = home
    right = batch.daily

    def broken(*arguments: Any) -> Iterator[DayFeatures]:
        for day in right(*arguments):
            yield replace(day, features=np.where(np.arange(day.features.shape[1]) == 5, np.nan, day.features))

    monkeypatch.setattr(batch, "daily", broken)
    failures = blocked_by(check(feature_set, store, lake, folder))

    assert f.FEATURE_NAMES[5] in failures["online against batch"].detail


def test_a_check_that_passed_is_not_made_again_until_the_store_is_filled_anew(
    tmp_path: Path, lake: Path, feature_set: Manifest, filled: Callable[..., Manifest]
) -> None:
    store = filled()
    first = check_skew(feature_set, store, lake, tmp_path, SkewConfig(sample=30))
    again = check_skew(feature_set, store, lake, tmp_path, SkewConfig(sample=30))
    assert again == first

    filled(AS_OF - timedelta(days=5))

    assert not check_skew(feature_set, store, lake, tmp_path, SkewConfig(sample=30)).facts["passed"]


def test_a_check_that_passed_is_made_again_when_the_code_changed(
    lake: Path, feature_set: Manifest, home: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = home
    first = check_skew(feature_set, store, lake, folder, SkewConfig(sample=30))

    monkeypatch.setattr(core, "code_of", lambda *_: "edited")
    second = check_skew(feature_set, store, lake, folder, SkewConfig(sample=30))

    assert second.id != first.id
    assert second.facts["code"] == "edited"


def test_a_store_of_another_feature_set_is_refused(
    lake: Path, feature_set: Manifest, home: tuple[Path, Manifest]
) -> None:
    folder, store = home
    with pytest.raises(InvalidInput, match="Materialise"):
        check_skew(replace(feature_set, id="0" * 16), store, lake, folder)


def test_a_home_without_a_store_is_refused(lake: Path, feature_set: Manifest, home: tuple[Path, Manifest]) -> None:
    folder, store = home

    with pytest.raises(NotFound, match="materialize"):
        check_skew(feature_set, store, lake, folder / "elsewhere")
