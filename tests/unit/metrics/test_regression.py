"""How far predictions of a quantity lie from the truth, and how sure that is."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from millrace.errors import InvalidInput, SchemaMismatch
from millrace.judge.bootstrap import difference, unit_weights
from millrace.judge.regression import (
    INTERVAL_STATISTICS,
    STATISTICS,
    Measured,
    Predictions,
    coverage,
    error_quantile,
    figures,
    labelled_rows,
    mae,
    measured,
    with_intervals,
)
from millrace.judge.rows import Columns

COLUMNS = Columns("place", "minutes")
START = date(2021, 2, 1)


def rows_of(truth, unit=None):
    truth = np.asarray(truth, float)
    unit = np.arange(len(truth)) if unit is None else np.asarray(unit)
    return Measured(unit, np.zeros(len(truth), np.int64), truth, int(unit.max()) + 1 if len(unit) else 0)


@pytest.fixture
def week():
    """2,000 rows of 50 units that differ from each other, and predictions with intervals that hold most of them."""
    rng = np.random.default_rng(3)
    unit = rng.integers(0, 50, 2000)
    rows = rows_of(rng.gamma(4, 3, 2000) + unit / 10, unit)
    point = rows.truth + rng.normal(0, 2, 2000)
    return rows, Predictions.of(point, point - 3, point + 3)


def test_errors_are_those_of_the_field(week):
    rows, predictions = week
    found = figures(rows, predictions)

    assert found["mae"] == pytest.approx(mean_absolute_error(rows.truth, predictions.point))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(rows.truth, predictions.point))
    assert found["bias"] == pytest.approx((predictions.point - rows.truth).mean())
    assert found["interval_width"] == pytest.approx(6)
    inside = np.abs(predictions.point - rows.truth) <= 3
    assert found["coverage"] == pytest.approx(inside.mean())
    assert found["median_error"] == np.quantile(np.abs(predictions.point - rows.truth), 0.5, method="inverted_cdf")


def test_only_labelled_rows_of_the_test_window_count():
    midnight = datetime.combine(START, datetime.min.time(), UTC)
    days = [-0.1, 0.0, 1.0, 2.9, 3.0]
    table = pa.table(
        {
            "event_timestamp": pa.array([midnight + timedelta(days=day) for day in days], pa.timestamp("us", "UTC")),
            "place": ["a", "a", "b", "b", "c"],
            "minutes": pa.array([1.0, 2.0, None, 4.0, 5.0], pa.float32()),
            "label_timestamp": pa.array([midnight] * 5, pa.timestamp("us", "UTC")),
        }
    )
    mask = labelled_rows(table, START, COLUMNS, 3)
    rows = measured(table, mask, COLUMNS)

    assert mask.tolist() == [False, True, False, True, False]
    assert (rows.truth.tolist(), rows.unit.tolist(), rows.units) == ([2.0, 4.0], [0, 1], 2)
    with pytest.raises(SchemaMismatch, match="minutes"):
        labelled_rows(table.drop_columns(["minutes"]), START, COLUMNS, 3)


@pytest.mark.parametrize("name", [*STATISTICS, *INTERVAL_STATISTICS])
def test_weights_count_units_as_often_as_they_were_drawn_and_order_does_not_matter(name, week):
    rows, predictions = week
    statistic = {**STATISTICS, **INTERVAL_STATISTICS}[name]
    weights = np.random.default_rng(0).poisson(1.0, (3, rows.units)).astype(float)
    order = np.random.default_rng(1).permutation(len(rows))

    weighted = statistic(rows, predictions, weights)

    for one, weight in zip(weighted, weights, strict=True):
        repeated = np.repeat(np.arange(len(rows)), weight[rows.unit].astype(int))
        assert one == pytest.approx(statistic(rows.where(repeated), predictions.where(repeated), None).item())
    assert statistic(rows.where(order), predictions.where(order), weights) == pytest.approx(weighted)


def test_a_model_against_itself_differs_by_nothing_and_a_worse_one_by_something(week):
    rows, predictions = week
    weights = unit_weights(rows, 100)
    worse = Predictions.of(predictions.point + 2)

    assert difference(rows, predictions, predictions, weights, mae).high == 0
    assert difference(rows, worse, predictions, weights, mae).low > 0


def test_without_intervals_nothing_is_said_of_them(week):
    rows, predictions = week
    plain = Predictions.of(predictions.point)

    assert "coverage" not in with_intervals(rows, plain, unit_weights(rows, 10))
    assert np.isnan(coverage(rows, plain, None)).all()


def test_what_does_not_exist_is_not_a_number():
    nobody = rows_of([])
    nothing = Predictions.of(np.empty(0))

    assert np.isnan(list(figures(nobody, nothing).values())).all()
    assert np.isnan(error_quantile(0.5)(nobody, nothing, np.ones((4, 0)))).tolist() == [True] * 4


def test_missing_predictions_are_refused(week):
    rows, predictions = week

    with pytest.raises(InvalidInput, match="1 of 2000 predictions are not finite"):
        figures(rows, Predictions.of(np.r_[np.nan, predictions.point[1:]]))
    with pytest.raises(InvalidInput, match="1999 predictions for 2000 rows"):
        figures(rows, Predictions.of(predictions.point[1:]))
    with pytest.raises(InvalidInput, match="as many of each"):
        Predictions.of(np.ones(3), np.ones(2), np.ones(3))
