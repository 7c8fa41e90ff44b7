"""Envoy's settings (`envoy.yaml`), and how its parts are filled in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

SETTINGS: Final = Path(__file__).with_name("envoy.yaml")

Document = dict[str, Any]


@cache
def settings() -> Document:
    document: Document = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    return document


def filled(part: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a part of the settings; `$name` stands for a value, and a key whose value is None is left out."""
    if isinstance(part, dict):
        found = {key: filled(value, values) for key, value in part.items()}
        return {key: value for key, value in found.items() if value is not None}
    if isinstance(part, list):
        return [filled(value, values) for value in part]
    if isinstance(part, str) and part.startswith("$"):
        return values[part[1:]]
    return part
