"""A part of a workload with something else in it: a variant's parts, or a schema that asks less of a source."""

from __future__ import annotations

from typing import Any


class Extended:
    """What is given here, and else what the base has."""

    def __init__(self, base: Any, **given: Any) -> None:
        self.__dict__.update(given)
        self._base = base

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_base":
            raise AttributeError(name)
        return getattr(self._base, name)
