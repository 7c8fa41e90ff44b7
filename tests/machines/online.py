"""A request and its states → features; no view is recent."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from millrace.inputs import Requests, States


def model_inputs(
    requests: Requests, states: States, *, history_length: int, sequence_length: int
) -> tuple[np.ndarray[Any, Any], None]:
    return inputs(requests.values["heat"], requests.values["load"], states.refreshed), None


def inputs(heat: Any, load: Any, states: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """A load that was not measured counts as none."""
    age = states["machine_state"][:, 0] + 2 * states["post_state"][:, 0]
    return np.stack([heat, np.nan_to_num(load), age], axis=1).astype(np.float32)
