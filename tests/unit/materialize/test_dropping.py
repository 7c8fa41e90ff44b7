"""Which generations of state are dropped: what nobody reads and nobody wrote for a day, and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from components.materialize.dropping import IDLE_S, drop_unused
from millrace.installed import load
from millrace.lake.atomic import exclusive
from millrace.lake.feast_home import generations, repository
from millrace.lake.manifest import Manifest, hash_files
from millrace.registry.generations import generations_in_use, in_use
from millrace.registry.model_spec import GENERATION
from millrace.registry.models import Registry
from millrace.rollout import canary
from millrace.rollout import service as templates
from millrace.settings import Settings

LONG_AGO_S = IDLE_S + 60


@pytest.fixture
def settings(tmp_path: Path, with_database: Callable[[Path], Settings]) -> Settings:
    return with_database(tmp_path)


@pytest.fixture
def admit(settings: Settings) -> Callable[[str], int]:
    """`admit(generation)`: a version that reads it is let in → its number."""

    def make(generation: str) -> int:
        registry = Registry(settings)
        version = registry.register(f"model-of-{generation}", {}).version
        folder = registry.folder(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_text(generation)
        files, facts = hash_files(folder), {GENERATION: generation}
        Manifest(kind="model", id=generation, workload="fraud", uri=str(folder), files=files, facts=facts).write()
        document = canary.pointed(
            yaml.safe_load(templates.inference_service(load("fraud"))), version, registry.uri(version)
        )
        registry.rendered_path(version).write_text(yaml.safe_dump(document))
        return registry.admit(version).version

    return make


@pytest.fixture
def fill(settings: Settings) -> Callable[..., Path]:
    """`fill(generation, idle_s=…)`: a generation that was last written so long ago."""

    def make(generation: str, idle_s: float = LONG_AGO_S) -> Path:
        repo = repository(settings.home, "fraud", generation)
        repo.mkdir(parents=True)
        for name in ("feature_store.yaml", "online_store.db"):
            (repo / name).write_text("states")
            os.utime(repo / name, (time.time() - idle_s,) * 2)
        return repo

    return make


def test_what_nobody_reads_is_dropped_a_day_after_it_was_last_written(
    settings: Settings, fill: Callable[..., Path]
) -> None:
    fill("old"), fill("young", idle_s=IDLE_S - 600)
    renewed = fill("renewed")
    (renewed / "online_store.db").write_text("states of today")

    dropped = drop_unused(settings)

    assert dropped == ["old"]
    assert generations(settings.home, "fraud") == ["renewed", "young"]


def test_what_an_alias_reads_is_kept_however_old_and_goes_with_its_last_alias(
    settings: Settings, admit: Callable[[str], int], fill: Callable[..., Path]
) -> None:
    """Champion, challenger and previous champion: the last, so that a rollback finds its state."""
    registry = Registry(settings)
    for name in ("first", "second", "third", "nobodys"):
        fill(name)
    admit("first")
    registry.make_champion(admit("second"))
    admit("third")

    assert drop_unused(settings) == ["nobodys"]
    assert generations_in_use(settings) == {"first", "second", "third"}

    registry.make_champion(3)

    assert drop_unused(settings) == ["first"]
    assert generations(settings.home, "fraud") == ["second", "third"]


@pytest.mark.parametrize("progressing", [True, False])
def test_what_a_revision_with_traffic_reads_is_kept_without_an_alias(
    settings: Settings, admit: Callable[[str], int], fill: Callable[..., Path], progressing: bool
) -> None:
    """Both of a canary that goes on; of one that ended, what the InferenceService names."""
    registry = Registry(settings)
    admit("stable")
    document = yaml.safe_load(registry.served_path.read_text())
    document = canary.started(document, (2, registry.uri(2)), 10, time.time())
    for name in ("canary", "unserved"):
        admit(name)
    if not progressing:
        document = canary.promoted(document, time.time(), "a test")
    registry.served_path.write_text(yaml.safe_dump(document))
    registry.make_champion(3)  # writes what it serves: the split is put back, as a cluster still has it
    registry.served_path.write_text(yaml.safe_dump(document))
    assert 2 not in registry.aliases().values()
    for name in ("stable", "canary", "unserved"):
        fill(name)

    assert drop_unused(settings) == []
    assert generations_in_use(settings) == {"stable", "canary", "unserved"}


def test_one_that_is_being_filled_is_left_alone(settings: Settings, fill: Callable[..., Path]) -> None:
    repo = fill("under-way")
    fill("free")

    with exclusive(repo / ".lock", "filling generation under-way"):
        os.utime(repo / ".lock", (time.time() - LONG_AGO_S,) * 2)
        dropped = drop_unused(settings)

    assert dropped == ["free"]
    assert (repo / "online_store.db").is_file()


def test_another_workloads_generations_are_no_business_of_this_one(
    settings: Settings, fill: Callable[..., Path]
) -> None:
    fill("old")

    assert drop_unused(settings.model_copy(update={"workload": "trips", "model_name": "trip-duration"})) == []
    assert generations(settings.home, "fraud") == ["old"]


def test_a_version_of_an_older_release_names_no_generation_and_one_without_a_copy_reads_none(
    settings: Settings, admit: Callable[[str], int]
) -> None:
    registry = Registry(settings)
    admit("")
    admit("gone")
    (registry.folder(2) / "manifest.json").unlink()

    assert [(one.version, one.generation) for one in in_use(settings)] == [(1, "")]
    assert generations_in_use(settings) == set()
