"""What training, export and trees ask of a network, and how one learns by its task: a class, or a quantity.

A network takes raw inputs (`features[B, F]`, and `history[B, L, C]` where it reads one) and holds all preprocessing,
fitted on training rows only, so that the exported graph needs nothing beside it. The loop that trains it is
`components/train`, the served graph `components/optimise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from millrace.config import Config
from millrace.judge.ranking import Judged, average_precision
from millrace.tabular.layers import Encoding, Tower
from millrace.tabular.segments import class_edges, quantity_edges

FITTED_ROWS: Final = 50_000
"""Rows that scales and edges are taken from, about; of classes so many of the common one."""
MIN_ROWS: Final = 2
"""Below this many rows of a kind in a split there is nothing to learn from, or to stop by."""

Label = NDArray[Any]
"""Labels of rows: 0 or 1, or a quantity in its unit."""


@dataclass(frozen=True, slots=True)
class Watched:
    """The figure of the validation rows that tells which epoch is best."""

    name: str
    higher_is_better: bool

    def better(self, one: float, other: float) -> bool:
        return one > other if self.higher_is_better else one < other


class Network(nn.Module):
    """A network of some task; subclasses say what it computes and how it learns."""

    outputs: ClassVar[tuple[str, ...]]
    """What the served graph answers; the first is the score."""
    watched: ClassVar[Watched]
    sequence_length: int = 0
    """L: events of the past that it reads; 0: no history, `features` is its one input."""
    encoding: Encoding
    tower: Tower

    def __init__(self, architecture: Config, feature_names: Sequence[str]) -> None:
        super().__init__()
        self.architecture = architecture
        self.feature_names = tuple(feature_names)

    def columns(self, *inputs: Tensor) -> Tensor:
        """All scalars that the network encodes, the features first: [B, K]. Trees read them too."""
        return inputs[0]

    def forward(self, *inputs: Tensor) -> Tensor:
        """The mean of what the members say."""
        return self.member_outputs(*inputs).mean(dim=0)

    def member_outputs(self, *inputs: Tensor) -> Tensor:
        """What each member says: [M, B], or [M, B, outputs]. Training takes the loss of each, so they stay apart."""
        raise NotImplementedError

    def fit_preprocessing(self, inputs: Sequence[Tensor], label: Tensor, labels: Label) -> None:
        """Set scales, edges and where learning starts.

        `inputs` and label[n] are of the rows that `fitted_rows` chose; `labels` of all training rows.
        """
        raise NotImplementedError

    def loss(self, outputs: Tensor, label: Tensor, negative_share: float) -> Tensor:
        """Mean over rows and members of what `member_outputs` gave."""
        raise NotImplementedError

    @staticmethod
    def lacking(label: Label) -> str:
        """Why rows with these labels cannot be learned or stopped by; empty when they can."""
        raise NotImplementedError

    @staticmethod
    def fitted_rows(label: Label) -> NDArray[np.int64]:
        """Places of the training rows that preprocessing is fitted on."""
        raise NotImplementedError

    @staticmethod
    def epoch_rows(
        rows: NDArray[np.int64], label: Label, negative_share: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """The training rows that an epoch sees, shuffled: rows[R] with label[R]."""
        raise NotImplementedError

    @staticmethod
    def figure(label: Label, answers: NDArray[np.float64]) -> float:
        """The watched figure of rows: label[B], answers[B] of `forward` (its first output)."""
        raise NotImplementedError

    @classmethod
    def loss_of(cls, label: Label, answers: NDArray[np.float64]) -> float:
        """What is kept small where answers to serve are compared: how much of a network's, how much of trees'."""
        figure = cls.figure(label, answers)
        return -figure if cls.watched.higher_is_better else figure


class ClassNetwork(Network):
    """Inputs → logit[B]; its sigmoid is a probability. Learns from every positive and a share of the other rows."""

    outputs = ("score",)
    watched = Watched("average_precision", higher_is_better=True)

    @torch.no_grad()
    def fit_preprocessing(self, inputs: Sequence[Tensor], label: Tensor, labels: Label) -> None:
        self.encoding.fit(self.columns(*inputs), label, class_edges)
        rate = torch.tensor(int((labels == 1).sum()) / len(labels)).clamp(1e-4, 1 - 1e-4)
        self.tower.begin_at(float(torch.logit(rate)))

    def loss(self, outputs: Tensor, label: Tensor, negative_share: float) -> Tensor:
        # An epoch sees all positives but a share of the rest; this shift of the logit undoes it, for calibration.
        logits = outputs.float() - float(np.log(negative_share))
        return binary_cross_entropy_with_logits(logits, label.expand_as(logits))

    @staticmethod
    def lacking(label: Label) -> str:
        positives = int((label == 1).sum())
        if MIN_ROWS <= positives < len(label):
            return ""
        return f"hold {positives} positives among {len(label)}; wanted {MIN_ROWS} or more, and others"

    @staticmethod
    def fitted_rows(label: Label) -> NDArray[np.int64]:
        positive, other = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
        every = max(len(other) // FITTED_ROWS, 1)
        return np.sort(np.concatenate([positive, other[::every]]))

    @staticmethod
    def epoch_rows(
        rows: NDArray[np.int64], label: Label, negative_share: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        positive, other = rows[label == 1], rows[label == 0]
        kept = rng.choice(other, max(round(len(other) * negative_share), 1), replace=False)
        return rng.permutation(np.concatenate([positive, kept]))

    @staticmethod
    def figure(label: Label, answers: NDArray[np.float64]) -> float:
        unused = np.zeros(len(label), np.int64)
        rows = Judged(unused, unused, label == 1, unused.astype(np.float64), 1)
        return float(average_precision(rows, answers).item())


class QuantityNetwork(Network):
    """Inputs → [B, 3] in the label's unit: the median, and the low and high end of an interval around it.

    Learns quantiles by the pinball loss; ends are distances from the median, so they never cross it.
    """

    outputs = ("score", "low", "high")
    watched = Watched("mean_absolute_error", higher_is_better=False)
    middle: Tensor
    scale: Tensor

    def __init__(self, architecture: Config, feature_names: Sequence[str], coverage: float) -> None:
        super().__init__(architecture, feature_names)
        self.coverage = coverage
        """Share of labels that the interval is meant to hold."""
        self.register_buffer("middle", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def quantiles(self, raw: Tensor) -> Tensor:
        """raw[…, 3] of the tower → median, low, high in the label's unit."""
        median, below, above = raw.unbind(dim=-1)
        ends = median, median - softplus(below), median + softplus(above)
        return self.middle + self.scale * torch.stack(ends, dim=-1)

    @torch.no_grad()
    def fit_preprocessing(self, inputs: Sequence[Tensor], label: Tensor, labels: Label) -> None:
        self.encoding.fit(self.columns(*inputs), label, quantity_edges)
        low, middle, high = np.quantile(labels, [0.25, 0.5, 0.75]).tolist()
        self.middle.fill_(middle)
        self.scale.fill_(max(high - low, 1e-6))
        self.tower.begin_at(0.0)

    def loss(self, outputs: Tensor, label: Tensor, negative_share: float) -> Tensor:  # noqa: ARG002 - no negatives
        tail = (1.0 - self.coverage) / 2.0
        error = (label.unsqueeze(-1) - outputs.float()) / self.scale
        level = torch.tensor([0.5, tail, 1.0 - tail], device=error.device)
        return torch.maximum(level * error, (level - 1.0) * error).mean()

    @staticmethod
    def lacking(label: Label) -> str:
        if len(label) >= MIN_ROWS and np.ptp(label) > 0:
            return ""
        return f"hold {len(label)} labels, {len(np.unique(label))} of them different; wanted {MIN_ROWS} or more"

    @staticmethod
    def fitted_rows(label: Label) -> NDArray[np.int64]:
        return np.arange(0, len(label), max(len(label) // FITTED_ROWS, 1))

    @staticmethod
    def epoch_rows(
        rows: NDArray[np.int64],
        label: Label,  # noqa: ARG004 - every row is seen
        negative_share: float,  # noqa: ARG004
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        return rng.permutation(rows)

    @staticmethod
    def figure(label: Label, answers: NDArray[np.float64]) -> float:
        return float(np.nanmean(np.abs(label - answers)))

    @classmethod
    def loss_of(cls, label: Label, answers: NDArray[np.float64]) -> float:
        """Mean absolute error and root mean squared error together: both are asked of what is served."""
        return cls.figure(label, answers) + float(np.sqrt(np.nanmean((label - answers) ** 2)))
