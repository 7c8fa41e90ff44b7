"""The platform's network and trees for a quantity, as they are."""

from millrace.tabular.quantity import TRAIN_CONFIG, TREES, Architecture, network

__all__ = ["TRAIN_CONFIG", "TREES", "Architecture", "network"]
