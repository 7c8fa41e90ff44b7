"""Torch models that `benchmarks.variants` compares with the served one: pruned networks, and a small one.

All of them learn as students do, from scores and labels of training rows. None is served: docs/model.md says why.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import prune

from fraud.model import DERIVED, FraudModel
from millrace.lake.training_set import TrainingSet
from millrace.tabular.layers import Encoding, MemberLinear, Residual
from millrace.tabular.segments import class_edges

BATCH_ROWS = 512


@dataclass(frozen=True, slots=True)
class Exercise:
    """Training rows to learn from: rows[n] of `data`, target[n] in [0, 1]."""

    data: TrainingSet
    rows: NDArray[np.int64]
    target: NDArray[np.float32]
    length: int

    def batches(self, steps: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features, history and target of `steps` random batches."""
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            chosen = rng.integers(0, len(self.rows), BATCH_ROWS)
            features, history = self.data.batch(self.rows[chosen], self.length)
            yield torch.from_numpy(features), torch.from_numpy(history), torch.from_numpy(self.target[chosen])


class SmallNetwork(nn.Module):
    """features[B, F], history[B, L, C] → logit[B]: the teacher's columns, two small layers, no attention."""

    def __init__(self, teacher: FraudModel, bins: int = 16, width: int = 64) -> None:
        super().__init__()
        self._columns: Callable[..., Tensor] = teacher.columns
        count = len(teacher.feature_names) + len(DERIVED)
        self.encoding = Encoding(count, bins, embedding=0)
        self.body = nn.Sequential(
            nn.Linear(count * (bins + 1), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, features: Tensor, history: Tensor) -> Tensor:
        return self.body(self.encoding(self._columns(features, history))).squeeze(1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def fit_preprocessing(self, features: Tensor, history: Tensor, target: Tensor) -> None:
        self.encoding.fit(self._columns(features, history), (target > 0.5).float(), class_edges)
        last = self.body[-1]
        assert isinstance(last, nn.Linear)
        last.bias.fill_(float(torch.logit(target.mean())))


def learn(model: nn.Module, exercise: Exercise, steps: int, learning_rate: float) -> nn.Module:
    """Cross-entropy to the target, one cycle of the learning rate."""
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    for features, history, target in exercise.batches(steps):
        loss = binary_cross_entropy_with_logits(model(features, history), target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return model.eval()


def small_network(teacher: FraudModel, exercise: Exercise, steps: int) -> SmallNetwork:
    """Taught from scratch, so ten times as many steps as a pruned network gets; each costs a tenth."""
    model = SmallNetwork(teacher)
    features, history, target = (torch.cat(parts) for parts in zip(*exercise.batches(40, seed=1), strict=True))
    model.fit_preprocessing(features, history, target)
    learn(model, exercise, 10 * steps, 4e-3)
    return model


def pruned_by_magnitude(network: FraudModel, exercise: Exercise, steps: int, share: float = 0.8) -> FraudModel:
    """`share` of the weights of the large layers are zero: the smallest, over all layers; then fine-tuned."""
    model = copy.deepcopy(network)
    layers = [module for module in model.modules() if isinstance(module, MemberLinear)][:-1]
    prune.global_unstructured(
        [(layer, "weight") for layer in layers], pruning_method=prune.L1Unstructured, amount=share
    )
    learn(model, exercise, steps, 1e-3)
    for layer in layers:
        prune.remove(layer, "weight")
    return model


def pruned_by_unit(network: FraudModel, exercise: Exercise, steps: int, share: float = 0.5) -> FraudModel:
    """`share` of the hidden units of every residual block are gone: the weakest; fine-tuned, then cut out."""
    model = copy.deepcopy(network)
    pairs = [_layers(block) for block in model.modules() if isinstance(block, Residual)]
    for first, _ in pairs:
        prune.ln_structured(first, "weight", amount=share, n=2, dim=2)
    learn(model, exercise, steps, 1e-3)
    for first, second in pairs:
        prune.remove(first, "weight")
        cut_silent_units(first, second)
    return model


@torch.no_grad()
def cut_silent_units(first: MemberLinear, second: MemberLinear) -> None:
    """Take out the hidden units whose weights are all zero. They say a constant, which goes into the next bias."""
    kept = first.weight.abs().sum(dim=(0, 1)) > 0
    constant = nn.functional.gelu(first.bias[:, :, ~kept]) @ second.weight[:, ~kept]
    second.bias = nn.Parameter(second.bias + constant)
    second.weight = nn.Parameter(second.weight[:, kept])
    first.bias = nn.Parameter(first.bias[:, :, kept])
    first.weight = nn.Parameter(first.weight[:, :, kept])


def parameter_count(model: nn.Module) -> int:
    return sum(int((parameter != 0).sum()) for parameter in model.parameters())


def _layers(block: Residual) -> tuple[MemberLinear, MemberLinear]:
    first, second = (module for module in block.modules() if isinstance(module, MemberLinear))
    return first, second
