"""Where the encoding of a column bends: at its quantiles, and where its labels turn."""

from __future__ import annotations

import pytest
import torch

from millrace.tabular.segments import class_edges, quantity_edges


def test_edges_span_the_column_in_ascending_order() -> None:
    generator = torch.Generator().manual_seed(0)
    values, label = torch.rand(2000, generator=generator), (torch.arange(2000) % 5 == 0).long()

    edges = class_edges(values, label, 16)

    assert (edges[0], edges[-1]) == (values.min(), values.max())
    assert (edges.diff() > 0).all()
    assert 8 < len(edges) <= 17


def test_a_rare_range_where_labels_turn_gets_edges_though_nearly_all_rows_share_one_value() -> None:
    values = torch.full((10_000,), 365.0)
    values[:400] = torch.arange(400) % 40.0  # days since something that nearly nobody has
    label = (values < 28.0).long()

    edges = class_edges(values, label, 8)

    assert ((edges > 27.0) & (edges < 28.0)).any()


@pytest.mark.parametrize("bins", [1, 2, 5, 32])
@pytest.mark.parametrize("label", [0, 1])
def test_a_constant_column_and_one_class_still_give_a_segment(bins: int, label: int) -> None:
    for values in (torch.full((30,), 5.0), torch.arange(30.0)):
        edges = class_edges(values, torch.full((30,), label), bins)

        assert 2 <= len(edges) <= bins + 1
        assert (edges.diff() > 0).all()


def test_values_that_differ_in_the_last_bit_only_still_give_distinct_edges() -> None:
    one = torch.tensor(1.0)
    two, three = torch.nextafter(one, torch.tensor(2.0)), torch.nextafter(one, torch.tensor(2.0)) + one * 2**-23
    values = torch.stack([one, two, three]).repeat(100)
    label = (values == two).long()

    edges = class_edges(values, label, 8)

    assert len(edges) >= 2
    assert (edges.diff() > 0).all()


def test_the_same_rows_give_the_same_edges() -> None:
    values, label = torch.randn(3000, generator=torch.Generator().manual_seed(1)), torch.arange(3000) % 7 == 0

    assert torch.equal(class_edges(values, label.long(), 24), class_edges(values, label.long(), 24))


def test_edges_of_a_quantity_lie_where_it_turns() -> None:
    values = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    label = torch.where(values < 0.37, 1.0, 5.0)

    edges = quantity_edges(values, label, 8)

    assert (edges.diff() > 0).all()
    assert ((edges > 0.36) & (edges < 0.38)).any()
    assert (edges[0], edges[-1]) == (values.min(), values.max())
