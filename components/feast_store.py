"""The feature store that a `feature_store.yaml` names: how the steps that fill and judge it open it and report it away.

Beside the components and not in src/millrace, which knows no Feast.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from millrace.errors import ConfigError, NotFound, Unavailable

if TYPE_CHECKING:
    from feast import FeatureStore


def opened(configuration: Path) -> FeatureStore:
    """Raises NotFound without the file, ConfigError when a variable that it names is not set."""
    if not configuration.is_file():
        raise NotFound(f"MILLRACE_FEATURE_STORE is {configuration}; there is no such file. Mount the ConfigMap there.")
    unset = sorted(name for name in re.findall(r"\$\{(\w+)\}", configuration.read_text()) if not os.environ.get(name))
    if unset:
        raise ConfigError(
            f"{configuration} wants {', '.join(unset)} in the environment; set them, or check the secrets"
        )
    from feast import FeatureStore

    return FeatureStore(fs_yaml_file=configuration)


@contextmanager
def answering(configuration: Path) -> Iterator[None]:
    """Turns a server that is away, or refuses, into Unavailable."""
    from redis.exceptions import RedisError
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except (RedisError, OperationalError) as error:
        reason = str(error).splitlines()[0]
        raise Unavailable(
            f"the feature store of {configuration} does not answer: {reason}. "
            "Is the server up, are address and password those of FEAST_REDIS and FEAST_REGISTRY_URL?"
        ) from error
