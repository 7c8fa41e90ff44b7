"""Categories in a network: codes of levels become columns that networks and trees can use, fitted on training rows.

Of each category the SLOTS most frequent levels have a column each; another one is for all other levels, one for none,
and one says how the label is among the training rows of the level, drawn towards all rows. Levels of few rows, and
those that training has not seen, are `other`. All of it is in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millrace.tabular.network import Label, Network, QuantityNetwork

SLOTS: Final = 12
LEVELS: Final = 256
"""Levels that have a label mean of their own; the rarest of more share that of `other`."""
MIN_ROWS: Final = 30
"""A level of fewer training rows is `other`."""
PRIOR_ROWS: Final = 100.0
"""It is as if so many more rows of a level had the mean of all."""
COLUMNS: Final = SLOTS + 3
"""Columns that a category becomes: slots, other, none, mean."""
UNUSED: Final = -1.0
"""A code that no level has."""


def with_levels(make: Any, architecture: Any, feature_names: Sequence[str], codes: Sequence[str]) -> Network:
    """The network that `make` gives, over features of which `codes` are categories.

    It takes features[B, F] as before; `columns` begin with them, the codes blanked, then COLUMNS of each category.
    """
    names = [*feature_names, *(f"{name}_{place}" for name in codes for place in range(COLUMNS))]
    made: Network = make(architecture, names)
    made.feature_names = tuple(feature_names)
    made.__class__ = _reading_levels(type(made))  # type: ignore[arg-type]  # mypy: a class is hashable
    places = [list(feature_names).index(name) for name in codes]
    made.register_buffer("code_places", torch.tensor(places))
    made.register_buffer("levels", torch.full((len(codes), LEVELS), UNUSED))
    made.register_buffer("level_means", torch.zeros(len(codes), LEVELS + 1))
    return made


@cache
def _reading_levels(base: type[Network]) -> type[Network]:
    """The class of a network, reading levels."""

    class ReadingLevels(base):  # type: ignore[valid-type, misc]
        code_places: Tensor
        levels: Tensor  # [categories, LEVELS], the most frequent first
        level_means: Tensor  # [categories, LEVELS + 1], the last that of other and none

        def columns(self, *inputs: Tensor) -> Tensor:
            features, *others = inputs
            found: Tensor = super().columns(self._spread(features), *others)
            return found

        @torch.no_grad()
        def fit_preprocessing(self, inputs: Sequence[Tensor], label: Tensor, labels: Label) -> None:
            weight = _weights(label, labels, isinstance(self, QuantityNetwork))
            for row, place in enumerate(self.code_places.tolist()):
                codes = inputs[0][:, place].cpu().numpy()
                levels, means = fitted(codes, label.cpu().numpy(), weight)
                self.levels[row] = torch.from_numpy(levels)
                self.level_means[row] = torch.from_numpy(means)
            super().fit_preprocessing(inputs, label, labels)

        def _spread(self, features: Tensor) -> Tensor:
            """features[B, F] → [B, F + COLUMNS · categories]."""
            codes = features[:, self.code_places]
            kept = torch.ones(features.shape[1], device=features.device).index_fill(0, self.code_places, 0.0)
            one_hot = (codes.unsqueeze(2) == self.levels).to(features.dtype)
            none = (codes == 0.0).to(features.dtype).unsqueeze(2)
            means = self.level_means[:, :-1] - self.level_means[:, -1:]
            mean = (one_hot * means).sum(dim=2, keepdim=True) + self.level_means[:, -1:]
            slots = one_hot[:, :, :SLOTS]
            other = 1.0 - slots.sum(dim=2, keepdim=True) - none
            return torch.cat([features * kept, torch.cat([slots, other, none, mean], dim=2).flatten(1)], dim=1)

    ReadingLevels.__name__ = f"{base.__name__}ReadingLevels"
    return ReadingLevels


def fitted(
    codes: NDArray[np.float32], label: NDArray[np.float32], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """codes[n], 0 for none, label[n] and what each row stands for → levels[LEVELS], means[LEVELS + 1]."""
    distinct, place = np.unique(codes, return_inverse=True)
    rows = np.bincount(place)
    total = np.bincount(place, weight)
    summed = np.bincount(place, weight * label)
    prior = summed.sum() / total.sum()

    frequent = np.argsort(-total, kind="stable")
    frequent = frequent[(rows[frequent] >= MIN_ROWS) & (distinct[frequent] != 0)][:LEVELS]
    means = (summed + PRIOR_ROWS * prior) / (total + PRIOR_ROWS)
    rest = np.setdiff1d(np.arange(len(distinct)), frequent)
    of_rest = (summed[rest].sum() + PRIOR_ROWS * prior) / (total[rest].sum() + PRIOR_ROWS)

    levels = np.full(LEVELS, UNUSED, np.float32)
    levels[: len(frequent)] = distinct[frequent]
    found = np.full(LEVELS + 1, of_rest, np.float32)
    found[: len(frequent)] = means[frequent]
    return levels, found


def _weights(label: Tensor, labels: Label, quantity: bool) -> NDArray[np.float64]:
    """[n] how many training rows each fitted one stands for: of classes all positives are fitted, of others a share."""
    if quantity:
        return np.ones(len(label))
    negative = float((labels != 1).sum()) / max(float((label != 1).sum()), 1.0)
    weight: NDArray[np.float64] = np.where(label.cpu().numpy() == 1, 1.0, negative)
    return weight
