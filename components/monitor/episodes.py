"""Decay as episodes: it begins once, lasts while a rule of decay fails, and ends after calm reports. No I/O.

A report goes on from the one before it. An episode is a model version's: with another one serving, everything is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Final

BEGAN, LASTS, ENDED = "began", "lasts", "ended"
CALM_REPORTS: Final = 3
"""Reports in a row without decay that end an episode; of a version that serves no more it ends at once."""

Episodes = dict[str, dict[str, Any]]
"""Version → {"since": the day of the report that began it, "calm": reports since decay was last found}."""


def follow(
    before: Mapping[str, Mapping[str, Any]], decayed: Iterable[str], serving: Iterable[str], day: date
) -> Episodes:
    """The episodes that are open after a report of `day` that found these versions decayed."""
    found, still = set(decayed), set(serving)
    after: Episodes = {}
    for version in sorted(found | (before.keys() & still)):
        calm = 0 if version in found else int(before[version]["calm"]) + 1
        if calm < CALM_REPORTS:
            after[version] = {"since": before.get(version, {}).get("since", str(day)), "calm": calm}
    return after


def state(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What there is to tell: an episode that began, one that lasts, one that ended, or nothing (empty)."""
    if after.keys() - before.keys():
        return BEGAN
    if before.keys() - after.keys():
        return ENDED
    return LASTS if after else ""
