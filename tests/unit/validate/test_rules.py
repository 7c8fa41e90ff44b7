"""The measures behind the rules."""

import numpy as np
import pytest

from components.validate.comparison import Comparison
from components.validate.config import ValidateConfig
from components.validate.distributions import excess_ks
from components.validate.profile import BINS, ZERO_BIN, Measured, Profile, Values
from components.validate.rules import judge, silent_share
from millrace.fields import Field, Kind
from millrace.installed import load


def test_a_sample_against_itself_is_no_distance():
    counts = np.array([10, 50, 40])

    assert excess_ks(counts, counts, 1.63) == 0


def test_disjoint_samples_are_nearly_all_distance():
    n = 10_000

    assert excess_ks(np.array([n, 0]), np.array([0, n]), 1.63) == pytest.approx(1 - 1.63 * (2 / n) ** 0.5)


def test_chance_is_not_a_distance():
    rng = np.random.default_rng(0)
    samples = rng.multinomial(500, np.full(24, 1 / 24), size=(200, 2))

    found = sum(excess_ks(a, b, 1.63) > 0 for a, b in samples)

    assert found <= 4


def test_no_rows_have_no_distance():
    assert excess_ks(np.zeros(3, int), np.array([1, 2, 3]), 1.63) is None


def test_a_silent_group_is_found_and_chance_is_not():
    rng = np.random.default_rng(0)
    expected = rng.uniform(0.5, 8, 1000)
    current = rng.poisson(expected)
    silenced = np.where(np.arange(1000) < 150, 0, current)

    assert silent_share(expected, current) < 0.005
    assert silent_share(expected, silenced) == pytest.approx(0.14, abs=0.02)


def test_nothing_expected_is_nothing_to_say():
    assert silent_share(np.zeros(3), np.zeros(3, int)) is None


@pytest.mark.parametrize(("in_old", "in_new"), [(0, 0), (0, 50), (50, 0)])
def test_a_field_that_no_row_has_is_not_judged_and_one_that_comes_or_goes_is(in_old: int, in_new: int) -> None:
    extra = Field(name="extra", kind=Kind.NUMBER, empty=True, minimum=0)
    comparison = Comparison(
        snapshot=profile_of(in_new),
        judged=np.ones(14, bool),
        current=np.arange(14) >= 7,
        reference=profile_of(in_old),
        measured=Measured((extra,), "label", classes=False),
        activity={},
    )

    config = ValidateConfig.load(load("trips"), profile="simulated")
    rules = [rule for rule in judge(comparison, config) if rule.name.startswith("extra_")]

    assert bool(rules) == bool(in_old or in_new)
    assert all(rule.passed for rule in rules) == (in_old == in_new)


def profile_of(known: int) -> Profile:
    """Two weeks of 100 rows a day, so many of which have a value of `extra`."""
    days, value = np.arange(17_000, 17_014), np.full(14, 2.0 if known else np.nan)
    bins = np.zeros((14, BINS), np.int64)
    bins[:, ZERO_BIN + 70] = known
    count = np.full(14, 100)
    return Profile(
        days=days,
        rows=count,
        labelled=count,
        positives=np.zeros(14, np.int64),
        nulls={"extra": count - known},
        minutes=np.full((14, 1440), 1),
        values={"extra": Values(value, value, value, np.full(14, known), bins)},
    )
