"""A feed that falls silent is seen within minutes; one that works is left alone for months."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy.special import pdtr

from millrace.errors import InvalidInput
from millrace.judge.volume import DAY_US, HOUR_US, MINUTE_US, Profile, _chance, profile, silences

MIDNIGHT = datetime(2018, 6, 15, tzinfo=UTC)
TERMINALS = 1000


def events(days: int, a_day: int, seed: int = 0, first: int = 0) -> tuple[np.ndarray, list[str]]:
    """Times around noon as the simulator draws them, `days` from `first` days after MIDNIGHT; uniform terminals."""
    rng = np.random.default_rng([seed, first + 100])
    second = rng.normal(43_200, 20_000, (days, a_day))
    inside = (second > 0) & (second < 86_400)
    day = np.arange(first, first + days)[:, None] * np.ones_like(second)
    us = int(MIDNIGHT.timestamp() * 1e6) + (day * DAY_US + second * 1e6)[inside].astype(np.int64)
    return np.sort(us), [str(i) for i in rng.integers(0, TERMINALS, inside.sum())]


def usual(a_day: int = 9600, days: int = 14) -> Profile:
    return profile(*events(days, a_day, first=-days), days, kind="terminals")


def first_alarm(lost: np.ndarray, us: np.ndarray, terminals: list[str], since: datetime, profile: Profile) -> int:
    """Minutes from `since` until a look finds a silence when the rows under `lost` never arrive; 999 for never."""
    kept = np.flatnonzero(~lost)
    arrived, names = us[kept], [terminals[i] for i in kept]
    for minute in range(1, 120):
        if silences(profile, arrived, names, since + timedelta(minutes=minute)):
            return minute
    return 999


@pytest.mark.parametrize("a_day", [2_400, 9_600])
def test_a_silent_feed_is_noticed_within_ten_minutes(a_day: int) -> None:
    noon = MIDNIGHT + timedelta(hours=12)
    us, terminals = events(1, a_day)

    minutes = first_alarm(us >= noon.timestamp() * 1e6, us, terminals, noon, usual(a_day))

    assert minutes <= 10


def test_a_silent_fifth_of_the_terminals_is_noticed_though_the_rest_goes_on() -> None:
    noon = MIDNIGHT + timedelta(hours=12)
    us, terminals = events(1, 9600)
    lost = (us >= noon.timestamp() * 1e6) & (np.array([int(name) for name in terminals]) < TERMINALS // 5)

    minutes = first_alarm(lost, us, terminals, noon, usual())

    assert minutes <= 15
    found = silences(usual(), us[~lost], [t for t, gone in zip(terminals, lost, strict=True) if not gone],
                     noon + timedelta(minutes=15))  # fmt: skip
    assert found[0].range.startswith("terminals below")


def test_a_month_of_looks_at_a_feed_that_works_gives_no_alarm() -> None:
    profile = usual()
    us, terminals = events(30, 9600, seed=5)
    names = np.array(terminals, dtype=object)
    looks = 0
    for minute in range(60, 30 * 1440, 29):  # every 29 minutes: 1,488 looks of a month, at all hours
        end = MIDNIGHT + timedelta(minutes=minute)
        low, high = np.searchsorted(us, [end.timestamp() * 1e6 - 60 * MINUTE_US, end.timestamp() * 1e6])
        looks += bool(silences(profile, us[low:high], list(names[low:high]), end))

    assert looks == 0


def test_hours_of_the_week_are_told_apart_once_there_are_three_weeks() -> None:
    assert usual(days=21).rate.shape[1] == 168
    assert usual(days=14).rate.shape[1] == 24


def test_no_events_at_all_are_a_silence_and_no_past_is_refused() -> None:
    noon = MIDNIGHT + timedelta(hours=12)

    found = silences(usual(), np.empty(0, np.int64), [], noon)

    assert found[0].range == "all"
    with pytest.raises(InvalidInput, match="at least one day"):
        profile(np.empty(0, np.int64), [], 7)


def test_counts_of_terminals_and_hours_of_the_week_make_the_same_profile_as_the_events() -> None:
    us, terminals = events(28, 400, first=-28)
    hours = (us // HOUR_US) % 168
    grouped = Counter(zip(terminals, hours.tolist(), strict=True))
    names, at = zip(*grouped, strict=True)

    from_events = profile(us, terminals, 28)
    from_counts = profile(np.array(at) * HOUR_US, names, 28, np.array(list(grouped.values())))

    noon = int((MIDNIGHT + timedelta(hours=12)).timestamp() * 1e6)
    places = [(noon - usual.start_us) // HOUR_US % 168 for usual in (from_events, from_counts)]
    assert from_counts.cuts.tolist() == from_events.cuts.tolist()
    assert from_counts.rate[:, places[1]] == pytest.approx(from_events.rate[:, places[0]])
    assert from_counts.rate.sum() == pytest.approx(from_events.rate.sum())


@pytest.mark.parametrize(("count", "mean"), [(0, 0.5), (0, 20.0), (3, 20.0), (19, 20.0), (900, 1_200.0), (0, 5_000.0)])
def test_the_chance_of_so_few_events_is_poissons(count: int, mean: float) -> None:
    assert _chance(count, mean) == pytest.approx(pdtr(count, mean), rel=1e-9)
