"""The model registry: numbered versions in MLflow, and which of them is champion, challenger and previous champion.

A change of aliases is written down as an intent first, then applied, then recorded in the audit log
(`millrace.registry.audit`): whoever comes next finishes what a killed process began. The champion's rendered
InferenceService is what serving reads. `served` answers without loading MLflow, which
`millrace.registry.version_store` wraps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from millrace.errors import InvalidInput, NotFound
from millrace.lake import feast_home
from millrace.lake.atomic import exclusive, write_text
from millrace.lake.manifest import Manifest
from millrace.registry import audit
from millrace.registry.model_spec import generation_of
from millrace.registry.version_store import ARTIFACT_TAG, ModelVersion, VersionStore
from millrace.rollout import canary
from millrace.settings import Settings

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
ALIASES: Final = (CHAMPION, CHALLENGER, PREVIOUS)


class Registry:
    """The versions of one model (`Settings.model_name`) and their aliases."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.model_name
        self.home = settings.home.resolve()
        self._store = VersionStore(settings.model_name, settings.tracking_uri)
        self._store_uri = settings.model_store_uri
        self._workload = settings.workload
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

    def uri(self, version: int) -> str:
        """The version's folder as serving knows it: what STORAGE_URI says."""
        folder = self.folder(version)
        if not self._store_uri:
            return folder.as_uri()
        return f"{self._store_uri.rstrip('/')}/{self.name}/{version}"

    def rendered_path(self, version: int) -> Path:
        """The InferenceService that serves this version."""
        return self.folder(version).with_suffix(".yaml")

    # Reading

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first; empty before the first registration."""
        return self._store.versions()

    def version(self, number: int) -> ModelVersion:
        """The version of that number; raises NotFound listing those there are."""
        return self._store.version(number)

    def aliases(self) -> dict[str, int]:
        """The given ones of ALIASES → version number."""
        return {alias: number for alias, number in self._store.aliases().items() if alias in ALIASES}

    def find(self, artifact_id: str) -> ModelVersion | None:
        """The version made from that `model` artifact."""
        return next((item for item in self.versions() if item.artifact_id == artifact_id), None)

    def current(self, alias: str) -> ModelVersion | None:
        """The version that carries `alias` now."""
        return next((item for item in self.versions() if alias in item.aliases), None)

    def history(self) -> list[dict[str, Any]]:
        """The audit records of this model, oldest first."""
        return [record for record in audit.read(self.audit_path) if record.get("model") == self.name]

    def was_rejected(self, version: int) -> bool:
        """Whether a canary of it was rolled back since it was last let in."""
        about = [item for item in self.history() if item.get("to_version") == version]
        return bool(about) and about[-1]["action"] == "reject"

    @property
    def settled(self) -> bool:
        """False while a change that was begun is not finished."""
        return not self._intent_path.is_file()

    # Writing

    def register(self, artifact_id: str, tags: Mapping[str, str], run_id: str | None = None) -> ModelVersion:
        """The version of an artifact, a new number where it has none yet. Nothing is served by this."""
        with self._lock():
            found = self.find(artifact_id)
            if found is not None:
                return found
            number = self._store.create(self.uri, {**tags, ARTIFACT_TAG: artifact_id}, run_id)
        return self.version(number)

    def admit(self, version: int, **fields: Any) -> ModelVersion:
        """Give a new version its place: champion if there is none, else challenger.

        Admitting it again moves no alias; where it is champion, its InferenceService is published again, since that may
        have been rendered anew. `fields` go into the audit record: run, snapshot, verdicts, reason.
        """
        with self._lock():
            self._settle()
            before = self.aliases()

            if CHAMPION not in before or not self.was_admitted(version):
                alias = CHALLENGER if before.get(CHAMPION, version) != version else CHAMPION
                self._apply("promote", version, before, before | {alias: version}, fields)
            elif before[CHAMPION] == version and not self._canary_under_way():
                self._publish(version)

        return self.version(version)

    def was_admitted(self, version: int) -> bool:
        """Whether the audit log says so; needs no MLflow."""
        return any(item["action"] == "promote" and item["to_version"] == version for item in self.history())

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

    def start_canary(self, version: int, percent: int) -> bool:
        """Give `version` that share of the traffic in the served manifest; False when a canary is under way already."""
        with self._lock():
            if self._canary_under_way():
                return False
            document = yaml.safe_load(self.served_path.read_text(encoding="utf-8"))
            changed = canary.started(document, (version, self.uri(version)), percent, time.time())
            write_text(self.served_path, yaml.safe_dump(changed, sort_keys=False, width=120))
        self.note("canary_started", canary_version=version, percent=percent, reason="promoted")
        return True

    def reject(self, version: int, reason: str, **fields: Any) -> None:
        """Take the challenger's alias from a version whose canary was rolled back; again, it does nothing."""
        with self._lock():
            self._settle()
            before = self.aliases()
            if before.get(CHAMPION) == version:
                raise InvalidInput(
                    f"version {version} is the champion; wanted a challenger. Go back with: make rollback"
                )

            if before.get(CHALLENGER) == version or not self.was_rejected(version):
                after = {alias: number for alias, number in before.items() if (alias, number) != (CHALLENGER, version)}
                self._apply("reject", version, before, after, {"reason": reason, **fields})

    def note(self, action: str, **fields: Any) -> None:
        """Record a step that moved traffic and no alias."""
        record = audit.new_record(action, model=self.name, **fields)
        with self._lock():
            audit.append(self.audit_path, record)

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
        if self.settled:
            return None
        record: dict[str, Any] = json.loads(self._intent_path.read_text(encoding="utf-8"))
        self._carry_out(record)
        return record

    def _carry_out(self, record: dict[str, Any]) -> None:
        """Aliases, served manifest, audit line. Every step may be repeated."""
        now = self.aliases()
        for alias in ALIASES:
            wanted = record["aliases"].get(alias)
            if wanted is None and alias in now:
                self._store.delete_alias(alias)
            elif wanted is not None and wanted != now.get(alias):
                self._store.set_alias(alias, wanted)

        champion = record["aliases"][CHAMPION]
        if champion != record["from_version"]:
            self._publish(champion)

        audit.append(self.audit_path, record)
        self._intent_path.unlink()

    def _publish(self, version: int) -> None:
        """Make the version's InferenceService the served one; a file that says so already is left alone."""
        text = self.rendered_path(version).read_text(encoding="utf-8")
        if not self.served_path.is_file() or self.served_path.read_text(encoding="utf-8") != text:
            write_text(self.served_path, text)
        generation = generation_of(Manifest.lying_in(self.folder(version), "model"))
        if generation:
            feast_home.show(self.home, self._workload, generation)

    def _canary_under_way(self) -> bool:
        """Whether the served manifest holds a canary, which publishing the champion again would end."""
        document = yaml.safe_load(self.served_path.read_text(encoding="utf-8")) if self.served_path.is_file() else None
        rollout = canary.read(document) if isinstance(document, dict) else None
        return rollout is not None and rollout.progressing

    def _require_whole(self, version: int) -> None:
        """Raise NotFound or ArtifactCorrupt unless the version can be served from its own folder."""
        folder = self.folder(version)
        if not self.rendered_path(version).is_file():
            raise NotFound(f"no InferenceService at {self.rendered_path(version)}. Promote that model again.")
        model = Manifest.lying_in(folder, "model")
        model.verify()
        generation = generation_of(model)
        there = feast_home.generations(self.home, self._workload)
        if generation and there and generation not in there:
            raise NotFound(
                f"version {version} reads generation {generation} of state, which was dropped when no version with an "
                "alias read it any more. Run the pipeline that made it again, which fills it: make run."
            )


@dataclass(frozen=True, slots=True)
class Served:
    """What the served InferenceService names."""

    version: int
    uri: str
    artifact_id: str


def served(settings: Settings) -> Served | None:
    """What is served from this home, or None before the first promotion; during a canary, the stable version.

    For readers that need not pay for MLflow.
    """
    registry = Registry(settings)
    if not registry.served_path.is_file():
        return None
    document = yaml.safe_load(registry.served_path.read_text(encoding="utf-8"))
    version = canary.stable_version(document)
    return Served(version, registry.uri(version), Manifest.read(registry.folder(version), "model").id)
