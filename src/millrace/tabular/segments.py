"""Edges of the piecewise-linear encoding: half where a tree splits the column by its labels, the rest at quantiles.

Quantiles alone waste segments on values that many rows share ("never"), and none falls where a label turns. One column
and its labels in, edges out; the same rows give the same edges (`millrace.tabular.layers.PiecewiseLinear`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

LEAF_ROWS: Final = 16
"""Fewest rows on either side of a split."""


def class_edges(values: Tensor, label: Tensor, bins: int) -> Tensor:
    """values[n], label[n] in {0, 1} → at most bins + 1 edges, ascending and distinct; at least two."""
    from sklearn.tree import DecisionTreeClassifier

    splits = _splits(DecisionTreeClassifier, "entropy", values, label, bins // 2)
    classes = [rows for rows in (values[label == 0], values[label == 1]) if len(rows)]
    return _edges(splits, classes, bins)


def quantity_edges(values: Tensor, label: Tensor, bins: int) -> Tensor:
    """values[n], label[n] a quantity → at most bins + 1 edges, ascending and distinct; at least two."""
    from sklearn.tree import DecisionTreeRegressor

    splits = _splits(DecisionTreeRegressor, "squared_error", values, label, bins // 2)
    return _edges(splits, [values], bins)


def _splits(tree: Any, criterion: str, values: Tensor, label: Tensor, count: int) -> Tensor:
    """Where a tree of at most count + 1 leaves would split the column, the best split first: at most `count` values."""
    if count < 1:
        return values[:0]
    grown = tree(criterion=criterion, max_leaf_nodes=count + 1, min_samples_leaf=LEAF_ROWS, random_state=0)
    nodes = grown.fit(values.numpy(force=True)[:, None], label.numpy(force=True)).tree_
    return torch.from_numpy(nodes.threshold[nodes.feature >= 0]).to(values)


def _edges(splits: Tensor, groups: Sequence[Tensor], bins: int) -> Tensor:
    """`splits`, and quantiles of each group of rows."""
    quantiles = [_quantiles(rows, max((bins + 1 - len(splits)) // len(groups), 2)) for rows in groups]
    edges = torch.unique(torch.cat([*quantiles, splits])[: bins + 1])  # two splits may round to one float32
    return edges if len(edges) > 1 else torch.stack([edges[0], edges[0] + 1.0])


def _quantiles(values: Tensor, count: int) -> Tensor:
    """Order statistics; torch.quantile refuses more than 16 million elements and interpolates."""
    levels = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
    ordered = values.sort().values
    return ordered[(levels * (len(ordered) - 1)).round().long()]
