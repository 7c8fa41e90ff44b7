"""The measures behind the rules."""

import numpy as np
import pytest

from components.validate.rules import excess_ks, silent_share


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
