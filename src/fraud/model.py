"""`model` of this workload: scalar features and the customer's last transactions in, one logit out.

What the network derives from the history is here; its layers, its preprocessing and how it learns are
`millrace.tabular`'s. Shapes: B rows, F features, L history steps, C channels (`fraud.features`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import torch
from pydantic import Field, StrictInt, model_validator
from torch import Tensor, nn

from fraud.formulas import NO_EVENT_DAYS, TYPICAL_WITHIN
from millrace.tabular import architecture
from millrace.tabular.boosting import BoostConfig
from millrace.tabular.layers import HistoryAttention
from millrace.tabular.network import ClassNetwork

TRAIN_CONFIG: Final = Path(__file__).with_name("train.yaml")
TREES: Final = BoostConfig()
"""Beside the network, over its own columns."""

DECAY_DAYS: Final = (0.5, 2.0, 7.0, 21.0)
"""Time constants with which the encoding of a past transaction fades; the patterns to find last 14 and 28 days."""

CAMPAIGN_DAYS: Final = 14.0
"""A compromised customer's large amounts are looked for this far back."""
LARGE: Final = 2.2
"""An amount of more than so many typical ones is large."""
DERIVED: Final = (
    "typical_amount",
    "typical_ratio",
    "large_count_14d",
    "largest_ratio_3d",
    "largest_ratio_14d",
    "days_since_large",
    "days_since_first_large",
)
"""What `derive` makes of the history: scalars that neither sums in SQL nor attention give, for they need a median."""


class Architecture(architecture.Architecture):
    """Everything that decides the shape of the weights."""

    sequence_length: StrictInt = Field(ge=1, le=512)
    """L: past transactions that the model reads, at most the history length N."""
    attended: StrictInt = Field(ge=1, le=512)
    """The newest of them that attention looks at; the rest only tell what is typical."""
    history_width: StrictInt = Field(ge=1, le=1024)
    """Units of the encoding of one past transaction; a multiple of `heads`."""
    heads: StrictInt = Field(ge=1, le=64)
    """Attention heads with which the current transaction reads its history."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.history_width % self.heads:
            raise ValueError(f"history_width {self.history_width} is not a multiple of heads {self.heads}")
        return self


def derive(features: Tensor, history: Tensor, amount: int) -> Tensor:
    """features[B, F], history[B, L, C], raw → [B, len(DERIVED)]: what is typical, and what departs from it.

    Typical is the mean of the past amounts within TYPICAL_WITHIN medians, so that somebody else's purchases do not
    raise it. `amount` is the place of the current amount among the features.
    """
    past, age, _, present = history.unbind(dim=2)
    now = features[:, amount]

    count = present.sum(dim=1)
    ordered = torch.sort(past + (1.0 - present) * 1e9, dim=1).values
    lower = torch.floor((count - 1.0).clamp(min=0.0) / 2.0).long().unsqueeze(1)
    upper = torch.floor(count / 2.0).clamp(max=history.shape[1] - 1.0).long().unsqueeze(1)
    median = 0.5 * (ordered.gather(1, lower) + ordered.gather(1, upper))
    typical = present * (past <= TYPICAL_WITHIN * median).to(past.dtype)
    usual = (past * typical).sum(dim=1) / typical.sum(dim=1).clamp(min=1.0)

    known = (count > 0).to(past.dtype)
    ratio = known * now / usual.clamp(min=0.5) + (1.0 - known)

    recent = present * (age < CAMPAIGN_DAYS).to(past.dtype)
    ratios = recent * past / usual.clamp(min=0.5).unsqueeze(1)
    large = (ratios > LARGE).to(past.dtype)
    columns = [
        usual,
        ratio,
        large.sum(dim=1),
        (ratios * (age < 3.0).to(past.dtype)).amax(dim=1),
        ratios.amax(dim=1),
        (age * large + (1.0 - large) * NO_EVENT_DAYS).amin(dim=1),
        (age * large - (1.0 - large)).amax(dim=1),
    ]
    return torch.stack(columns, dim=1)


class FraudModel(ClassNetwork):
    """features[B, F] float32, history[B, L, C] float32, both raw → logit[B]; its sigmoid is a probability."""

    def __init__(self, architecture: Architecture, feature_names: Sequence[str]) -> None:
        super().__init__(architecture, feature_names)
        self.sequence_length = architecture.sequence_length
        self.attended = architecture.attended
        self.encoding = architecture.encoding(len(feature_names) + len(DERIVED))
        self.query = nn.Linear(self.encoding.size, architecture.history_width)
        self.history = HistoryAttention(_TOKEN_CHANNELS, architecture.history_width, architecture.heads)
        self.tower = architecture.tower(self.encoding.size + 2 * architecture.history_width, 1)
        self._amount = self.feature_names.index("amount")
        self._usual = len(feature_names) + DERIVED.index("typical_amount")

    def member_outputs(self, *inputs: Tensor) -> Tensor:
        """What each member says: [M, B]."""
        features, history = inputs
        columns = self.columns(features, history)
        encoded = self.encoding(columns)
        tokens, present = self.tokens(columns, history[:, -self.attended :])
        past = self.history(tokens, self.query(encoded), present)
        logits: Tensor = self.tower(torch.cat([encoded, past], dim=1))
        return logits.squeeze(2)

    def columns(self, *inputs: Tensor) -> Tensor:
        """All scalars that the model encodes: `features`, then DERIVED; [B, F + len(DERIVED)]."""
        features, history = inputs
        return torch.cat([features, derive(features, history, self._amount)], dim=1)

    def tokens(self, columns: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of each past transaction, relative to now and to the customer: [B, L, T] and present[B, L]."""
        amount, age, risk, present = history.unbind(dim=2)
        usual = columns[:, self._usual].clamp(min=0.5).unsqueeze(1)
        now = columns[:, self._amount].clamp(min=0.0).unsqueeze(1)
        log_amount = torch.log1p(amount.clamp(min=0.0))
        age = age.clamp(min=0.0)

        channels = [
            0.5 * (log_amount - 3.0),
            log_amount - torch.log1p(now),
            log_amount - torch.log1p(usual),
            (amount / usual).clamp(max=8.0),
            torch.log1p(age) - 1.5,
            risk,
            torch.sqrt(risk.clamp(min=0.0) + 1e-6),
            *(torch.exp(-age / days) for days in DECAY_DAYS),
        ]
        return torch.stack(channels, dim=2) * present.unsqueeze(2), present


network = FraudModel

_TOKEN_CHANNELS: Final = 7 + len(DECAY_DAYS)
