"""A component's YAML file as a typed object: unknown keys, wrong types and missing files are named, not guessed.

The models (pydantic, frozen) live with their components; hyper-parameters and limits belong there, settings of a
deployment in `millrace.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from millrace.errors import ConfigError


class Config(BaseModel):
    """Base of a component's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: Path, *overrides: Mapping[str, Any] | None) -> C:
    """Read `path` as a `kind`; later `overrides` win over earlier ones and the file, inside a mapping key by key.

    Raises ConfigError naming file, key, value and what was wanted.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for layer in overrides:
            for key, value in _whole(layer or {}).items():
                both = isinstance(value, Mapping) and isinstance(document.get(key), Mapping)
                document[key] = {**document[key], **value} if both else value
        return kind(**document)
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration at {path}. Name an existing YAML file.") from error
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a mapping of settings: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))} is {item['input']!r}: {item['msg']}" for item in error.errors()]
        raise ConfigError(f"{path}: {'; '.join(lines)}") from error


def read_layer(path: Path) -> dict[str, Any]:
    """A YAML file that changes settings of another: empty where it says nothing; raises ConfigError for no mapping."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration at {path}. Name an existing YAML file.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not a mapping of settings: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a mapping of settings: it holds {document!r}")
    return document


def _whole(value: Any) -> Any:
    """A pipeline parameter brings every number as a float; a whole one becomes an integer again."""
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
