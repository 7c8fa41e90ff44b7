"""alibi-detect, 0.11.4 or 0.13.0, gives what SciPy gives; it is imported without disturbing anybody."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest

from benchmarks.drift import inflated, table_of
from serving.drift_detector.backends import Alibi, Streaming
from serving.drift_detector.core import fit
from serving.drift_detector.judgement import Window


@pytest.fixture(scope="module")
def alibi() -> Alibi:
    return Alibi()


@pytest.fixture
def window(stream) -> Window:
    rows = slice(stream.first, stream.first + 1_000)
    table = table_of(stream.features[rows], stream)
    return Window(table[:, :-2], table[:, -2], table[:, -1] > 0.5)


def test_it_is_a_version_that_the_code_knows(alibi):
    assert version("alibi-detect") in ("0.11.4", "0.13.0")


def test_pydantic_is_the_modern_one_after_the_import(alibi):
    import pydantic

    assert pydantic.VERSION.startswith("2.")


def test_both_backends_give_the_same_statistics_and_p_values(alibi, stream):
    reference, window = stream.features[:3_000], stream.features[-800:]
    columns = [*range(stream.features.shape[1])]
    binary = [columns.index(i) for i in (2, 3)]  # weekend and night: chi-squared

    one = Streaming().per_feature(reference, window, binary)
    other = alibi.per_feature(reference, window, binary)

    np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-6)


def test_both_backends_give_the_same_mean_discrepancy_and_see_a_joint_shift(alibi):
    rng = np.random.default_rng(0)
    cov = np.full((4, 4), 0.8) + 0.2 * np.eye(4)
    reference = rng.normal(size=(200, 4)).astype(np.float32)
    joint = rng.multivariate_normal(np.zeros(4), cov, 200).astype(np.float32)  # every column as before

    one, other = Streaming().joint(reference, joint, 0), alibi.joint(reference, joint, 0)

    assert one[0] == pytest.approx(other[0], rel=1e-3)
    assert one[1] == other[1] == pytest.approx(1 / 101)


def test_the_permutation_test_is_alibi_detects_own(alibi):
    """Its statistic to the last digits, and its p-value but for the draws of the permutations."""
    from serving.drift_detector.alibi import load

    rng = np.random.default_rng(1)
    for shift in (0.0, 0.1, 0.2):
        reference, window = (rng.normal(mean, size=(150, 3)).astype(np.float32) for mean in (0.0, shift))
        own = load("cd").MMDDrift(reference, backend="pytorch", n_permutations=2_000, device="cpu")
        theirs = own.predict(window, return_p_val=True, return_distance=True)["data"]

        draws = [alibi.joint(reference, window, seed) for seed in range(20)]

        assert draws[0][0] == pytest.approx(float(theirs["distance"]), rel=1e-4, abs=1e-6)
        assert np.mean([p for _, p in draws]) == pytest.approx(float(theirs["p_val"]), abs=0.05)


@pytest.mark.parametrize("backend", ["alibi", "streaming"])
def test_a_window_without_drift_is_as_the_reference_and_one_with_larger_amounts_is_not(backend, alibi, stream, window):
    from benchmarks.drift import detector_of

    detector = fit(detector_of(stream, "streaming").reference, alibi if backend == "alibi" else Streaming())
    larger = Window(inflated(window.features, 1.2), window.scores, window.review)

    calm, moved = detector.judge(window, joint=False), detector.judge(larger)

    assert not calm.drifted
    assert {"customer_amount_ratio", "customer_amount_zscore"} <= set(moved.findings[0].features)


def test_outliers_are_the_same_few_requests_for_both(alibi, stream):
    table, odd = stream.features[:2_000], stream.features[:5] + 1e6

    found = [backend.outliers(table, 0.001, 0)(np.concatenate([table[:50], odd])) for backend in (alibi, Streaming())]

    assert all(flags[-5:].all() and flags[:50].sum() <= 1 for flags in found)
