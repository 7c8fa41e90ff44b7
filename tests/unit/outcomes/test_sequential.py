"""False alarms and power are measured over many simulated streams, with confidence bounds, not on one lucky seed."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import beta

from millrace.errors import InvalidInput
from millrace.installed import load
from millrace.judge.ranking import Judged
from millrace.judge.regression import Measured, Predictions
from millrace.judge.sequential import LossDetector, Losses, baseline, class_losses, quantity_losses, watch
from millrace.judge.yardsticks import Measures, Ranks, Sample

LIMIT = 365.0
Stream = Callable[..., pa.Table]
FRAUD = load("fraud").judging
YARDSTICK = Ranks(FRAUD.COLUMNS, FRAUD.LOG_COLUMNS, k=20, review_cost=5.0)


def judge_rows(rows: pa.Table) -> tuple[Judged, np.ndarray]:
    sample = YARDSTICK.sample(rows)
    return sample.rows, sample.answers


def losses_of(rows: pa.Table) -> Losses:
    return class_losses(*judge_rows(rows))


def alarm_days(rows: Judged, scores: np.ndarray, bound: float) -> list[int]:
    """Days, from 0, on which the evidence reached the limit; the detector starts anew after an alarm."""
    losses = class_losses(rows, scores)
    detector, alarms = LossDetector(bound), []
    for number, today in enumerate(np.unique(losses.day)):
        if detector.update(losses.loss[losses.day == today]) >= LIMIT:
            alarms.append(number)
            detector = LossDetector(bound)
    return alarms


def test_thirty_quiet_days_rarely_give_an_alarm(stream: Stream) -> None:
    streams, alarms = 40, 0
    for seed in range(streams):
        reference = baseline(losses_of(stream(7, seed=seed)), tolerance=0.2, resamples=50)
        quiet = judge_rows(stream(30, seed=seed, first_day=7))
        alarms += bool(alarm_days(*quiet, reference.bound))

    upper = beta.ppf(0.95, alarms + 1, streams - alarms)  # Clopper–Pearson

    assert upper <= 0.15, f"{alarms} of {streams} streams had a false alarm"


def test_the_mean_time_to_a_false_alarm_is_at_least_the_limit_even_at_the_edge_of_the_null() -> None:
    # Losses whose mean is exactly the bound: the worst case of the promise, for an early limit that can be simulated.
    rng, bound, limit, horizon = np.random.default_rng(1), 0.02, 20.0, 200
    times = []
    for _ in range(200):
        detector = LossDetector(bound)
        losses = rng.binomial(1, 0.1, (horizon, 100)) * 0.2
        evidence = np.array([detector.update(day) for day in losses])
        reached = np.flatnonzero(evidence >= limit)
        times.append(reached[0] + 1 if len(reached) else horizon)

    low = np.mean(times) - 1.645 * np.std(times) / np.sqrt(len(times))

    assert low >= limit


def test_a_new_pattern_is_noticed_within_two_days_of_its_labels(stream: Stream) -> None:
    streams, seen = 30, 0
    for seed in range(streams):
        reference = baseline(losses_of(stream(7, seed=seed)), tolerance=0.2, resamples=50)
        alarms = alarm_days(*judge_rows(stream(12, seed=seed, first_day=7, burst_from_day=17)), reference.bound)
        seen += bool(alarms) and 10 <= alarms[0] <= 11

    lower = beta.ppf(0.05, seen, streams - seen + 1)

    assert lower >= 0.85, f"{seen} of {streams} noticed on the first or second day"


def test_a_stream_cut_anywhere_gives_the_same_evidence(stream: Stream) -> None:
    rows, scores = judge_rows(stream(6))
    losses = class_losses(rows, scores)
    days = [losses.loss[losses.day == today] for today in np.unique(losses.day)]
    whole, first = LossDetector(0.01), LossDetector(0.01)

    expected = [whole.update(x) for x in days]
    head = [first.update(x) for x in days[:3]]
    second = LossDetector(0.01, first.state)

    assert head + [second.update(x) for x in days[3:]] == pytest.approx(expected)


def test_rows_in_another_order_give_the_same_evidence(stream: Stream) -> None:
    table = stream(4)
    mixed = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    reference = baseline(losses_of(table), tolerance=0.2)

    a, b = (list(watch(losses_of(rows), reference)) for rows in (table, mixed))

    assert [x.value for x in a] == pytest.approx([x.value for x in b])
    assert a[0].day.isoformat() == "2018-06-01"


def test_evidence_of_a_disaster_stays_finite(stream: Stream) -> None:
    rows, scores = judge_rows(stream(3))
    wrong = Judged(rows.unit, rows.day, np.ones(len(rows), bool), rows.value, rows.units)

    values = [day.value for day in watch(class_losses(wrong, scores), baseline(class_losses(rows, scores), 0.2))]

    assert np.isfinite(values).all()
    assert values[0] > LIMIT


def test_a_reference_without_a_fraud_is_refused(stream: Stream) -> None:
    rows, scores = judge_rows(stream(1))
    none = Judged(rows.unit, rows.day, np.zeros(len(rows), bool), rows.value, rows.units)

    with pytest.raises(InvalidInput, match="no positive"):
        YARDSTICK.baseline(Sample(none, scores), 0.2)


def trips(days: int, first: int, slower: float = 1.0, seed: int = 0) -> Sample:
    """Quantities answered with a tenth of noise, in 60 units; every day is a little slower or faster as a whole."""
    rng = np.random.default_rng([seed, first])
    day = np.repeat(np.arange(first, first + days), 600)
    truth = rng.gamma(3, 5, len(day)) * rng.normal(1, 0.02, days).repeat(600)
    answer = truth * rng.normal(1, 0.2, len(day))
    rows = Measured(rng.integers(0, 60, len(day)), day, truth * slower, 60)
    return Sample(rows, Predictions.of(answer))


def test_days_that_are_slow_as_a_whole_give_no_alarm_and_a_slower_world_does() -> None:
    yardstick, alarms, seen = Measures(FRAUD.COLUMNS, FRAUD.LOG_COLUMNS), 0, 0
    for seed in range(20):
        reference = yardstick.baseline(trips(7, 0, seed=seed), 0.05)
        quiet, slower = (
            [item.value for item in watch(yardstick.losses(trips(20, 7, by, seed), reference), reference)]
            for by in (1.0, 1.33)
        )
        alarms += max(quiet) >= LIMIT
        seen += max(slower[:3]) >= LIMIT

    assert (alarms, seen) == (0, 20)


def test_a_quantity_loses_a_half_where_its_error_is_the_usual_one() -> None:
    rows = Measured(np.array([0, 0, 1]), np.zeros(3, np.int64), np.array([10.0, 10.0, 10.0]), 2)

    losses = quantity_losses(rows, Predictions.of(np.array([12.0, 8.0, 10.0])), scale=2.0)

    assert losses.loss.tolist() == [0.5, 0.0]
