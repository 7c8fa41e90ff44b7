"""Edges of the piecewise-linear encoding: half where a tree splits the column by its labels, the rest at quantiles.

Quantiles alone waste segments on values that many rows share ("never"), and none falls where a label turns. One column
and its labels in, edges out; the same rows give the same edges (`fraud.model.PiecewiseLinear`).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

LEAF_ROWS: Final = 16
"""Fewest rows on either side of a split."""


def edges_of(values: Tensor, label: Tensor, bins: int) -> Tensor:
    """values[n], label[n] in {0, 1} → at most bins + 1 edges, ascending and distinct; at least two."""
    splits = splits_of(values, label, bins // 2)
    classes = [rows for rows in (values[label == 0], values[label == 1]) if len(rows)]
    quantiles = [_quantiles(rows, max((bins + 1 - len(splits)) // len(classes), 2)) for rows in classes]
    edges = torch.unique(torch.cat([*quantiles, splits])[: bins + 1])  # two splits may round to one float32
    return edges if len(edges) > 1 else torch.stack([edges[0], edges[0] + 1.0])


def splits_of(values: Tensor, label: Tensor, count: int) -> Tensor:
    """Where a tree of at most count + 1 leaves would split the column, the best split first: at most `count` values."""
    from sklearn.tree import DecisionTreeClassifier

    if count < 1:
        return values[:0]
    tree = DecisionTreeClassifier(
        criterion="entropy", max_leaf_nodes=count + 1, min_samples_leaf=LEAF_ROWS, random_state=0
    )
    nodes = tree.fit(values.numpy(force=True)[:, None], label.numpy(force=True)).tree_
    return torch.from_numpy(nodes.threshold[nodes.feature >= 0]).to(values)


def _quantiles(values: Tensor, count: int) -> Tensor:
    """Order statistics; torch.quantile refuses more than 16 million elements and interpolates."""
    levels = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
    ordered = values.sort().values
    return ordered[(levels * (len(ordered) - 1)).round().long()]
