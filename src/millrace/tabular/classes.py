"""A class learned from scalar features: the whole `model` part of a workload that takes it as it is.

from millrace.tabular.classes import TRAIN_CONFIG, TREES, Architecture, network
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from millrace.tabular.architecture import Architecture
from millrace.tabular.boosting import BoostConfig
from millrace.tabular.plain import PlainClassNetwork as network

__all__ = ["TRAIN_CONFIG", "TREES", "Architecture", "network"]

TRAIN_CONFIG: Final = Path(__file__).with_name("classes.yaml")
TREES: Final = BoostConfig()
