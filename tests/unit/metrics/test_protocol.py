"""Which rows count, and the published figures of a test week."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from millrace.errors import InvalidInput, SchemaMismatch
from millrace.judge.ranking import (
    average_precision,
    drop_known_units,
    judged_metrics,
    protocol_metrics,
    roc_auc,
    unit_precision,
)
from millrace.judge.rows import Columns

COLUMNS = Columns("customer_id", "is_fraud", "amount_cents", value_scale=100, known_days=14)


def test_only_labelled_rows_of_the_test_week_count(table):
    rows = table([("a", -0.5, 0, 7), ("a", 0.5, 0, 7), ("b", 6.9, 0, 7), ("b", 7.0, 0, 7), ("c", 1.0, None, 0)])

    assert drop_known_units(rows, table.test_start, COLUMNS).tolist() == [False, True, True, False, False]


def test_a_card_leaves_on_the_day_after_its_fraud_became_known(table):
    # A fraud 6.5 days before the test has its label at 0.5: known from day 1 on.
    rows = table([("a", -6.5, 1, 7), ("a", 0.6, 0, 7), ("a", 1.0, 0, 7), ("b", 1.0, 0, 7)])

    assert drop_known_units(rows, table.test_start, COLUMNS).tolist() == [False, True, False, True]


def test_a_label_of_exactly_midnight_is_not_known_on_that_day(table):
    rows = table([("a", -7.0, 1, 7), ("a", 0.5, 0, 7), ("a", 1.5, 0, 7)])

    assert drop_known_units(rows, table.test_start, COLUMNS).tolist() == [False, True, False]


def test_frauds_older_than_the_seven_training_days_are_forgotten(table):
    rows = table([("a", -14.01, 1, 7), ("a", 0.5, 0, 7), ("b", -14.0, 1, 7), ("b", 0.5, 0, 7)])

    assert drop_known_units(rows, table.test_start, COLUMNS).tolist() == [False, True, False, False]


def test_a_fraud_whose_label_never_came_makes_no_card_known(table):
    rows = table([("a", -10, 1, 7), ("a", 0.5, 1, 7)])
    unlabelled = rows.set_column(3, "label_timestamp", pa.nulls(2, rows["label_timestamp"].type))

    assert drop_known_units(unlabelled, table.test_start, COLUMNS).tolist() == [False, True]


def published_recipe(rows, scores, test_start, k):
    """The handbook's own procedure, in pandas: known cards dropped day by day, then AUC, AP and CP@k."""
    frame = rows.select(["event_timestamp", "customer_id", "is_fraud"]).to_pandas().assign(score=scores)
    frame["day"] = (frame.event_timestamp.dt.tz_localize(None) - pd.Timestamp(test_start)).dt.days
    known = set(frame[(frame.day >= -14) & (frame.day < -7) & (frame.is_fraud == 1)].customer_id)
    days = []
    for day in range(7):
        known |= set(frame[(frame.day == day - 8) & (frame.is_fraud == 1)].customer_id)
        days.append(frame[(frame.day == day) & ~frame.customer_id.isin(known)])
    caught, precisions = set(), []
    for day in days:
        cards = day[~day.customer_id.isin(caught)].groupby("customer_id")[["score", "is_fraud"]].max()
        top = cards.sort_values("score", ascending=False).head(k)
        caught |= set(top[top.is_fraud == 1].index)
        precisions.append(top.is_fraud.sum() / k)
    test = pd.concat(days)
    auc, ap = roc_auc_score(test.is_fraud, test.score), average_precision_score(test.is_fraud, test.score)
    return len(test), auc, ap, float(np.mean(precisions))


@pytest.mark.parametrize("seed", range(5))
def test_the_protocol_equals_the_published_recipe(table, seed):
    rng = np.random.default_rng(seed)
    n = 6000
    days = rng.uniform(-21, 10, n)
    labels = (rng.random(n) < 0.04).astype(int)
    rows = table([(f"c{c}", d, int(y), 7) for c, d, y in zip(rng.integers(0, 400, n), days, labels, strict=True)])
    scores = rng.random(n) + 0.4 * labels

    ours = protocol_metrics(rows, scores, table.test_start, COLUMNS, k=20)

    count, auc, ap, precision = published_recipe(rows, scores, table.test_start, k=20)
    assert ours.rows == count
    assert (ours.auc_roc, ours.average_precision) == pytest.approx((auc, ap), abs=1e-12)
    assert ours.unit_precision == pytest.approx(precision, abs=1e-12)


def test_permuting_rows_leaves_every_figure_unchanged(random_week):
    rows, scores = random_week
    order = np.random.default_rng(9).permutation(len(rows))
    shuffled = type(rows)(rows.unit[order], rows.day[order], rows.label[order], rows.value[order], rows.units)

    assert judged_metrics(shuffled, scores[order], 10) == judged_metrics(rows, scores, 10)


def test_renumbered_input_rows_leave_the_protocol_unchanged(table):
    rng = np.random.default_rng(3)
    rows = table([(f"c{i % 50}", rng.uniform(-14, 7), int(rng.random() < 0.1), 7) for i in range(1500)])
    scores, order = np.round(rng.random(1500), 1), rng.permutation(1500)

    assert protocol_metrics(rows.take(order), scores[order], table.test_start, COLUMNS) == protocol_metrics(
        rows, scores, table.test_start, COLUMNS
    )


def test_a_monotone_change_of_scores_leaves_ranking_figures_unchanged(random_week):
    rows, scores = random_week

    assert judged_metrics(rows, np.exp(3 * scores), 10) == judged_metrics(rows, scores, 10)


def test_perfect_and_reversed_scores_have_known_figures(simple):
    rows = simple([1, 1, 0, 0])

    assert roc_auc(rows, np.array([4.0, 3, 2, 1])).item() == 1.0
    assert roc_auc(rows, np.array([1.0, 2, 3, 4])).item() == 0.0
    assert average_precision(rows, np.array([4.0, 3, 2, 1])).item() == 1.0
    assert average_precision(rows, np.array([1.0, 2, 3, 4])).item() == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_equal_scores_count_half_in_auc_and_are_taken_together_in_average_precision(simple):
    rows = simple([1, 0, 0, 1])

    assert roc_auc(rows, np.full(4, 0.5)).item() == 0.5
    assert average_precision(rows, np.full(4, 0.5)).item() == 0.5


def test_ties_agree_with_sklearn(random_week):
    rows, scores = random_week

    assert roc_auc(rows, scores).item() == pytest.approx(roc_auc_score(rows.label, scores))
    assert average_precision(rows, scores).item() == pytest.approx(average_precision_score(rows.label, scores))


def test_card_weights_act_as_repeated_cards(random_week):
    rows, scores = random_week
    weights = np.random.default_rng(0).poisson(1.0, (1, rows.units)).astype(float)
    repeats = weights[0, rows.unit].astype(int)
    labels, repeated = np.repeat(rows.label, repeats), np.repeat(scores, repeats)

    assert roc_auc(rows, scores, weights).item() == pytest.approx(roc_auc_score(labels, repeated))
    assert average_precision(rows, scores, weights).item() == pytest.approx(average_precision_score(labels, repeated))


def test_one_class_has_no_auc_and_no_frauds_have_no_average_precision(simple):
    scores = np.array([0.1, 0.2])

    assert np.isnan(roc_auc(simple([1, 1]), scores).item())
    assert np.isnan(roc_auc(simple([0, 0]), scores).item())
    assert np.isnan(average_precision(simple([0, 0]), scores).item())
    assert average_precision(simple([1, 1]), scores).item() == 1.0


def test_no_rows_have_no_figures(table):
    metrics = protocol_metrics(table([]), np.empty(0), table.test_start, COLUMNS)

    assert metrics.rows == 0
    assert np.isnan([metrics.auc_roc, metrics.average_precision, metrics.unit_precision]).all()


def test_the_top_k_cards_are_ranked_by_their_highest_score(simple):
    # Card 0 has the highest score in a genuine row, and is compromised in another row of that day.
    rows = simple([0, 1, 0, 1], cards=[0, 0, 1, 2])

    assert unit_precision(rows, np.array([0.9, 0.1, 0.5, 0.4]), k=1).item() == 1.0
    assert unit_precision(rows, np.array([0.3, 0.1, 0.5, 0.4]), k=2).item() == 0.5


def test_a_caught_card_is_removed_from_later_days(simple):
    rows = simple([1, 0, 1, 1], cards=[0, 1, 0, 1], days=[0, 0, 1, 1])

    # Day 0 catches card 0; on day 1 card 1 is the only one left.
    assert unit_precision(rows, np.array([0.9, 0.1, 0.9, 0.2]), k=1).item() == 1.0


def test_a_day_with_fewer_cards_than_k_is_still_divided_by_k(simple):
    assert unit_precision(simple([1, 0]), np.array([0.9, 0.1]), k=100).item() == 0.01


def test_a_missing_score_is_named_unless_it_does_not_count(table):
    rows = table([("a", -3, 0, 7), ("a", 0.5, 1, 7), ("b", 0.6, 0, 7)])

    assert protocol_metrics(rows, np.array([np.nan, 0.9, 0.1]), table.test_start, COLUMNS).auc_roc == 1.0
    with pytest.raises(InvalidInput, match="1 of 2 scores are not finite"):
        protocol_metrics(rows, np.array([0.1, np.nan, 0.1]), table.test_start, COLUMNS)
    with pytest.raises(InvalidInput, match="one for each of 3 rows"):
        protocol_metrics(rows, np.array([0.1]), table.test_start, COLUMNS)


def test_a_missing_column_is_named(table):
    with pytest.raises(SchemaMismatch, match="label_timestamp"):
        drop_known_units(table([]).drop_columns(["label_timestamp"]), table.test_start, COLUMNS)
