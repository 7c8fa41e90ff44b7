"""What a cascade saves and costs is measured against the full model alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from components.evaluate.classes.cascade import measure_cascade
from components.evaluate.window import TestWindow, model_scores
from fraud.judging import COLUMNS
from millrace.judge.bootstrap import unit_weights
from millrace.judge.ranking import average_precision, judged
from millrace.lake.training_set import TrainingSet
from millrace.registry.model_artifact import ModelArtifact

from ..optimise.conftest import write_training_set

LOWER = 0.5


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> TestWindow:
    data = TrainingSet(write_training_set(tmp_path_factory.mktemp("week") / "rows"))
    rows = data.rows_of("validation")
    table = data.table(COLUMNS.names).take(rows)
    counts = np.ones(len(rows), bool)
    return TestWindow(data, rows, table, counts, judged(table, counts, COLUMNS), date(2018, 6, 22))


def test_saved_share_and_gain_are_against_the_full_model(tiny_model: Callable[..., Path], week: TestWindow):
    model = ModelArtifact.open(tiny_model("judged", cascade=(LOWER, 1.0)), cascade=True)
    scores = model_scores(model, week.data, week.judged_rows)

    found = measure_cascade(model, week, scores, unit_weights(week.judged, 20))

    assert found is not None
    amount = week.data.features[week.judged_rows, 0]
    assert found.saved_share == pytest.approx((amount < 200).mean())  # the cheap score of 200 is .5
    full = ModelArtifact.open(model.manifest.fetch(), cascade=False)
    alone = average_precision(week.judged, model_scores(full, week.data, week.judged_rows)).item()
    assert found.full_average_precision == pytest.approx(alone)
    assert found.gain.value == pytest.approx(average_precision(week.judged, scores).item() - alone)


def test_a_model_without_one_has_no_figures(tiny_model: Callable[..., Path], week: TestWindow):
    folder = tiny_model("unjudged", cascade=(LOWER, 1.0))
    model = ModelArtifact.open(folder, cascade=False)

    assert measure_cascade(model, week, np.zeros(len(week.judged)), unit_weights(week.judged, 5)) is None
