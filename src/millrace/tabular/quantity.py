"""A quantity and its interval learned from scalar features: the whole `model` part of a workload that takes it so.

from millrace.tabular.quantity import TRAIN_CONFIG, TREES, Architecture, network
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from millrace.tabular.boosting import ABSOLUTE_ERROR, BoostConfig
from millrace.tabular.plain import PlainQuantityNetwork as network
from millrace.tabular.plain import QuantityArchitecture as Architecture

__all__ = ["TRAIN_CONFIG", "TREES", "Architecture", "network"]

TRAIN_CONFIG: Final = Path(__file__).with_name("quantity.yaml")
TREES: Final = BoostConfig(
    objective=ABSOLUTE_ERROR,
    rounds=400,
    depth=7,
    learning_rate=0.07,
    min_child_weight=20.0,
    negative_share=1.0,
    refit=True,
)
