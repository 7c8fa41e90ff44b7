"""Which generation of state (`millrace.lake.feast_home`) a model version reads, and which generations anybody reads.

`promote` writes it into the manifest of the version's own copy of the model; the predictor tells it to whoever makes
its inputs. Asked without loading MLflow: aliases are read from the audit log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from millrace.lake.manifest import MANIFEST, Manifest
from millrace.registry.model_spec import ModelSpec, generation_of
from millrace.registry.models import Registry
from millrace.rollout import canary
from millrace.settings import Settings


@dataclass(frozen=True, slots=True)
class InUse:
    """A model version that serves, or may at once: by an alias, or by a revision."""

    version: int
    generation: str
    """Empty of a version that an older release promoted."""
    model: Manifest

    @property
    def feature_service(self) -> str:
        return ModelSpec.read(Path(self.model.uri)).feature_service


def in_use(settings: Settings) -> list[InUse]:
    """The versions with an alias, and those that the served InferenceService names."""
    registry = Registry(settings)
    found = []
    for version in sorted({*_by_alias(registry), *_by_traffic(registry)}):
        folder = registry.folder(version)
        if (folder / MANIFEST).is_file():
            model = Manifest.lying_in(folder, "model")
            found.append(InUse(version, generation_of(model), model))
    return found


def generations_in_use(settings: Settings) -> set[str]:
    """The generations that nobody may fill anew or drop."""
    return {one.generation for one in in_use(settings) if one.generation}


def _by_alias(registry: Registry) -> Iterator[int]:
    records: list[dict[str, Any]] = [record for record in registry.history() if "aliases" in record]
    if records:
        yield from records[-1]["aliases"].values()


def _by_traffic(registry: Registry) -> Iterator[int]:
    """Stable and newest revision of what is served."""
    if not registry.served_path.is_file():
        return
    document = yaml.safe_load(registry.served_path.read_text(encoding="utf-8"))
    rollout = canary.read(document)
    if rollout is not None:
        yield from (rollout.stable, rollout.canary) if rollout.progressing else (rollout.stable,)
    newest = canary.serves(document)
    if newest is not None:
        yield newest
