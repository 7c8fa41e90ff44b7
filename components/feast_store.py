"""The feature store that a `feature_store.yaml` names: how the steps that fill and judge it open it and report it away.

Beside the components and not in src/millrace, which knows no Feast.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import yaml

from millrace.errors import ConfigError, NotFound, Unavailable
from millrace.lake.feast_home import project_of

if TYPE_CHECKING:
    from feast import FeatureStore


def opened(configuration: Path, workload: str, generation: str) -> FeatureStore:
    """The store of a workload's generation, which is a project of Feast's.

    Raises NotFound without the file, ConfigError when a variable that it names is not set.
    """
    if not configuration.is_file():
        raise NotFound(f"MILLRACE_FEATURE_STORE is {configuration}; there is no such file. Mount the ConfigMap there.")

    template = Template(configuration.read_text(encoding="utf-8"))
    known = os.environ | {"MILLRACE_WORKLOAD": workload}
    unset = sorted(name for name in template.get_identifiers() if not known.get(name))
    if unset:
        raise ConfigError(
            f"{configuration} wants {', '.join(unset)} in the environment; set them, or check the secrets"
        )
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    config = RepoConfig(**project_of(yaml.safe_load(template.safe_substitute(known)), generation))
    config.repo_path = configuration.parent
    return FeatureStore(config=config)


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
