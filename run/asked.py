"""What a run is asked with, checked before anything is computed: acceptances, changed limits, hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.evaluate.config import load_limits
from components.validate.config import ValidateConfig
from millrace.installed import Workload
from millrace.judge.explained import require_known


def require_valid(workload: Workload, arguments: Mapping[str, Any]) -> None:
    """Raises InvalidInput for a rule that no gate has, ConfigError for a key or a value that a step would refuse."""
    require_known(workload, arguments.get("accept", {}))
    profile = arguments.get("profile", "")
    load_limits(workload, arguments.get("evaluate_overrides"), profile=profile)
    ValidateConfig.load(workload, arguments.get("validate_overrides"), profile=profile)
    if changed := arguments.get("train_overrides"):
        from components.train.core import read_config  # torch

        read_config(workload, **changed)
