"""Bad inputs are those that serving would compute from bad state."""

import numpy as np
import pytest

from fraud.features import FEATURE_NAMES, TERMINAL_FEATURES
from fraud.formulas import TERMINAL_STATE_FIELDS, CustomerStates, model_features
from fraud.stress import STRESSES
from fraud.whatif import Inputs
from millrace.instants import DAY_US, NEVER_US

N = 6
NOW = 1_530_000_000_000_000


@pytest.fixture
def inputs():
    """Five transactions of customers with 0 to N transactions of history, half a day apart."""
    rng = np.random.default_rng(0)
    length = np.array([0, 1, 3, N, N])
    age = (np.arange(N, 0, -1) * DAY_US // 2)[None, :]
    present = np.arange(N)[None, :] >= N - length[:, None]
    states = CustomerStates(
        np.where(present, NOW - age, NEVER_US),
        np.where(present, rng.integers(100, 9000, (5, N)), 0),
        np.where(present, rng.random((5, N)), 0).astype(np.float32),
        length,
    )
    cents = np.array([1000, 22_001, 25_000, 22_000, 30_000])
    label = np.array([False, True, True, True, False])
    return Inputs(np.full(5, NOW), cents, label, states, rng.random((5, len(TERMINAL_FEATURES))).astype(np.float32))


def feature(tensor, name):
    return tensor[:, FEATURE_NAMES.index(name)]


def test_no_state_is_what_serving_computes_from_an_empty_store(inputs):
    features, history = STRESSES["no_state"](inputs).tensors(3)

    shape = inputs.states.event_us.shape
    empty = CustomerStates(
        np.full(shape, NEVER_US), np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(5, np.int64)
    )
    terminals = np.zeros((5, len(TERMINAL_STATE_FIELDS)), np.int64)
    assert (features == model_features(inputs.now_us, inputs.amount_cents, empty, terminals)).all()
    assert (history == 0).all()


def test_a_day_old_state_has_lost_exactly_the_last_day(inputs):
    stale = STRESSES["customer_state_a_day_old"](inputs)

    # Half a day apart: the ages are .5 (lost), 1, 1.5 … days.
    assert stale.states.length.tolist() == [0, 0, 2, N - 1, N - 1]
    assert stale.states.event_us[3, -1] == NOW - DAY_US
    assert (stale.states.amount_cents[3, 1:] == inputs.states.amount_cents[3, :-1]).all()
    assert stale.states.event_us[3, 0] == NEVER_US
    features, history = stale.tensors(N)
    assert feature(features, "customer_count_1d").tolist() == [0] * 5
    assert history[:, :, 3].sum(axis=1).tolist() == stale.states.length.tolist()


def test_only_frauds_above_the_threshold_dodge_it(inputs):
    dodging = STRESSES["amounts_just_below_220"](inputs)

    assert dodging.amount_cents.tolist() == [1000, 21_999, 21_999, 22_000, 30_000]


def test_shifted_amounts_shift_what_follows_from_them(inputs):
    usual, _ = inputs.tensors(3)
    shifted, _ = STRESSES["amounts_up_30_percent"](inputs).tensors(3)

    assert feature(shifted, "amount") == pytest.approx(1.3 * feature(usual, "amount"), abs=0.01)
    assert feature(shifted, "customer_amount_ratio")[1:] == pytest.approx(
        1.3 * feature(usual, "customer_amount_ratio")[1:], rel=1e-4
    )
    assert (feature(shifted, "customer_mean_amount") == feature(usual, "customer_mean_amount")).all()


@pytest.mark.parametrize("name", STRESSES)
def test_a_stress_leaves_its_input_alone_and_keeps_rows_and_types(name, inputs):
    before = [array.tobytes() for array in inputs.tensors(N)]

    features, history = STRESSES[name](inputs).tensors(3)

    assert [array.tobytes() for array in inputs.tensors(N)] == before
    assert (features.shape, features.dtype) == ((5, len(FEATURE_NAMES)), np.float32)
    assert (history.shape, history.dtype) == ((5, 3, 4), np.float32)
    assert np.isfinite(features).all()
