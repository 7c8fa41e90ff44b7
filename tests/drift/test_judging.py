"""What counts as drift: seasons, missing values, decisions, scores, and how often chance is mistaken for it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import beta

from benchmarks.drift import detector_of, false_alarms, inflated, noticed_after, table_of
from fraud.features import FEATURE_NAMES
from millrace.errors import InvalidInput
from millrace.installed import load
from serving.drift_detector.backends import Streaming
from serving.drift_detector.core import discoveries, fit
from serving.drift_detector.judgement import Reference, Window
from serving.drift_detector.season import matched_rows, season_bins
from serving.drift_detector.watch import Watch, WatchConfig, window_of
from serving.drift_detector.windows import Rows


class PerFeature(Streaming):
    """Without the multivariate test and the forest, which cost most."""

    def joint(self, reference, window, seed):
        return 0.0, 1.0

    def outliers(self, reference, share, seed):
        return lambda rows: np.zeros(len(rows), bool)


def window_at(stream, start: int, rows: int = 1_000) -> Window:
    table = table_of(stream.features[start : start + rows], stream)
    return Window(table[:, :-2], table[:, -2], table[:, -1] > 0.5)


def test_a_sample_of_the_reference_is_not_drift(detector):
    rows = np.random.default_rng(0).choice(len(detector.reference.features), 1_000, replace=False)
    reference = detector.reference

    judgement = detector.judge(
        Window(reference.features[rows], reference.scores[rows], reference.scores[rows] >= reference.threshold)
    )

    assert not judgement.drifted
    assert judgement.reason == "as the reference"


def test_two_hours_of_a_night_are_compared_with_nights(detector, stream):
    hours = stream.features[:, FEATURE_NAMES.index("hour")]
    night = np.flatnonzero((hours < 4) & (np.arange(len(hours)) > stream.first))[:1_000]
    table = table_of(stream.features[night], stream)

    judgement = detector.judge(Window(table[:, :-2], table[:, -2], table[:, -1] > 0.5), joint=False)
    unmatched = detector._backend.per_feature(detector._table, table, [])[1]

    since_last = FEATURE_NAMES.index("customer_days_since_last")
    assert unmatched[since_last] < 1e-6
    assert not judgement.drifted


def test_matched_rows_have_the_windows_mix_of_hours_and_no_row_twice():
    rng = np.random.default_rng(0)
    reference = season_bins(rng.uniform(0, 24, 20_000).astype(np.float32), np.zeros(20_000, np.float32))
    window = season_bins(rng.choice([9, 9, 9, 10], 1_000).astype(np.float32), np.zeros(1_000, np.float32))

    rows = matched_rows(reference, window, rng)

    assert len(np.unique(rows)) == len(rows) >= 500
    assert (reference[rows] == 9).mean() == pytest.approx(0.75, abs=0.03)


def test_chance_is_seldom_mistaken_for_drift_while_a_small_inflation_is_seen(stream):
    detector = fit(detector_of(stream, "streaming").reference, PerFeature())

    calm = false_alarms(detector, stream)
    after = noticed_after(detector, stream, 1.10, runs=25)

    # 11 days of full traffic: benchmarks/drift.py has the bound on alarms from a hundred.
    assert calm["alarms"] == 0, calm["reasons"]
    assert beta.ppf(0.95, calm["flagged"] + 1, calm["windows"] - calm["flagged"]) < 0.05
    hits = sum(requests <= 2_000 for requests in after)
    assert beta.ppf(0.05, hits, len(after) - hits + 1) > 0.8


def test_more_reviews_are_a_drift_of_decisions(detector, stream):
    window = window_at(stream, stream.first)
    review = window.review.copy()
    review[:60] = True

    judgement = detector.judge(dataclasses.replace(window, review=review), joint=False)

    assert [finding.kind for finding in judgement.findings] == ["decision"]


def test_scores_of_a_broken_model_are_a_drift_of_scores(detector, stream):
    window = window_at(stream, stream.first)

    judgement = detector.judge(dataclasses.replace(window, scores=window.scores**0.5), joint=False)

    assert "score" in [finding.kind for finding in judgement.findings]


def test_a_feed_that_stopped_is_critical_although_aggregates_may_wander(detector, stream):
    window = window_at(stream, stream.first)
    features = window.features.copy()
    features[:, FEATURE_NAMES.index("terminal_count_7d")] = 0

    judgement = detector.judge(dataclasses.replace(window, features=features), joint=False)

    assert judgement.severity == "critical"
    assert judgement.findings[0].features == ("terminal_count_7d",)


def test_missing_values_are_counted_and_the_rest_is_still_compared(detector, stream):
    window = window_at(stream, stream.first)
    features = window.features.copy()
    features[:100, 0] = np.nan
    features[:, 5] = np.nan

    judgement = detector.judge(dataclasses.replace(window, features=features), joint=False)

    assert judgement.findings[-1].kind == "missing"
    assert judgement.findings[-1].features == ("amount", FEATURE_NAMES[5])
    assert judgement.comparisons[5].p_value is None
    assert judgement.comparisons[0].p_value is not None


def test_requests_unlike_any_other_are_pointed_at(detector, stream):
    window = window_at(stream, stream.first)
    features = window.features.copy()
    features[7] *= 1_000

    judgement = detector.judge(dataclasses.replace(window, features=features), joint=False)

    assert 7 in judgement.outliers
    assert len(judgement.outliers) < 10


@pytest.mark.parametrize("rows", [0, 5])
def test_a_window_of_nothing_says_nothing(detector, rows):
    width = len(FEATURE_NAMES)
    window = Window(np.zeros((rows, width), np.float32), np.zeros(rows, np.float32), np.zeros(rows, bool))

    with pytest.raises(InvalidInput, match="at least 20"):
        detector.judge(window)


def test_a_reference_of_a_few_rows_is_refused(stream):
    with pytest.raises(InvalidInput, match="at least 100"):
        Reference("1", FEATURE_NAMES, stream.features[:10], stream.scores[:10], 0.5, load("fraud").watch)


def test_discoveries_reject_as_benjamini_and_hochberg_did():
    p_values = np.array([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
                         0.6528, 0.7590, 1.0])  # fmt: skip

    assert discoveries(p_values, 0.05).sum() == 4  # the example of their paper


def test_a_stream_cut_anywhere_and_restored_ends_in_the_same_state(detector, stream):
    rows = Rows(
        stream.event_us[stream.first :][:6_000],
        table_of(stream.features[stream.first : stream.first + 6_000], stream),
    )
    config = WatchConfig(period_s=43_200)
    whole, parts = Watch(detector, config), Watch(detector, config)
    expected = whole.add(rows)

    found = []
    for start, end in ((0, 1), (1, 777), (777, 3_100), (3_100, 6_000)):
        found += parts.add(rows[start:end]).judged
        state, arrays = parts.arrays()
        parts = Watch(detector, config)
        parts.restore(state, arrays)

    assert found == expected.judged
    assert {judged.window for judged in found} == {"count", "time"}
    for name, array in whole.arrays()[1].items():
        np.testing.assert_array_equal(array, parts.arrays()[1][name])


def test_an_episode_is_raised_once_and_again_after_a_calm(detector, stream):
    calm = table_of(stream.features[stream.first : stream.first + 8_000], stream)
    loud = calm[:4_000].copy()
    loud[:, FEATURE_NAMES.index("customer_amount_ratio")] *= 2
    stamps = stream.event_us[stream.first :]
    watch = Watch(detector, WatchConfig(period_s=0))

    alarms = []
    for table in (calm[:2_000], loud, calm, loud):
        alarms += watch.add(Rows(stamps[: len(table)], table)).alarms

    raised = [alarm for alarm in alarms if alarm.kind == "features"]
    assert len(raised) == 2
    assert len({alarm.id for alarm in alarms}) == len(alarms)


def test_a_shift_that_lasts_for_weeks_is_one_alarm_though_windows_by_count_and_by_day_both_see_it(stream):
    detector = fit(detector_of(stream, "streaming").reference, PerFeature())
    table = table_of(inflated(stream.features[stream.first :], 1.1), stream)
    stamps = stream.event_us[stream.first :]
    watch = Watch(detector, WatchConfig())

    outcome = watch.add(Rows(stamps[: len(table)], table))

    seen = {judged.window for judged in outcome.judged if any(f.kind == "features" for f in judged.judgement.findings)}
    days = (stamps[-1] - stamps[0]) / 86_400e6
    assert days > 14
    assert seen == {"count", "time"}
    assert [alarm.kind for alarm in outcome.alarms].count("features") == 1


def test_window_of_reads_what_the_table_holds(stream):
    table = table_of(stream.features[:50], stream)

    window = window_of(Rows(stream.event_us[:50], table))

    assert len(window) == 50
    assert window.review.dtype == bool
