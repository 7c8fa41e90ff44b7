"""Batch scores: equal to the evaluation's, made once, resumed where they stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.assemble.core import assemble
from components.assemble.splits import SplitSpec
from components.build_features.core import build_features
from components.evaluate.window import model_scores
from components.score import core
from components.score.core import model_to_score_with, plan, score
from millrace.errors import ArtifactCorrupt, InvalidInput, NotFound
from millrace.lake.manifest import Manifest
from millrace.lake.training_set import TrainingSet
from millrace.registry.model_artifact import ModelArtifact
from millrace.settings import Settings


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def feature_set(
    lake: Path, snapshot_of: Callable[[Path, list[pa.Table]], Manifest], simulated_days: list[pa.Table]
) -> Manifest:
    return build_features(snapshot_of(lake, simulated_days), lake, history_length=16, threads=1)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tiny_model(tmp_path_factory.mktemp("model") / "m", history_length=16, threshold=0.6, every_input=True)
    return Manifest.read(folder, "model")


def last_days(feature_set: Manifest, count: int) -> tuple[str, str]:
    days = sorted(feature_set.facts["tables"]["events"])
    return days[-count], days[-1]


def read(scores: Manifest) -> pa.Table:
    return pa.concat_tables([pq.read_table(path, partitioning=None) for path in scores.table("scores")])


def test_scores_equal_those_of_the_evaluation(lake: Path, feature_set: Manifest, model: Manifest) -> None:
    first, last = last_days(feature_set, 7)
    spec = SplitSpec(test_start=date.fromisoformat(first), delay_days=7, train_days=14, validation_days=2)
    data = TrainingSet(assemble(feature_set, lake, spec, threads=1))
    rows = data.rows_of("test")
    artifact = ModelArtifact.open(model.fetch())

    scored = read(score(feature_set, model, "3", lake, first_day=first, last_day=last))

    ids = data.table(["transaction_id"])["transaction_id"].to_numpy()[rows]
    assert scored["transaction_id"].to_pylist() == ids.tolist()
    np.testing.assert_array_equal(scored["score"].to_numpy(), model_scores(artifact, data, rows).astype(np.float32))
    flagged = scored["score"].to_numpy() >= np.float32(0.6)
    assert (np.array(scored["decision"].to_pylist()) == np.where(flagged, "review", "approve")).all()
    assert 0 < flagged.sum() < len(flagged)
    assert set(scored["model_version"].to_pylist()) == {"3"}


def test_a_day_scored_alone_equals_the_same_day_of_a_longer_run(
    lake: Path, feature_set: Manifest, model: Manifest, tmp_path: Path
) -> None:
    first, last = last_days(feature_set, 7)
    together = score(feature_set, model, "3", lake, first_day=first, last_day=last)

    alone = score(feature_set, model, "3", tmp_path, first_day=last, last_day=last)

    assert read(alone).equals(pq.read_table(together.table("scores")[-1], partitioning=None))


def test_days_that_are_there_are_not_scored_again(feature_set: Manifest, model: Manifest, tmp_path: Path) -> None:
    first, last = last_days(feature_set, 3)
    done = score(feature_set, model, "3", tmp_path, first_day=first, last_day=first)

    more = score(feature_set, model, "3", tmp_path, first_day=first, last_day=last)
    again = score(feature_set, model, "3", tmp_path, first_day=first, last_day=last)
    other = score(feature_set, model, "4", tmp_path, first_day=first, last_day=first)

    assert more.table("scores")[0].resolve() == done.table("scores")[0].resolve()
    assert more.facts["computed_rows"] == more.facts["rows"] - done.facts["rows"]
    assert (again.id, again.created_at) == (more.id, more.created_at)
    assert other.id != done.id


def test_a_killed_run_goes_on_with_the_day_it_was_at(
    feature_set: Manifest, model: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = last_days(feature_set, 4)
    days = plan(feature_set, model, "3", tmp_path, first, last)
    write, written = pq.write_table, []

    def killed_at_the_third(table: pa.Table, path: Path, **options: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(table, path, **options)

    monkeypatch.setattr("components.score.core.pq.write_table", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        score(feature_set, model, "3", tmp_path, first_day=first, last_day=last)
    monkeypatch.undo()
    left = [day.missing for day in days]
    whole = score(feature_set, model, "3", tmp_path, first_day=first, last_day=last)

    assert left == [False, False, True, True]
    rows = [pq.read_metadata(day.scores).num_rows for day in days]
    assert whole.facts["computed_rows"] == sum(rows[2:])
    assert read(whole).equals(read(score(feature_set, model, "3", tmp_path / "fresh", first_day=first, last_day=last)))
    whole.verify()


def test_what_cannot_be_scored_is_refused_by_name(feature_set: Manifest, model: Manifest, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no day in 1999-01-01"):
        score(feature_set, model, "3", tmp_path, first_day="1999-01-01", last_day="1999-01-02")
    with pytest.raises(InvalidInput, match="first_day is 'monday'"):
        score(feature_set, model, "3", tmp_path, first_day="monday")
    with pytest.raises(NotFound, match="nothing is served"):
        model_to_score_with(Settings(home=tmp_path), "")
    with pytest.raises(InvalidInput, match="model_version is 'best'"):
        model_to_score_with(Settings(home=tmp_path), "best")
    with pytest.raises(NotFound):
        model_to_score_with(Settings(home=tmp_path), "7")


def test_a_model_that_reads_further_back_than_the_features_is_refused(
    feature_set: Manifest, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    deep = Manifest.read(tiny_model(tmp_path / "deep", sequence_length=32, history_length=64), "model")

    with pytest.raises(InvalidInput, match="reads 32 events"):
        score(feature_set, deep, "3", tmp_path)


def test_a_model_whose_file_was_changed_is_refused(
    feature_set: Manifest, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = Manifest.read(tiny_model(tmp_path / "changed", history_length=16), "model")
    description = json.loads((model.fetch() / "model.json").read_text())
    (model.fetch() / "model.json").write_text(json.dumps(description | {"decision_threshold": 0.0}))

    with pytest.raises(ArtifactCorrupt):
        score(feature_set, model, "3", tmp_path)


def test_a_day_that_repeats_an_event_is_refused(
    lake: Path, feature_set: Manifest, model: Manifest, tmp_path: Path
) -> None:
    day, _ = last_days(feature_set, 1)
    (planned,) = plan(feature_set, model, "9", tmp_path, day, day)
    table = pq.read_table(planned.features, partitioning=None)
    twice = replace(planned, features=tmp_path / "twice.parquet", scores=tmp_path / "scores.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), twice.features)

    with pytest.raises(ArtifactCorrupt, match="repeats a transaction_id"):
        core._score_day(twice, None, ModelArtifact.open(model.fetch()), "9")

    assert not twice.scores.exists()
