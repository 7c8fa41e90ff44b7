"""Pruning changes the size, and nothing that it does not say."""

from __future__ import annotations

import torch

from benchmarks.variant_models import cut_silent_units, parameter_count
from millrace.tabular.layers import Residual


def test_a_block_without_its_silent_units_answers_the_same() -> None:
    torch.manual_seed(0)
    block = Residual(1, 8, 0.0).eval()
    first, second = block.body[1], block.body[4]
    with torch.no_grad():
        first.weight[:, :, ::2] = 0.0
    rows = torch.randn(1, 5, 8)
    wanted, weights = block(rows), parameter_count(block)

    cut_silent_units(first, second)

    torch.testing.assert_close(block(rows), wanted)
    assert first.weight.shape == (1, 8, 4)
    assert second.weight.shape == (1, 4, 8)
    assert parameter_count(block) < weights
