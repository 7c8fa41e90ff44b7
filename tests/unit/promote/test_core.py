"""Who is let in, what is written, and that doing it again changes nothing."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.evaluate.core import find_model
from components.promote import core
from components.promote.core import PromoteConfig, promote
from millrace.errors import ArtifactCorrupt, ConfigError, GateBlocked, NotFound
from millrace.installed import load
from millrace.lake.feast_home import DATABASE, Fill, record_fill, repository
from millrace.lake.manifest import MANIFEST, Manifest
from millrace.registry.model_artifact import ModelArtifact
from millrace.registry.model_spec import GENERATION, generation_of
from millrace.registry.models import CHALLENGER, CHAMPION, Registry, served
from millrace.rollout import canary
from millrace.rollout import service as templates
from millrace.settings import Settings


@dataclass
class World:
    """A home in which models can be promoted."""

    settings: Settings
    config: PromoteConfig
    make_model: Callable[[str], Manifest]
    make_judgement: Callable[..., Manifest]

    def arguments(self, identity: str) -> dict[str, Any]:
        return {
            "model": self.make_model(identity),
            "evaluation": self.make_judgement("evaluation", {"model": identity}),
            "skew_check": self.skew(),
            "validation": self.validation(),
            "settings": self.settings,
            "config": self.config,
        }

    def skew(self) -> Manifest:
        shutil.rmtree(self.settings.lake / "skew_checks", ignore_errors=True)
        return self.make_judgement("skew_check", {"feature_set": "f1", "online_store": "o1"})

    def validation(self) -> Manifest:
        shutil.rmtree(self.settings.lake / "validations", ignore_errors=True)
        return self.make_judgement("validation", {"snapshot": "s1"})

    @property
    def registry(self) -> Registry:
        return Registry(self.settings)


@pytest.fixture
def world(
    settings: Settings,
    base_manifest: Path,
    make_model: Callable[[str], Manifest],
    make_judgement: Callable[..., Manifest],
) -> World:
    return World(settings, PromoteConfig(base_manifest=base_manifest, run_id="run-1"), make_model, make_judgement)


def test_the_first_model_becomes_champion_with_a_folder_and_a_manifest_of_its_own(world: World):
    promotion = promote(**world.arguments("m1"))

    assert promotion.facts["model_version"] == 1
    assert promotion.facts["alias"] == CHAMPION
    assert promotion.parents["model"] == "m1"
    folder = world.registry.folder(1)
    assert ModelArtifact.open(folder).id == "m1"
    assert (folder / "model_card.md").read_text().startswith("# fraud-detector, version 1")
    document = yaml.safe_load(world.registry.served_path.read_text())
    assert document["metadata"]["annotations"]["millrace.io/model-version"] == "1"
    assert document["spec"]["predictor"]["containers"][0]["env"] == [
        {"name": "STORAGE_URI", "value": folder.as_uri()},
        {"name": "MODEL_VERSION", "value": "1"},
    ]
    assert served(world.settings).artifact_id == "m1"


def test_a_later_model_becomes_challenger_and_the_champion_goes_on_serving(world: World):
    promote(**world.arguments("m1"))

    promotion = promote(**world.arguments("m2"))

    assert promotion.facts["alias"] == CHALLENGER
    assert served(world.settings).version == 1
    assert "versions" not in promotion.facts
    assert yaml.safe_load(promotion.path("inference_service.yaml").read_text())["metadata"]["annotations"] == {
        "millrace.io/model-version": "2"
    }
    assert world.registry.rendered_path(2).read_text() == promotion.path("inference_service.yaml").read_text()


def test_a_challenger_gets_its_share_at_once_where_the_setting_says_so(world: World):
    promote(**world.arguments("m1"))
    settings = world.settings.model_copy(update={"canary_percent": 10})

    promotion = promote(**world.arguments("m2") | {"settings": settings})

    document = yaml.safe_load(world.registry.served_path.read_text())
    assert document["spec"]["predictor"]["canaryTrafficPercent"] == 10
    assert canary.serving(document) == (2, world.registry.uri(2))
    assert served(world.settings).version == 1
    assert promotion.facts["alias"] == CHALLENGER
    assert world.registry.history()[-1]["action"] == "canary_started"


def test_whoever_asks_for_the_promotion_says_the_share_before_the_setting_does(world: World):
    promote(**world.arguments("m1"))
    settings = world.settings.model_copy(update={"canary_percent": 10})

    promote(**world.arguments("m2") | {"settings": settings, "config": PromoteConfig(canary_percent=25)})

    document = yaml.safe_load(world.registry.served_path.read_text())
    assert document["spec"]["predictor"]["canaryTrafficPercent"] == 25


def test_a_challenger_made_champion_is_served_with_its_own_manifest(world: World):
    promote(**world.arguments("m1"))
    promote(**world.arguments("m2"))

    world.registry.make_champion(2)

    assert served(world.settings).version == 2
    assert world.registry.served_path.read_text() == world.registry.rendered_path(2).read_text()


def test_promoting_the_same_model_again_gives_the_same_version(world: World):
    arguments = world.arguments("m1")
    first = promote(**arguments)
    audit = world.registry.audit_path.read_bytes()

    again = promote(**arguments)

    assert again == first
    assert [item.version for item in world.registry.versions()] == [1]
    assert world.registry.audit_path.read_bytes() == audit


def test_a_model_judged_anew_keeps_its_version(world: World):
    arguments = world.arguments("m1")
    first = promote(**arguments)

    again = promote(**arguments | {"evaluation": world.make_judgement("evaluation", {"model": "m1"}, value=0.9)})

    assert again.id != first.id
    assert again.facts["model_version"] == 1
    assert len(world.registry.versions()) == 1


def test_a_changed_base_manifest_reaches_the_champion(world: World, base_manifest: Path):
    arguments = world.arguments("m1")
    promote(**arguments)
    base_manifest.write_text(
        base_manifest.read_text(encoding="utf-8").replace("predictor:0.1.0", "predictor:0.2.0"), encoding="utf-8"
    )

    promote(**arguments)

    assert "predictor:0.2.0" in world.registry.served_path.read_text()
    assert len(world.registry.versions()) == 1


def test_the_version_remembers_where_it_came_from(world: World):
    promote(**world.arguments("m1"))

    tags = world.registry.version(1).tags

    assert tags["artifact_id"] == "m1"
    assert tags["snapshot"] == "s1"
    assert tags["trained_model"] == "trained"
    assert tags["evaluation"] == "evaluation-m1-1.0"
    record = world.registry.history()[-1]
    assert (record["action"], record["run"], record["snapshot"]) == ("promote", "run-1", "s1")
    assert record["verdicts"] == {"promote": True, "evaluation": True, "skew_check": True, "validation": True}


@pytest.mark.parametrize("kind", ["evaluation", "skew_check", "validation"])
@pytest.mark.parametrize("value", [0.4, None])
def test_a_failed_verdict_blocks_and_the_refusal_is_recorded(world: World, kind: str, value: float | None):
    arguments = world.arguments("m1")
    arguments[kind] = world.make_judgement(kind, arguments[kind].parents, value=value)

    with pytest.raises(GateBlocked, match="figure"):
        promote(**arguments)

    assert world.registry.versions() == []
    assert served(world.settings) is None
    record = world.registry.history()[-1]
    assert record["action"] == "refuse"
    assert record["artifact_id"] == "m1"
    assert record["verdicts"][kind] is False


@pytest.mark.parametrize(
    ("kind", "parents"),
    [
        ("evaluation", {"model": "m2"}),
        ("evaluation", {"training_set": "t1"}),
        ("skew_check", {"feature_set": "f2"}),
        ("skew_check", {}),
        ("validation", {"snapshot": "s2"}),
    ],
)
def test_a_verdict_about_something_else_blocks(world: World, kind: str, parents: dict[str, str]):
    arguments = world.arguments("m1")
    arguments[kind] = world.make_judgement(kind, parents, value=0.99)

    with pytest.raises(GateBlocked, match=f"{kind}_is_about_this"):
        promote(**arguments)

    assert world.registry.versions() == []


def test_a_verdict_edited_after_the_fact_is_found(world: World):
    arguments = world.arguments("m1")
    failed = world.make_judgement("evaluation", {"model": "m1"}, value=0.1)
    text = (failed.fetch() / "verdict.json").read_text()
    (failed.fetch() / "verdict.json").write_text(text.replace("0.1", "0.9"))

    with pytest.raises(ArtifactCorrupt, match=r"verdict\.json"):
        promote(**arguments | {"evaluation": failed})


def test_saying_passed_does_not_make_it_so(world: World):
    arguments = world.arguments("m1")
    failed = world.make_judgement("evaluation", {"model": "m1"}, value=0.1)

    assert failed.facts["passed"] is True
    with pytest.raises(GateBlocked):
        promote(**arguments | {"evaluation": failed})


def test_a_champion_that_the_lake_lost_is_found_in_the_registry(world: World):
    promote(**world.arguments("m1"))
    shutil.rmtree(world.settings.lake / "models")

    champion = find_model(world.settings, "m1")

    assert champion is not None
    assert champion.fetch() == world.registry.folder(1)
    champion.verify()
    assert find_model(world.settings, "") is None
    with pytest.raises(NotFound, match="no model m2"):
        find_model(world.settings, "m2")


def test_no_model_gets_in_without_a_verdict_on_its_data(world: World):
    arguments = world.arguments("m1")
    del arguments["validation"]

    with pytest.raises(TypeError, match="validation"):
        promote(**arguments)


def test_a_model_whose_file_changed_gets_no_version(world: World):
    arguments = world.arguments("m1")
    (arguments["model"].fetch() / "model.onnx").write_bytes(b"junk")

    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx"):
        promote(**arguments)

    assert world.registry.versions() == []


@pytest.mark.parametrize("step", ["copy_version", "inference_service", "_write", "write_text"])
def test_a_promotion_killed_between_steps_is_finished_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
):
    arguments = world.arguments("m1")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(core, step, killed)
    with pytest.raises(KeyboardInterrupt):
        promote(**arguments)
    monkeypatch.undo()

    promotion = promote(**arguments)

    assert promotion.facts["model_version"] == 1
    assert promotion.facts["alias"] == CHAMPION
    assert [item.version for item in world.registry.versions()] == [1]
    assert [record["action"] for record in world.registry.history()] == ["promote"]
    assert ModelArtifact.open(world.registry.folder(1)).id == "m1"


def test_a_version_is_never_written_to_again(world: World):
    arguments = world.arguments("m1")
    promote(**arguments)
    folder = world.registry.folder(1)
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_mode & 0o777) for path in folder.iterdir()}

    promote(
        **arguments | {"evaluation": world.make_judgement("evaluation", {"model": "m1"}, value=0.7, card="# Other")}
    )

    after = {path.name: (path.stat().st_mtime_ns, path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert after == before
    assert {mode for _, mode in after.values()} == {0o444}


def test_the_card_of_the_evaluation_is_kept(world: World):
    arguments = world.arguments("m1")
    arguments["evaluation"] = world.make_judgement("evaluation", {"model": "m1"}, value=0.8, card="## Limits\n\nMany.")

    promote(**arguments)

    assert "## Limits\n\nMany." in (world.registry.folder(1) / "model_card.md").read_text()


def test_on_a_cluster_the_model_store_has_another_name(world: World):
    settings = world.settings.model_copy(update={"model_store_uri": "pvc://millrace/serving/models/"})

    promotion = promote(**world.arguments("m1") | {"settings": settings})

    assert promotion.facts["model_uri"] == "pvc://millrace/serving/models/fraud-detector/1"


def test_a_base_manifest_of_another_shape_is_named(world: World, base_manifest: Path):
    base_manifest.write_text(
        base_manifest.read_text(encoding="utf-8").replace("STORAGE_URI", "MODEL_URI"), encoding="utf-8"
    )

    with pytest.raises(ConfigError, match="STORAGE_URI"):
        promote(**world.arguments("m1"))


def test_the_manifest_of_this_repository_can_be_rendered():
    text = core.inference_service(templates.inference_service(load("fraud")), 3, "file:///models/3")

    environment = {item["name"]: item for item in yaml.safe_load(text)["spec"]["predictor"]["containers"][0]["env"]}
    assert environment["STORAGE_URI"]["value"] == "file:///models/3"
    assert environment["MODEL_VERSION"]["value"] == "3"
    assert "&id" not in text


def test_a_version_names_the_generation_that_was_judged(world: World):
    promote(**world.arguments("m1"))

    assert generation_read(world, 1) == "g1"


def test_a_version_keeps_the_generation_that_it_reads_while_that_is_there(world: World):
    """Promoted again after another run has filled another one: what serves is not moved to it."""
    promote(**world.arguments("m1"))
    filled(world, "g1")

    core.give_state(world.registry.folder(1), world.settings.home, "fraud", "g2")

    assert generation_read(world, 1) == "g1"


def test_a_version_whose_generation_is_gone_reads_the_one_that_was_judged_last(world: World):
    promote(**world.arguments("m1"))
    shutil.rmtree(filled(world, "g1"))
    filled(world, "g2")

    core.give_state(world.registry.folder(1), world.settings.home, "fraud", "g2")

    assert generation_read(world, 1) == "g2"


def test_a_version_of_an_older_release_is_given_a_generation_when_it_is_promoted_again(world: World):
    promote(**world.arguments("m1"))
    folder = world.registry.folder(1)
    held = Manifest.lying_in(folder, "model")
    facts = {name: fact for name, fact in held.facts.items() if name != GENERATION}
    dataclasses.replace(held, facts=facts).write(folder / MANIFEST)
    assert generation_read(world, 1) == ""

    core.give_state(folder, world.settings.home, "fraud", "g2")

    assert generation_read(world, 1) == "g2"
    Manifest.lying_in(folder, "model").verify()


def generation_read(world: World, version: int) -> str:
    return generation_of(Manifest.lying_in(world.registry.folder(version), "model"))


def filled(world: World, generation: str) -> Path:
    """A generation of the home that holds states; its folder."""
    repo = repository(world.settings.home, "fraud", generation)
    repo.mkdir(parents=True)
    with closing(sqlite3.connect(repo / DATABASE)) as connection, connection:
        record_fill(connection, Fill("o1"))
    return repo
