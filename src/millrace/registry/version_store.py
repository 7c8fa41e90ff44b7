"""Numbered versions of one registered model and their aliases, as MLflow keeps them; rules are in `registry.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from millrace.errors import NotFound
from millrace.registry.mlflow_home import mlflow_client

ARTIFACT_TAG: Final = "artifact_id"
"""Tag that names the `model` artifact a version is a copy of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """One numbered version of the registered model."""

    name: str
    version: int
    source: str
    """URI of its own folder."""
    created_at: str
    """ISO time of registration."""
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def artifact_id(self) -> str:
        """Id of the `model` artifact it is a copy of."""
        return self.tags.get(ARTIFACT_TAG, "")


class VersionStore:
    """The registered model `name` in the MLflow at `tracking_uri`."""

    def __init__(self, name: str, tracking_uri: str) -> None:
        self.name = name
        self._uri = tracking_uri

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first; empty before the first registration."""
        found = self.client.search_model_versions(f"name='{self.name}'")
        aliases = self.aliases()
        return sorted((_version(item, aliases) for item in found), key=lambda item: item.version, reverse=True)

    def version(self, number: int) -> ModelVersion:
        """The version of that number; raises NotFound listing those there are."""
        versions = self.versions()
        for item in versions:
            if item.version == number:
                return item
        there = ", ".join(str(item.version) for item in versions) or "none; promote a model first"
        raise NotFound(f"{self.name} has no version {number}. Versions there are: {there}")

    def aliases(self) -> dict[str, int]:
        """Alias → version number."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: int(number) for alias, number in found.items()}

    def set_alias(self, alias: str, number: int) -> None:
        self.client.set_registered_model_alias(self.name, alias, str(number))

    def delete_alias(self, alias: str) -> None:
        self.client.delete_registered_model_alias(self.name, alias)

    def create(self, uri_of: Callable[[int], str], tags: Mapping[str, str], run_id: str | None) -> int:
        """A new version whose source is `uri_of` its own number; answers the number.

        MLflow hands the number out with the source already given: another home may take the one that was expected,
        or a deleted version have had it. Then that version is withdrawn and the next number tried.
        """
        self._ensure_model()
        number = max((item.version for item in self.versions()), default=0) + 1

        while True:
            made = self.client.create_model_version(self.name, source=uri_of(number), run_id=run_id, tags=dict(tags))
            if int(made.version) == number:
                return number
            self.client.delete_model_version(self.name, made.version)
            number = int(made.version) + 1

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @cached_property
    def client(self) -> Any:
        """`mlflow.MlflowClient`, the tables made; raises Unavailable when there is no such database or server."""
        return mlflow_client(self._uri)


def _version(item: Any, aliases: Mapping[str, int]) -> ModelVersion:
    number = int(item.version)
    return ModelVersion(
        name=item.name,
        version=number,
        source=item.source,
        created_at=datetime.fromtimestamp(item.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        aliases=tuple(alias for alias, target in aliases.items() if target == number),
        tags=dict(item.tags),
    )
