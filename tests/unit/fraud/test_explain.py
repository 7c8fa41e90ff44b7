"""Reasons are the groups of inputs without which the score would be lower."""

from __future__ import annotations

import numpy as np

from fraud.explain import GROUPS, variants
from fraud.features import FEATURE_NAMES, VIEWS
from fraud.formulas import TERMINAL_STATE_FIELDS
from millrace.inputs import Requests, States, recent
from millrace.lookup import empty

CUSTOMERS, TERMINALS = VIEWS
NOON_US = 1_538_308_800_000_000
STATE = recent(np.array([1, 2]), np.array([NOON_US - 2, NOON_US - 1]), np.array([1000, 3000]), np.float32([0.1, 0.2]))
TERMINAL = np.arange(1, len(TERMINAL_STATE_FIELDS) + 1)


def made(customer=STATE):
    requests = Requests(np.array([9]), np.array([NOON_US]), {}, {"amount": np.array([90_000])})
    states = States({CUSTOMERS.name: [customer]}, {TERMINALS.name: TERMINAL[None]})
    return variants(requests, states, history_length=4, sequence_length=4)


def column(features, group, name):
    return features[GROUPS.index(group), FEATURE_NAMES.index(name)]


def test_each_variant_changes_its_group_and_no_other():
    features, history = made()

    assert column(features, "amount", "amount") == 20
    assert column(features, "time", "amount") == 900
    assert column(features, "customer_history", "customer_history_count") == 0
    assert column(features, "amount", "customer_history_count") == 2
    assert column(features, "terminal_history", "terminal_count_30d") == 0
    assert column(features, "customer_history", "terminal_count_30d") == TERMINAL[2]
    assert history[GROUPS.index("customer_history")].sum() == 0
    assert (features[GROUPS.index("time")] != features[GROUPS.index("customer_history")]).any()


def test_a_new_customer_has_no_usual_amount_to_compare_with():
    features, _ = made(empty(CUSTOMERS))

    assert column(features, "amount", "amount") == 900
