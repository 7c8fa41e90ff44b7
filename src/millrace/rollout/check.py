"""One figure against one limit, and the interval that says how sure a proportion is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

WILSON_Z: Final = 2.58
"""One-sided 0.5 %: figures are looked at many times during a step."""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure against one limit."""

    name: str
    value: float
    limit: float
    breached: bool
    note: str = ""
    """What else is known of it, in words."""
    overruled: bool = False
    """Something that knows better says that the canary is right: the figure neither stops nor delays it."""

    @property
    def passed(self) -> bool:
        return self.overruled or (not self.breached and self.value <= self.limit)

    def __str__(self) -> str:
        note = f", {self.note}" if self.note else ""
        return f"{self.name} {self.value:.4g} (limit {self.limit:.4g}{note})"


def wilson(hits: float, total: float, z: float = WILSON_Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927); (0, 1) for no trials."""
    if total <= 0:
        return 0.0, 1.0
    share = min(hits / total, 1.0)
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def difference(name: str, larger: tuple[float, float], smaller: tuple[float, float], limit: float) -> Check:
    """How far one share, (hits, total), lies above another; breached where their intervals are that far apart."""
    low, _ = wilson(*larger)
    _, high = wilson(*smaller)
    above = larger[0] / larger[1] - smaller[0] / smaller[1]
    return Check(name, above, limit, low - high > limit)
