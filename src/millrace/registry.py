"""The model registry: numbered versions in MLflow, and which of them is champion, challenger and previous champion.

A change of aliases is written down as an intent first, then applied, then recorded in the audit log (`millrace.audit`):
whoever comes next finishes what a killed process began. The champion's rendered InferenceService is what serving reads.
MLflow (2.5 s to import) is loaded by the first call that needs it; `served` needs none.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from millrace import audit
from millrace.artifacts import Manifest
from millrace.atomic import exclusive, write_text
from millrace.errors import NotFound, Unavailable
from millrace.settings import Settings

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
ALIASES: Final = (CHAMPION, CHALLENGER, PREVIOUS)

ARTIFACT_TAG: Final = "artifact_id"
VERSION_ANNOTATION: Final = "millrace.io/model-version"


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


class Registry:
    """The versions of one model (`Settings.model_name`) and their aliases."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.model_name
        self.home = settings.home.resolve()
        self._uri = settings.tracking_uri
        self._serving = self.home / "serving"

    # Places

    @property
    def audit_path(self) -> Path:
        return self.home / "audit.jsonl"

    @property
    def served_path(self) -> Path:
        """The InferenceService of the champion."""
        return self._serving / f"{self.name}.yaml"

    def folder(self, version: int) -> Path:
        """The version's own copy of the model; never written to again."""
        return self._serving / "models" / self.name / str(version)

    def rendered_path(self, version: int) -> Path:
        """The InferenceService that serves this version."""
        return self.folder(version).with_suffix(".yaml")

    # Reading

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first; empty before the first registration."""
        found = self._client.search_model_versions(f"name='{self.name}'")
        aliases = self.aliases()
        versions = [_version(item, aliases) for item in found]
        return sorted(versions, key=lambda item: item.version, reverse=True)

    def aliases(self) -> dict[str, int]:
        """Alias → version number."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: int(version) for alias, version in found.items() if alias in ALIASES}

    def version(self, number: int) -> ModelVersion:
        """The version of that number; raises NotFound listing those there are."""
        versions = self.versions()
        for item in versions:
            if item.version == number:
                return item
        there = ", ".join(str(item.version) for item in versions) or "none; promote a model first"
        raise NotFound(f"{self.name} has no version {number}. Versions there are: {there}")

    def find(self, artifact_id: str) -> ModelVersion | None:
        """The version made from that `model` artifact."""
        return next((item for item in self.versions() if item.artifact_id == artifact_id), None)

    def current(self, alias: str) -> ModelVersion | None:
        """The version that carries `alias` now."""
        return next((item for item in self.versions() if alias in item.aliases), None)

    def history(self) -> list[dict[str, Any]]:
        """The audit records of this model, oldest first."""
        return [record for record in audit.read(self.audit_path) if record.get("model") == self.name]

    # Writing

    def register(self, artifact_id: str, tags: Mapping[str, str], run_id: str | None = None) -> ModelVersion:
        """The version of an artifact, a new number where it has none yet. Nothing is served by this."""
        with self._lock():
            found = self.find(artifact_id)
            if found is not None:
                return found
            self._ensure_model()
            tags = dict(tags) | {ARTIFACT_TAG: artifact_id}
            number = self._claim_number(tags, run_id)
        return self.version(number)

    def admit(self, version: int, **fields: Any) -> ModelVersion:
        """Give a new version its place: champion if there is none, else challenger. Admitting it again changes nothing.

        `fields` go into the audit record: run, snapshot, verdicts, reason.
        """
        with self._lock():
            self._settle()
            if not any(item["action"] == "promote" and item["to_version"] == version for item in self.history()):
                before = self.aliases()
                alias = CHALLENGER if before.get(CHAMPION, version) != version else CHAMPION
                self._apply("promote", version, before, before | {alias: version}, fields)
        return self.version(version)

    def make_champion(self, version: int, reason: str = "") -> ModelVersion:
        """Serve `version`; the champion until now becomes `previous`. Nothing happens when it is champion already."""
        with self._lock():
            self._settle()
            self.version(version)
            before = self.aliases()
            if before.get(CHAMPION) != version:
                after = {alias: number for alias, number in before.items() if number != version}
                after |= {CHAMPION: version} | ({PREVIOUS: before[CHAMPION]} if CHAMPION in before else {})
                self._apply("make_champion", version, before, after, {"reason": reason})
        return self.version(version)

    def rollback(self, reason: str = "") -> ModelVersion:
        """Swap champion and previous champion; raises NotFound when there is no previous one.

        When a rollback was killed half way, this finishes it and swaps no second time.
        """
        with self._lock():
            settled = self._settle()
            if settled is not None and settled["action"] == "rollback":
                return self.version(settled["to_version"])
            before = self.aliases()
            if CHAMPION not in before or PREVIOUS not in before:
                raise NotFound(f"{self.name} has no previous champion to go back to; its aliases are {before}")
            after = before | {CHAMPION: before[PREVIOUS], PREVIOUS: before[CHAMPION]}
            self._apply("rollback", before[PREVIOUS], before, after, {"reason": reason})
        return self.version(after[CHAMPION])

    def refuse(self, artifact_id: str, **fields: Any) -> None:
        """Record that an artifact was not let in."""
        record = audit.new_record("refuse", model=self.name, artifact_id=artifact_id, **fields)
        with self._lock():
            audit.append(self.audit_path, record)

    # How a change is made

    @property
    def _intent_path(self) -> Path:
        return self.home / f"{self.name}.intent.json"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with exclusive(self.home / "registry.lock", f"a change to the registry of {self.name}"):
            yield

    def _apply(
        self, action: str, version: int, before: dict[str, int], after: dict[str, int], fields: Mapping[str, Any]
    ) -> None:
        """Check, write the intent, carry it out."""
        self._require_whole(version)
        record = audit.new_record(
            action,
            model=self.name,
            from_version=before.get(CHAMPION),
            to_version=version,
            artifact_id=self.version(version).artifact_id,
            aliases=after,
            **fields,
        )
        write_text(self._intent_path, json.dumps(record))
        self._carry_out(record)

    def _settle(self) -> dict[str, Any] | None:
        """Finish a change that was begun and not finished; its record, or None when there is none."""
        if not self._intent_path.is_file():
            return None
        record: dict[str, Any] = json.loads(self._intent_path.read_text())
        self._carry_out(record)
        return record

    def _carry_out(self, record: dict[str, Any]) -> None:
        """Aliases, served manifest, audit line. Every step may be repeated."""
        now = self.aliases()
        for alias in ALIASES:
            wanted = record["aliases"].get(alias)
            if wanted is None and alias in now:
                self._client.delete_registered_model_alias(self.name, alias)
            elif wanted is not None and wanted != now.get(alias):
                self._client.set_registered_model_alias(self.name, alias, str(wanted))
        champion = record["aliases"][CHAMPION]
        if champion != record["from_version"] or not self.served_path.is_file():
            write_text(self.served_path, self.rendered_path(champion).read_text())
        audit.append(self.audit_path, record)
        self._intent_path.unlink()

    def _require_whole(self, version: int) -> None:
        """Raise NotFound or ArtifactCorrupt unless the version can be served from its own folder."""
        folder = self.folder(version)
        if not self.rendered_path(version).is_file():
            raise NotFound(f"no InferenceService at {self.rendered_path(version)}. Promote that model again.")
        replace(Manifest.read(folder, "model"), uri=str(folder)).verify()

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _claim_number(self, tags: dict[str, str], run_id: str | None) -> int:
        """Register with the folder of the number to come; another home may take that number first, then try again."""
        number = max((item.version for item in self.versions()), default=0) + 1
        while True:
            uri = self.folder(number).as_uri()
            made = self._client.create_model_version(self.name, source=uri, run_id=run_id, tags=tags)
            if int(made.version) == number:
                return number
            self._client.delete_model_version(self.name, made.version)
            number = int(made.version) + 1

    @cached_property
    def _client(self) -> Any:
        return _mlflow_client(self._uri)


def served(settings: Settings) -> tuple[int, str] | None:
    """Version number and folder URI of what is served here, from the rendered InferenceService; None before the first.

    For readers that need not pay for MLflow.
    """
    path = settings.home / "serving" / f"{settings.model_name}.yaml"
    if not path.is_file():
        return None
    document = yaml.safe_load(path.read_text())
    environment = document["spec"]["predictor"]["containers"][0]["env"]
    uri = next(item["value"] for item in environment if item["name"] == "STORAGE_URI")
    return int(document["metadata"]["annotations"][VERSION_ANNOTATION]), str(uri)


def _version(item: Any, aliases: Mapping[str, int]) -> ModelVersion:
    from datetime import UTC, datetime

    number = int(item.version)
    return ModelVersion(
        name=item.name,
        version=number,
        source=item.source,
        created_at=datetime.fromtimestamp(item.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        aliases=tuple(alias for alias, target in aliases.items() if target == number),
        tags=dict(item.tags),
    )


def _mlflow_client(uri: str) -> Any:
    """An MLflow client, its tables made; raises Unavailable when the database or server does not answer."""
    parts = urlsplit(uri)
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # MLflow's own models use an option that SQLAlchemy has deprecated.
        warnings.simplefilter("ignore")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            if parts.scheme == "sqlite":
                Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
        except (MlflowException, OSError) as error:
            place = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"  # never the password
            raise Unavailable(f"the model registry at {place} does not answer. Is the server up?") from error
