"""What goes into a training set, by a slow and plain computation of the same thing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from components.assemble import core
from components.assemble.core import assemble, split_of
from components.assemble.splits import SplitSpec
from fraud.features import FEATURE_NAMES
from millrace.errors import AlreadyRunning, ArtifactCorrupt, InvalidInput, NotFound
from millrace.instants import DAY_US
from millrace.lake.atomic import exclusive
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import SPLITS, TrainingSet

SPEC = SplitSpec(test_start=date(2026, 2, 15), delay_days=7, train_days=20, validation_days=4)


def instant_us(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_US


def plain_rows(transactions: pa.Table, spec: SplitSpec) -> list[dict[str, object]]:
    """The rows of the split, one by one, from the words of docs/architecture.md."""
    chosen = []
    columns = ["transaction_id", "event_timestamp", "is_fraud", "label_timestamp"]
    for row in transactions.select(columns).to_pylist():
        day = row["event_timestamp"].date()
        in_split = [name for name, (first, end) in spec.windows.items() if first <= day < end]
        if not in_split:
            continue
        horizon = spec.horizons[in_split[0]]
        known = row["label_timestamp"] is not None and row["label_timestamp"] <= horizon
        if known or in_split[0] == "test":
            label = row["is_fraud"] if known else -1
            chosen.append({"id": row["transaction_id"], "split": SPLITS.index(in_split[0]), "label": label})
    return chosen


def test_rows_labels_and_splits_are_those_of_the_contract(
    feature_set: Manifest, lake: Path, transactions: pa.Table
) -> None:
    made = TrainingSet(assemble(feature_set, lake, SPEC))

    wanted = plain_rows(transactions, SPEC)
    assert made.table(["transaction_id"])["transaction_id"].to_pylist() == [row["id"] for row in wanted]
    assert made.split.tolist() == [row["split"] for row in wanted]
    assert made.label.tolist() == [row["label"] for row in wanted]
    assert -1 in made.label  # the set holds the hard case


def test_features_are_the_row_s_own_in_the_order_of_feature_names(
    feature_set: Manifest, lake: Path, transactions: pa.Table
) -> None:
    made = TrainingSet(assemble(feature_set, lake, SPEC))

    ids = made.table(["transaction_id"])["transaction_id"].to_numpy()
    wanted = np.stack([transactions[name].to_numpy()[ids] for name in FEATURE_NAMES], axis=1)
    np.testing.assert_array_equal(made.features, wanted)


def test_a_history_is_what_happened_strictly_before_whatever_its_split(
    feature_set: Manifest, lake: Path, transactions: pa.Table
) -> None:
    made = TrainingSet(assemble(feature_set, lake, SPEC))

    states = made.histories(np.arange(len(made)), made.history_length)

    ids = made.table(["transaction_id"])["transaction_id"].to_pylist()
    columns = ("customer_id", "amount_cents", "terminal_risk")
    customer, cents, risk = (transactions[name].to_pylist() for name in columns)
    for row, number in enumerate(ids):  # transaction_id follows time here, so "before" is "a smaller id"
        past = [other for other in range(number) if customer[other] == customer[number]][-made.history_length :]
        assert states.length[row] == len(past)
        at = made.history_length - len(past)
        assert states.values["amount_cents"][row, at:].tolist() == [cents[other] for other in past]
        np.testing.assert_array_equal(
            states.values["terminal_risk"][row, at:], np.array([risk[o] for o in past], np.float32)
        )
        assert not states.values["amount_cents"][row, :at].any()


def test_no_label_is_visible_before_it_is_known(feature_set: Manifest, lake: Path, transactions: pa.Table) -> None:
    made = TrainingSet(assemble(feature_set, lake, SPEC))
    rows = made.table()

    for code, name in enumerate(SPLITS):
        of_split = rows.filter(pa.array(made.split == code))
        latest = pc.max(of_split["label_timestamp"]).as_py()
        assert latest <= SPEC.horizons[name]
    unknown = rows.filter(pa.array(made.label == -1))
    assert unknown["is_fraud"].null_count == unknown["label_timestamp"].null_count == len(unknown)


def test_a_label_that_changes_after_the_horizon_changes_nothing(
    feature_set: Manifest, lake: Path, transactions: pa.Table, feature_set_of: Callable[..., Manifest], tmp_path: Path
) -> None:
    first = TrainingSet(assemble(feature_set, lake, SPEC))
    late = pc.fill_null(pc.greater(transactions["label_timestamp"], SPEC.horizons["test"]), False)
    flipped = pc.if_else(late, pc.subtract(pa.scalar(1, pa.int8()), transactions["is_fraud"]), transactions["is_fraud"])
    place = transactions.column_names.index("is_fraud")
    changed = feature_set_of(transactions.set_column(place, "is_fraud", flipped))

    second = TrainingSet(assemble(changed, tmp_path / "other", SPEC))

    assert pc.sum(late).as_py() > 0
    np.testing.assert_array_equal(first.label, second.label)


def test_the_horizon_of_test_labels_can_be_earlier(feature_set: Manifest, lake: Path) -> None:
    spec = SplitSpec(
        test_start=SPEC.test_start,
        delay_days=7,
        train_days=20,
        labels_until=datetime(2026, 2, 22, tzinfo=UTC),
    )

    made = TrainingSet(assemble(feature_set, lake, spec))

    assert set(made.label[made.rows_of("test")]) == {-1}
    assert set(made.label[made.rows_of("train")]) == {0, 1}


def test_the_pool_holds_nothing_after_the_last_row_and_no_customer_without_rows(
    feature_set: Manifest, lake: Path, transactions: pa.Table
) -> None:
    made = assemble(feature_set, lake, SPEC)

    event_us = np.load(made.path("pool_event_us.npy"))
    assert event_us.max() < instant_us(SPEC.test_end)
    assert len(event_us) < transactions.num_rows


def test_the_same_set_again_does_no_work(feature_set: Manifest, lake: Path) -> None:
    first = assemble(feature_set, lake, SPEC)
    written = first.path("features.npy").stat().st_mtime_ns

    second = assemble(feature_set, lake, SPEC)

    assert second == first
    assert second.path("features.npy").stat().st_mtime_ns == written
    second.verify()


def test_other_code_makes_another_set(feature_set: Manifest, lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = assemble(feature_set, lake, SPEC)
    monkeypatch.setattr(core, "code_of", lambda *_: "edited")

    assert assemble(feature_set, lake, SPEC).id != first.id


def test_a_day_of_features_that_was_changed_is_refused(feature_set: Manifest, lake: Path) -> None:
    day = feature_set.table("events", SPEC.train_start)[0]
    pq.write_table(pq.read_table(day), day, compression="zstd")
    listed = replace(feature_set, files={os.path.relpath(day, feature_set.fetch()): "0" * 64})

    with pytest.raises(ArtifactCorrupt, match=day.name):
        assemble(listed, lake, SPEC)


def test_carried_columns_reach_the_rows_and_never_the_features(feature_set: Manifest, lake: Path) -> None:
    made = TrainingSet(assemble(feature_set, lake, SPEC))

    assert "channel" in made.table().column_names
    assert not set(made.table().column_names) & set(FEATURE_NAMES)


def test_facts_count_rows_and_positives_per_split(feature_set: Manifest, lake: Path) -> None:
    manifest = assemble(feature_set, lake, SPEC)

    made = TrainingSet(manifest)
    for name in SPLITS:
        facts = manifest.facts["splits"][name]
        rows = made.rows_of(name)
        assert facts["rows"] == len(rows)
        assert facts["positives"] == int((made.label[rows] == 1).sum())
    assert manifest.facts["splits"]["validation"]["first_day"] == "2026-02-04"
    assert manifest.facts["splits"]["validation"]["last_day"] == "2026-02-07"
    assert manifest.parents == {"feature_set": feature_set.id, "snapshot": "s" * 16}


@pytest.mark.parametrize("test_start", [date(2026, 1, 20), date(2026, 2, 28)])
def test_days_the_feature_set_lacks_are_named(feature_set: Manifest, lake: Path, test_start: date) -> None:
    with pytest.raises(InvalidInput, match="holds 2026-01-01 … 2026-03-01"):
        assemble(feature_set, lake, SplitSpec(test_start=test_start, delay_days=7, train_days=20))


def test_a_split_without_rows_is_an_error_and_leaves_nothing(
    lake: Path, transactions: pa.Table, feature_set_of: Callable[..., Manifest]
) -> None:
    first, end = SPEC.windows["validation"]
    event = transactions["event_timestamp"].cast(pa.int64()).to_numpy()
    without = transactions.filter(pa.array((event < instant_us(first)) | (event >= instant_us(end))))

    with pytest.raises(InvalidInput, match="validation"):
        assemble(feature_set_of(without), lake, SPEC)

    assert not [path for path in (lake / "training_sets").iterdir() if path.suffix != ".lock"]


def test_an_empty_feature_set_is_an_error(lake: Path, transactions: pa.Table, feature_set_of) -> None:
    with pytest.raises(InvalidInput, match="no rows with a known label"):
        assemble(feature_set_of(transactions.slice(0, 0)), lake, SPEC)


def test_a_missing_table_is_named(feature_set: Manifest, lake: Path) -> None:
    broken = Manifest(kind="feature_set", id="x", workload="fraud", uri="x", facts=feature_set.facts | {"tables": {}})

    with pytest.raises(NotFound, match="events"):
        assemble(broken, lake, SPEC)


def test_two_at_once_are_refused(feature_set: Manifest, lake: Path) -> None:
    identity = assemble(feature_set, lake, SPEC).id
    other_lake = lake.parent / "second"
    lock = other_lake / "training_sets" / f".{identity}.lock"
    code = (
        "import sys, pathlib; from millrace.lake.atomic import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), 'holder'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    ) as holder:
        assert holder.stdout.readline() == b"held\n"

        with pytest.raises(AlreadyRunning, match=identity):
            assemble(feature_set, other_lake, SPEC)

        holder.stdin.close()
    with exclusive(lock, "free again"):
        pass


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_days": 4, "validation_days": 4},
        {"train_days": 0},
        {"train_days": 2.5},
        {"validation_days": 0},
        {"delay_days": -1},
        {"test_days": True},
        {"test_start": "2026-02-15"},
        {"test_start": datetime(2026, 2, 15, tzinfo=UTC)},
        {"labels_until": datetime(2026, 2, 15)},
    ],
)
def test_a_split_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        SplitSpec(**({"test_start": date(2026, 2, 15), "delay_days": 7} | wrong))


def test_windows_follow_from_the_first_test_day() -> None:
    spec = SplitSpec(test_start=date(2018, 9, 16), delay_days=7)

    assert spec.train_start == date(2018, 8, 12)
    assert spec.validation_start == date(2018, 9, 5)
    assert spec.validation_end == date(2018, 9, 9)
    assert spec.test_end - spec.test_start == timedelta(days=7)


def test_a_run_tests_on_the_last_week_whose_labels_are_known(feature_set: Manifest) -> None:
    spec = split_of(feature_set, "", train_days=20)

    assert spec.test_start == date(2026, 2, 15)
    assert spec.horizons["test"] == datetime(2026, 3, 1, tzinfo=UTC)
    assert split_of(feature_set, "2026-02-20T12:00:00Z").test_start == date(2026, 2, 6)


def test_rows_are_in_time_order(feature_set: Manifest, lake: Path) -> None:
    made = TrainingSet(assemble(feature_set, lake, SPEC))

    assert (np.diff(made.event_us) >= 0).all()
    assert pq.read_metadata(made.manifest.path("rows.parquet")).num_rows == len(made)
