"""What optimising a model comes to, whatever its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from millrace.tabular.rows import Floats


@dataclass(frozen=True, slots=True)
class Decided:
    """Files are written by then; this is what is said of them."""

    document: dict[str, Any]
    """What `model.json` gains: `served_file`, what was measured as `optimisation`, and what the task has besides."""
    scores: Floats
    """[V] of the validation rows as they will be served: the reference that drift is judged by."""
