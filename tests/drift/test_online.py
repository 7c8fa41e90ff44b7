"""Online companions: quiet for about their run length, soon loud when the stream changes."""

from __future__ import annotations

import numpy as np
import pytest

from serving.drift_detector.online import online_of


@pytest.mark.parametrize("backend", ["alibi", "streaming"])
def test_a_stream_like_the_reference_signals_no_oftener_than_said_and_a_shifted_one_does(backend):
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(2_000, 4)).astype(np.float32)
    online = online_of(backend, reference, expected_run_length=2_000)

    calm = online.add(rng.normal(size=(4_000, 4)).astype(np.float32))
    shifted = online.add(rng.normal(1.0, size=(2_000, 4)).astype(np.float32))

    assert calm <= 6  # Poisson with mean 2: more once in two hundred
    assert shifted >= 1
