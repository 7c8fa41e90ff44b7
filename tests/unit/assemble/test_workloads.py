"""Training sets of a quantity whose labels are known within hours, for a model that reads no history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rows import readings

from components.assemble.core import Asked, assemble, assemble_fitted, split_of
from components.build_features.core import build_features
from millrace.errors import InvalidInput
from millrace.installed import Workload
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import SPLITS, TrainingSet

AS_OF = datetime(2025, 6, 16, tzinfo=UTC)


@pytest.fixture
def events() -> list[pa.Table]:
    return readings(days=16)


@pytest.fixture
def feature_set(
    tmp_path: Path, machines: Workload, events: list[pa.Table], snapshot_of: Callable[..., Manifest]
) -> Manifest:
    snapshot = snapshot_of(tmp_path, events, machines.name)
    return build_features(snapshot, tmp_path, history_length=1, threads=1, memory_limit_gb=0.5)


def test_the_test_window_is_the_last_seven_whole_days_and_no_day_lies_between(feature_set: Manifest) -> None:
    spec = split_of(feature_set, AS_OF.isoformat(), train_days=6, validation_days=2)

    assert spec.delay_days == 0
    assert spec.windows["test"] == (date(2025, 6, 9), date(2025, 6, 16))
    assert spec.windows["validation"] == (date(2025, 6, 7), date(2025, 6, 9))
    assert spec.horizons["train"] == datetime(2025, 6, 9, tzinfo=UTC)


def test_labels_are_quantities_and_not_a_number_until_they_are_known(
    tmp_path: Path, events: list[pa.Table], feature_set: Manifest
) -> None:
    made = TrainingSet(assemble(feature_set, tmp_path, split_of(feature_set, AS_OF.isoformat(), train_days=6)))

    rows = pa.concat_tables(events)
    truth = dict(zip(rows["reading_id"].to_pylist(), rows["hours"].to_pylist(), strict=True))
    known_at = dict(zip(rows["reading_id"].to_pylist(), rows["label_timestamp"].to_pylist(), strict=True))
    horizons = split_of(feature_set, AS_OF.isoformat(), train_days=6).horizons
    ids = made.table(["reading_id"])["reading_id"].to_pylist()
    assert made.label.dtype == np.float32
    for number, split, label in zip(ids, made.split, made.label, strict=True):
        known = known_at[number] is not None and known_at[number] <= horizons[SPLITS[split]]
        assert known or SPLITS[split] == "test"
        assert (label == np.float32(truth[number])) if known else np.isnan(label)
    assert np.isnan(made.label).any()
    assert not np.isnan(made.label[made.rows_of("train")]).any()


def test_no_label_is_visible_before_it_is_known(tmp_path: Path, feature_set: Manifest) -> None:
    spec = split_of(feature_set, AS_OF.isoformat(), train_days=6)

    made = TrainingSet(assemble(feature_set, tmp_path, spec))

    rows = made.table()
    for code, name in enumerate(SPLITS):
        of_split = rows.filter(pa.array(made.split == code))
        assert pc.max(of_split["label_timestamp"]).as_py() <= spec.horizons[name]
    unknown = rows.filter(pa.array(np.isnan(made.label)))
    assert unknown["hours"].null_count == unknown["label_timestamp"].null_count == len(unknown) > 0


def test_a_model_without_history_has_no_pool_and_a_quantity_no_positives(tmp_path: Path, feature_set: Manifest) -> None:
    manifest = assemble(feature_set, tmp_path, split_of(feature_set, AS_OF.isoformat(), train_days=6))

    made = TrainingSet(manifest)
    features, history = made.batch(made.rows_of("validation"), 1)
    assert not [name for name in manifest.files if name.startswith(("pool_", "row_"))]
    assert all(facts.keys() == {"first_day", "last_day", "rows"} for facts in manifest.facts["splits"].values())
    assert history is None
    np.testing.assert_array_equal(features, made.features[made.rows_of("validation")])
    assert (np.diff(made.event_us) >= 0).all()


def test_days_that_are_not_there_are_named(tmp_path: Path, feature_set: Manifest) -> None:
    as_of = AS_OF - timedelta(days=8)

    with pytest.raises(InvalidInput, match="the split needs the days"):
        assemble(feature_set, tmp_path, split_of(feature_set, as_of.isoformat(), train_days=6))


def test_windows_that_were_fitted_once_are_known_without_the_data_and_only_for_what_was_asked(
    tmp_path: Path, feature_set: Manifest
) -> None:
    asked = Asked(as_of=AS_OF.isoformat(), train_days=6)
    made = assemble_fitted(feature_set, tmp_path, asked)
    for path in feature_set.table("events"):
        path.unlink()

    assert assemble_fitted(feature_set, tmp_path, asked).id == made.id
    with pytest.raises(FileNotFoundError):
        assemble_fitted(feature_set, tmp_path, replace(asked, train_days=7))
