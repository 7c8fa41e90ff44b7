"""What figures, units and the test window are called on the page and the model card; each task adds its own words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from millrace.judge.bootstrap import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What things are called, whatever the task."""

    figures: Mapping[str, str]
    """Figures and other models, by the names that they have in JSON."""
    units: str
    window: str
    """The test window, such as "test week"."""

    def name(self, figure: str) -> str:
        """What a figure, or another model, is called."""
        return self.figures.get(figure, spaced(figure))

    def titled(self, figure: str) -> str:
        """The name of a figure, with its unit where it has one."""
        return self.name(figure)


def spaced(name: str) -> str:
    """A name as people write it: `no_state` → `no state`."""
    return name.replace("_", " ")


def span(found: Interval) -> str:
    """The ends of an interval; a dash where it has none."""
    return f"{found.low:.3f} to {found.high:.3f}" if math.isfinite(found.low) else "–"
