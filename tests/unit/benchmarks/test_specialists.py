"""A specialist answers for its segment only, and not at all where it saw too little."""

import numpy as np

from benchmarks.specialists import MIN_FRAUDS, ROUTERS, _specialists
from fraud.features import FEATURE_NAMES
from millrace.tabular.boosting import BoostConfig, fitted


def test_a_segment_with_few_frauds_is_left_to_the_booster_that_knows_all():
    rng = np.random.default_rng(0)
    columns = rng.random((2_000, 3)).astype(np.float32)
    label = (columns[:, 0] > 0.8).astype(np.int8)
    learned = np.where(np.arange(2_000) < 1_900, 0, 1)  # of a hundred rows of segment 1 some twenty are frauds
    general = fitted(columns, label, BoostConfig(rounds=5))
    asked = rng.random((10, 3)).astype(np.float32)
    segment = np.arange(10) % 2

    found = _specialists(general, columns, label, learned, asked, segment)

    assert (label[learned == 1] == 1).sum() < MIN_FRAUDS
    assert (found.logits[segment == 1] == general.margins(asked)[segment == 1]).all()
    assert (found.logits[segment == 0] != general.margins(asked)[segment == 0]).any()


def test_a_router_tells_segments_by_a_feature():
    features = np.zeros((3, len(FEATURE_NAMES)), np.float32)
    features[:, FEATURE_NAMES.index("customer_mean_amount")] = (10, 50, 90)

    assert ROUTERS["specialists by what the customer spends"](features).tolist() == [0, 1, 2]
