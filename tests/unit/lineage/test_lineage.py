"""From a version, an artifact or a prediction down to the raw source."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from rich.console import Console

from millrace.errors import InvalidInput, NotFound
from millrace.registry.lineage import Node, trace, tree
from millrace.settings import Settings

from .conftest import FEATURES, MODEL, SNAPSHOT, TRAINED, TRAINING, write


def chain(node: Node) -> list[tuple[str, str]]:
    """The first line of descent."""
    return [(node.kind, node.id), *(chain(node.parents[0]) if node.parents else [])]


WHOLE = [
    ("model", MODEL),
    ("model", TRAINED),
    ("training_set", TRAINING),
    ("feature_set", FEATURES),
    ("snapshot", SNAPSHOT),
    ("source", "0123"),
]


@pytest.mark.parametrize("name", ["1", "v1", "champion"])
def test_a_version_is_followed_down_to_its_source(settings: Settings, name: str):
    node = trace(name, settings)

    assert chain(node) == [("model version", "1"), *WHOLE]
    assert node.facts["aliases"] == ["champion"]


def test_a_version_names_the_verdicts_that_let_it_in(settings: Settings):
    _, *verdicts = trace("1", settings).parents

    assert [(item.kind, item.facts.get("passed"), item.facts.get("gone")) for item in verdicts] == [
        ("evaluation", True, None),
        ("skew_check", None, True),
    ]


@pytest.mark.parametrize("place", range(5))
def test_every_artifact_on_the_way_can_be_asked_for(settings: Settings, place: int):
    _, identity = WHOLE[place]

    assert chain(trace(identity, settings)) == WHOLE[place:]


def test_the_start_of_an_id_is_enough(settings: Settings):
    assert trace("7a7a", settings).id == TRAINING


def test_the_start_of_several_ids_is_refused(settings: Settings):
    write(settings, "snapshot", "7a7a" + "0" * 12, {}, {})

    with pytest.raises(InvalidInput, match="start of 2 ids"):
        trace("7a7a", settings)


def test_code_and_configuration_are_shown(settings: Settings):
    model = trace(MODEL, settings)

    assert model.facts["code_version"] == "git:abc"
    assert model.facts["parameters"] == {"width": 128}
    assert model.facts["seeds"] == {"seed": 7}


def test_an_ancestor_that_was_cleaned_away_is_shown_as_gone(settings: Settings):
    shutil.rmtree(settings.lake / "models" / TRAINED)

    node = trace("1", settings).parents[0]

    assert [(item.kind, item.facts.get("gone")) for item in node.parents] == [("model", True), ("training_set", None)]


def test_a_promotion_is_followed_too(settings: Settings):
    node = trace("b0" * 8, settings)

    assert [item.kind for item in node.parents] == ["model", "evaluation", "skew_check"]


@pytest.mark.parametrize("name", ["nothing", "2", "v2", "challenger", "", "../..", "*", "5a", "ffffffff"])
def test_an_unknown_name_lists_what_there_is(settings: Settings, name: str):
    with pytest.raises(NotFound) as error:
        trace(name, settings)

    assert "model version: 1" in str(error.value)
    assert MODEL in str(error.value)
    assert "Predictions are not logged yet" in str(error.value)


def test_an_empty_home_says_so(tmp_path):
    with pytest.raises(NotFound, match="model version: none"):
        trace("1", Settings(home=tmp_path))


def test_a_prediction_is_followed_where_a_log_can_be_asked(settings: Settings):
    log = {"transaction-17": 1}

    node = trace("transaction-17", settings, log.get)

    assert chain(node) == [("prediction", "transaction-17"), ("model version", "1"), *WHOLE]
    with pytest.raises(NotFound, match="No prediction has that id either"):
        trace("transaction-18", settings, log.get)


def test_the_tree_and_the_json_say_the_same(settings: Settings):
    node = trace("1", settings)
    console = Console(width=200, record=True, file=None, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(tree(node))

    text, document = capture.get(), json.dumps(node.to_dict())

    for _, identity in WHOLE:
        assert identity in text
        assert identity in document
    assert "s3://bucket/tx.parquet" in text


def test_lineage_loads_neither_mlflow_nor_torch(settings: Settings):
    code = (
        "import sys\nfrom millrace.cli import main\nmain(['lineage', '1'])\n"
        "assert not {'mlflow', 'torch', 'kfp', 'feast', 'kserve'} & set(sys.modules)"
    )
    environment = {"MILLRACE_HOME": str(settings.home), "PATH": "/usr/bin"}

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)

    assert done.returncode == 0, done.stderr
    assert "s3://bucket/tx.parquet" in done.stdout
