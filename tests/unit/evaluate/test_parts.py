"""Thresholds, curves, slices and settings of an evaluation."""

import numpy as np
import pyarrow as pa
import pytest

from components.evaluate.classes.curves import curve
from components.evaluate.classes.threshold import at_threshold
from components.evaluate.config import class_limits, load_limits, quantity_limits
from fraud.features import FEATURE_NAMES
from fraud.slices import slice_masks
from millrace.errors import ConfigError, InvalidInput
from millrace.installed import load
from millrace.judge.ranking import Judged

FRAUD = load("fraud")


def rows_of(labels, cards=None, days=None):
    n = len(labels)
    cards = np.arange(n) if cards is None else np.array(cards)
    days = np.zeros(n, np.int64) if days is None else np.array(days)
    return Judged(cards, days, np.array(labels, bool), np.ones(n), n)


def features_of(**columns):
    rows = len(next(iter(columns.values())))
    features = np.zeros((rows, len(FEATURE_NAMES)), np.float32)
    for name, values in columns.items():
        features[:, FEATURE_NAMES.index(name)] = values
    return features


def test_the_threshold_flags_what_reaches_it():
    rows = rows_of([1, 1, 0, 0], cards=[0, 1, 1, 2], days=[0, 0, 0, 1])

    found = at_threshold(rows, np.array([0.9, 0.2, 0.5, 0.4]), 0.5)

    assert (found.precision, found.recall) == (0.5, 0.5)
    assert found.confusion == ((1, 1), (1, 1))
    assert found.flagged_units_per_day == 1.0


def test_a_card_flagged_twice_on_a_day_is_one_card():
    rows = rows_of([0, 0, 0], cards=[1, 1, 1], days=[0, 0, 1])

    assert at_threshold(rows, np.ones(3), 0.5).flagged_units_per_day == 1.0


def test_a_threshold_nobody_reaches_has_no_precision():
    found = at_threshold(rows_of([1, 0]), np.array([0.1, 0.2]), 0.5)

    assert np.isnan(found.precision)
    assert (found.recall, found.flagged_units_per_day) == (0.0, 0.0)


def test_a_curve_ends_with_everything_flagged():
    found = curve(rows_of([1, 0, 1, 0]), np.array([0.9, 0.5, 0.5, 0.1]))

    assert found.caught.tolist() == [0.5, 1.0, 1.0]
    assert found.false_alarms.tolist() == [0.0, 0.5, 1.0]
    assert found.precision.tolist() == pytest.approx([1.0, 2 / 3, 0.5])


def test_a_thinned_curve_keeps_its_ends_and_its_order():
    rng = np.random.default_rng(0)
    labels = rng.random(5000) < 0.02
    whole = curve(rows_of(labels), rng.random(5000) + labels)

    thin = whole.thinned(200)

    assert 100 < len(thin.threshold) <= 200
    assert (thin.threshold[-1], thin.caught[-1], thin.false_alarms[-1]) == (whole.threshold[-1], 1, 1)
    assert (np.diff(thin.false_alarms) >= 0).all()
    assert np.isfinite(thin.threshold).all()


def test_one_class_has_no_curve():
    assert len(curve(rows_of([0, 0]), np.array([0.1, 0.2])).threshold) == 0


def test_amount_bands_and_hours_cover_every_row_once():
    rng = np.random.default_rng(0)
    features = features_of(amount=rng.uniform(0, 400, 500), hour=rng.uniform(0, 24, 500))
    features[:6, 0] = [0, 10, 50, 100, 220, 220.01]

    masks = slice_masks(pa.table({"x": np.zeros(500)}), features)

    for names in (
        [name for name in masks if name.startswith("amount")],
        ["night", "morning", "afternoon", "evening"],
        ["new_customers", "known_customers"],
        ["quiet_terminals", "busy_terminals"],
    ):
        assert (sum(masks[name].astype(int) for name in names) == 1).all()
    assert masks["amount_over_220"][:6].tolist() == [False] * 5 + [True]


def test_a_scenario_is_its_frauds_and_all_genuine_rows():
    table = pa.table({"fraud_scenario": pa.array([0, 2, 3, None, 2], pa.int8())})

    masks = slice_masks(table, features_of(amount=np.ones(5)))

    assert masks["scenario_2"].tolist() == [True, True, False, True, True]
    assert "scenario_1" not in masks


def test_rows_without_scenarios_and_no_rows_at_all_have_slices():
    assert not any(name.startswith("scenario") for name in slice_masks(pa.table({"x": [1]}), features_of(amount=[1.0])))
    assert len(slice_masks(pa.table({"x": pa.array([], pa.int8())}), features_of(amount=[]))["weekend"]) == 0


def test_an_override_of_one_floor_leaves_the_others():
    usual = load_limits(FRAUD, profile="simulated")
    changed = load_limits(FRAUD, {"stress_floors": {"no_state": 0.01}}, profile="simulated")

    assert changed.stress_floors == dict(usual.stress_floors) | {"no_state": 0.01}


def test_a_limit_of_the_wrong_kind_is_named():
    with pytest.raises(ConfigError, match="min_auc_roc is 7"):
        load_limits(FRAUD, {"min_auc_roc": 7})
    with pytest.raises(ConfigError, match="baseline_grid"):
        load_limits(FRAUD, {"baseline_grid": []})


def test_no_default_floor_lets_a_random_model_pass():
    """A floor that chance reaches is a gate that cannot fail."""
    config = load_limits(FRAUD, profile="simulated")

    assert config.min_auc_roc > 0.6
    assert config.slice_auc_floor > 0.6
    assert min(config.min_average_precision, config.min_unit_precision_share, config.min_brier_skill) > 0.2
    assert min(config.stress_floors.values()) >= 0.1


def test_limits_of_one_task_are_not_taken_for_those_of_another():
    with pytest.raises(InvalidInput, match="RankingLimits are limits of classes"):
        quantity_limits(load_limits(FRAUD))
    assert class_limits(load_limits(FRAUD)) == load_limits(FRAUD)
