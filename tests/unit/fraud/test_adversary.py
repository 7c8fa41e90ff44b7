"""A thief's payments are what serving would see, and what passes is counted to the cent."""

import numpy as np
import pytest

from components.evaluate.classes.attacks import outcome
from fraud.adversary import ATTACKS, PARTS, PAUSE_US
from fraud.features import FEATURE_NAMES, TERMINAL_FEATURES
from fraud.formulas import NO_EVENT_DAYS, TERMINAL_STATE_FIELDS, CustomerStates, model_features, terminal_features
from fraud.whatif import Inputs
from millrace.instants import DAY_US, NEVER_US

NOW = 1_530_000_000_000_000
N = 3


@pytest.fixture
def frauds():
    """A customer with one past transaction and one with a full history; the second terminal has a revealed fraud."""
    states = CustomerStates(
        np.array([[NEVER_US, NEVER_US, NOW - DAY_US], [NOW - 3 * DAY_US, NOW - 2 * DAY_US, NOW - DAY_US]]),
        np.array([[0, 0, 500], [100, 200, 300]]),
        np.zeros((2, N), np.float32),
        np.array([1, 3]),
    )
    terminals = np.zeros((2, len(TERMINAL_STATE_FIELDS)), np.int64)
    terminals[1, TERMINAL_STATE_FIELDS.index("labelled_30d")] = 4
    terminals[1, TERMINAL_STATE_FIELDS.index("fraud_30d")] = 1
    terminals[1, -3:-1] = NOW - 2 * DAY_US  # streak start, last fraud
    now = np.full(2, NOW)
    return Inputs(now, np.array([1001, 40_000]), np.ones(2, bool), states, terminal_features(now, terminals))


def payments(name, frauds):
    return list(ATTACKS[name](frauds))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_takes_the_same_money_and_leaves_its_input_alone(name, frauds):
    before = [array.tobytes() for array in frauds.tensors(N)]

    parts = payments(name, frauds)

    assert sum(part.amount_cents for part in parts).tolist() == [1001, 40_000]
    assert [array.tobytes() for array in frauds.tensors(N)] == before


def test_each_part_of_a_split_amount_sees_the_parts_before_it(frauds):
    parts = payments("split_in_four", frauds)

    last = parts[-1].states
    assert len(parts) == PARTS
    assert last.amount_cents.tolist() == [[250, 250, 250], [10_000, 10_000, 10_000]]
    assert last.event_us.tolist() == [[NOW, NOW + PAUSE_US, NOW + 2 * PAUSE_US]] * 2
    assert last.length.tolist() == [3, 3]
    assert last.terminal_risk[1] == pytest.approx([0.25] * 3)


def test_a_payment_reads_the_features_that_serving_computes_from_the_same_state(frauds):
    second = payments("split_in_four", frauds)[1]
    terminals = np.zeros((2, len(TERMINAL_STATE_FIELDS)), np.int64)
    terminals[1, TERMINAL_STATE_FIELDS.index("labelled_30d")] = 4
    terminals[1, TERMINAL_STATE_FIELDS.index("fraud_30d")] = 1
    terminals[1, -3:-1] = NOW - 2 * DAY_US

    features, _ = second.tensors(N)

    served = model_features(second.now_us, second.amount_cents, second.states, terminals)
    assert features == pytest.approx(served, rel=1e-6)


def test_waiting_ages_what_is_dated_and_never_stays_never(frauds):
    (late,) = payments("waits_a_month", frauds)

    features, _ = late.tensors(N)
    assert features[:, FEATURE_NAMES.index("customer_count_30d")].tolist() == [0, 0]
    for name, days in (("since_fraud", 32), ("since_streak_start", 32)):
        column = features[:, FEATURE_NAMES.index(f"terminal_days_{name}")]
        assert column.tolist() == [NO_EVENT_DAYS, days]
    assert features[:, FEATURE_NAMES.index("terminal_dates_since_streak_start")].tolist() == [NO_EVENT_DAYS, 32]
    assert (late.terminal[:, :-5] == frauds.terminal[:, :-5]).all()
    assert len(TERMINAL_FEATURES) > 5


def test_what_passes_is_what_was_paid_before_the_first_flag(frauds):
    scores = iter([[0.1, 0.9], [0.6, 0.0], [0.1, 0.0], [0.1, 0.0]])

    passed, flagged = outcome(iter(payments("split_in_four", frauds)), lambda _: np.array(next(scores)), 0.5)

    assert passed.tolist() == [250, 0]
    assert flagged.tolist() == [True, True]


def test_without_a_flag_everything_passes(frauds):
    passed, flagged = outcome(iter(payments("split_over_four_days", frauds)), lambda part: np.zeros(len(part)), 0.5)

    assert passed.tolist() == [1001, 40_000]
    assert not flagged.any()
