"""Gathering batches: the arrays are written by hand here, what makes them is tested with `components/assemble`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fraud.features import FEATURE_NAMES, HISTORY_CHANNELS
from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound
from millrace.instants import DAY_US
from millrace.lake.manifest import Manifest, hash_files
from millrace.lake.training_set import TrainingSet

HISTORY = 4


def write_set(folder: Path, **changes: np.ndarray) -> Manifest:
    """Two customers: A at pool 0…5, B at pool 6…7; rows are A's second and sixth and B's first transaction."""
    arrays = {
        "event_us": np.array([2, 3, 6]) * DAY_US,
        "pool_event_us": np.array([1, 2, 3, 4, 5, 6, 3, 5]) * DAY_US,
        "pool_amount_cents": np.array([100, 200, 300, 400, 500, 600, 7_000, 8_000]),
        "pool_terminal_risk": np.arange(8, dtype=np.float32) / 10,
        "row_position": np.array([1, 6, 5]),
        "row_start": np.array([0, 6, 0]),
        "features": np.arange(3 * len(FEATURE_NAMES), dtype=np.float32).reshape(3, -1),
        "label": np.array([0, 1, -1], np.int8),
        "split": np.array([0, 1, 2], np.int8),
    }
    folder.mkdir()
    for name, array in (arrays | changes).items():
        np.save(folder / f"{name}.npy", array)
    facts = {"history_length": HISTORY}
    return Manifest(
        kind="training_set", id="t", workload="fraud", uri=str(folder), files=hash_files(folder), facts=facts
    ).write()


def test_a_history_is_padded_on_the_left_and_ends_just_before_the_row(tmp_path: Path) -> None:
    made = TrainingSet(write_set(tmp_path / "set"))

    features, history = made.batch(np.array([0, 1, 2]), HISTORY)

    amount, age, risk, present = (history[:, :, HISTORY_CHANNELS.index(name)] for name in HISTORY_CHANNELS)
    assert features.dtype == history.dtype == np.float32
    assert amount.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [2, 3, 4, 5]]
    assert age.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [4, 3, 2, 1]]
    assert present.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
    np.testing.assert_allclose(risk[2], [0.1, 0.2, 0.3, 0.4])


def test_a_shorter_history_keeps_the_newest(tmp_path: Path) -> None:
    made = TrainingSet(write_set(tmp_path / "set"))

    _, history = made.batch(np.array([2]), 2)

    assert history[0, :, 0].tolist() == [4, 5]
    assert made.histories(np.array([2]), 2).length.tolist() == [2]


def test_rows_may_come_in_any_order_and_twice(tmp_path: Path) -> None:
    made = TrainingSet(write_set(tmp_path / "set"))
    rows = np.array([2, 0, 2])

    features, history = made.batch(rows, HISTORY)

    np.testing.assert_array_equal(features, made.features[rows])
    np.testing.assert_array_equal(history[0], history[2])


def test_no_rows_give_empty_tensors_of_the_right_shape(tmp_path: Path) -> None:
    made = TrainingSet(write_set(tmp_path / "set"))

    features, history = made.batch(np.array([], np.int64), HISTORY)

    assert features.shape == (0, len(FEATURE_NAMES))
    assert history.shape == (0, HISTORY, len(HISTORY_CHANNELS))


def test_rows_of_a_split_are_named_by_its_word(tmp_path: Path) -> None:
    made = TrainingSet(write_set(tmp_path / "set"))

    assert [made.rows_of(name).tolist() for name in ("train", "validation", "test")] == [[0], [1], [2]]
    with pytest.raises(InvalidInput, match="holdout"):
        made.rows_of("holdout")


@pytest.mark.parametrize("length", [0, HISTORY + 1])
def test_a_history_longer_than_the_set_was_built_for_is_refused(tmp_path: Path, length: int) -> None:
    made = TrainingSet(write_set(tmp_path / "set"))

    with pytest.raises(InvalidInput, match=str(HISTORY)):
        made.batch(np.array([0]), length)


def test_arrays_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    made = TrainingSet(write_set(tmp_path / "set"))

    with pytest.raises(ValueError, match="read-only"):
        made.features[0] = 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": np.zeros(2, np.int8)}, "different lengths"),
        ({"pool_event_us": np.zeros(8, np.float64)}, "float64"),
        ({"features": np.zeros((3, 1), np.float32)}, "features are"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, np.ndarray], said: str) -> None:
    manifest = write_set(tmp_path / "set", **changes)

    with pytest.raises(ArtifactCorrupt, match=said):
        TrainingSet(manifest)


def test_a_truncated_or_missing_array_is_named(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    path = manifest.path("pool_event_us.npy")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactCorrupt, match=r"pool_event_us\.npy"):
        TrainingSet.open(tmp_path / "set")

    path.unlink()
    with pytest.raises(NotFound, match=r"pool_event_us\.npy"):
        TrainingSet.open(tmp_path / "set")
