"""A day of a feature set as requests: what a client would have sent, in order, beside what the model was to read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
import orjson
import pyarrow as pa
import pytest

from components.build_features.core import build_features
from millrace.errors import NotFound
from millrace.installed import load
from millrace.lake.manifest import Manifest
from millrace.requests import RequestFormat
from serving.local.offline import load_day

FRAUD = load("fraud")
DAY = date(2018, 5, 10)
N = 6


@pytest.fixture(scope="module")
def feature_set(
    tmp_path_factory: pytest.TempPathFactory, simulated_days: list[pa.Table], snapshot_of: Callable[..., Manifest]
) -> Manifest:
    lake = tmp_path_factory.mktemp("lake")
    return build_features(snapshot_of(lake, simulated_days), lake, history_length=N, threads=1)


def test_bodies_are_the_requests_that_were_sent(feature_set: Manifest, simulated_days: list[pa.Table]) -> None:
    found = load_day(FRAUD, feature_set, DAY, None, 4)

    rows = [orjson.loads(body)["instances"][0] for body in found.bodies]
    requests = RequestFormat.of(FRAUD).from_rows(rows, now_us=0)
    sent = {row["transaction_id"]: row for day in simulated_days for row in day.to_pylist()}
    assert requests.event_id.tolist() == found.ids.tolist()
    assert requests.event_us.tolist() == found.event_us.tolist() == sorted(found.event_us.tolist())
    assert all(row["amount"] == float(sent[row["transaction_id"]]["amount"]) for row in rows)
    assert found.units == [row["customer_id"] for row in rows]


def test_histories_hold_what_came_before_newest_last(feature_set: Manifest) -> None:
    found = load_day(FRAUD, feature_set, DAY, None, 4)

    assert found.history is not None
    assert found.history.shape == (len(found.ids), 4, len(FRAUD.features.HISTORY_CHANNELS))
    counts = found.features[:, FRAUD.features.FEATURE_NAMES.index("customer_history_count")]
    np.testing.assert_array_equal(found.history[:, :, 3].sum(axis=1), np.minimum(counts, 4))


def test_a_day_may_end_early(feature_set: Manifest) -> None:
    whole = load_day(FRAUD, feature_set, DAY, None, 4)

    part = whole.until(int(whole.event_us[3]))

    assert part.ids.tolist() == whole.ids[:3].tolist()
    assert len(part.bodies) == len(part.units) == len(part.features) == 3


def test_a_day_that_is_not_there_is_named(feature_set: Manifest) -> None:
    with pytest.raises(NotFound, match="has no day 2030-01-01"):
        load_day(FRAUD, feature_set, date(2030, 1, 1), None, 4)
