"""A workload under another name: found in the home, refused where it cannot be, and whole wherever it travels."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml

from millrace import installed
from millrace.errors import ConfigError
from millrace.events.prediction import told_of
from millrace.installed import declare, load, names, workload_of
from millrace.rollout.service import inference_service, objects
from millrace.settings import Settings, settings
from millrace.variants.document import VARIABLE

MINE = {"name": "mine", "base": "fraud"}
WITH_OWN = MINE | {"features": {"age": {"column": "device_age_days", "kind": "numeric"}}}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    return tmp_path


def test_a_declared_name_is_a_workload_with_a_model_of_its_own(home: Path) -> None:
    declare(MINE, home)

    mine, base = load("mine"), load("fraud")

    assert "mine" in names()
    assert mine.model_name == "mine"
    assert mine.schema.FIELDS == base.schema.FIELDS
    assert mine.features.FEATURE_SERVICE == base.features.FEATURE_SERVICE
    assert settings("mine").model_name == "mine"


def test_settings_of_another_home_know_its_names(tmp_path: Path, home: Path) -> None:
    other = tmp_path / "other"
    declare(MINE | {"name": "my_own"}, other)

    assert Settings(home=other, workload="my_own").model_name == "my-own"


def test_another_home_does_not_know_a_name(home: Path, tmp_path: Path) -> None:
    declare(MINE, tmp_path / "other")

    with pytest.raises(ConfigError, match="there is no workload 'mine'"):
        load("mine")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (MINE | {"name": "fraud"}, "is a workload's that is installed"),
        (MINE | {"name": "fraud_detector"}, "would be the model of 'fraud'"),
        (MINE | {"name": "Mine"}, "name is 'Mine'"),
        (MINE | {"name": "../mine"}, "name is '../mine'"),
        (MINE | {"base": "nothing"}, "begins from 'nothing', which is not installed"),
        (MINE | {"colour": "red"}, "colour is 'red'"),
        (MINE | {"features": {"age": {"kind": "number"}}}, "features.age.kind is 'number'"),
    ],
)
def test_a_document_that_says_something_else_is_refused_and_nothing_is_kept(
    home: Path, content: dict[str, object], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        declare(content, home)

    assert not (home / "workloads").exists()


def test_what_is_no_document_is_named(home: Path) -> None:
    (home / "workloads").mkdir()
    (home / "workloads" / "mine.json").write_text('{"name": "mi')

    with pytest.raises(ConfigError, match=r"mine\.json is no JSON"):
        load("mine")


def test_a_process_without_a_home_gets_the_document_from_its_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = yaml.safe_load(inference_service(declare(MINE, home / "elsewhere")))

    (container,) = rendered["spec"]["transformer"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    monkeypatch.setenv(VARIABLE, environment[VARIABLE])

    assert load(environment["MILLRACE_WORKLOAD"]).document == declare(MINE, home).document


def test_the_objects_of_a_package_have_no_document() -> None:
    assert not [name for name, text in objects(load("fraud")).items() if VARIABLE in text]


def test_a_model_says_whose_it_is_without_a_home(home: Path) -> None:
    description = {"workload": "mine", "variant": MINE}

    assert workload_of(description).base is load("fraud")  # type: ignore[attr-defined]


def test_a_variant_travels_between_processes_with_its_document(home: Path, tmp_path: Path) -> None:
    mine = declare(MINE, tmp_path / "elsewhere")

    assert pickle.loads(pickle.dumps(mine)).document == mine.document


def test_names_stay_those_of_packages_where_nothing_is_declared(home: Path) -> None:
    assert names() == installed.package_names()


def test_events_of_a_model_that_serves_are_read_by_the_document_that_it_was_trained_with(home: Path) -> None:
    before = declare(WITH_OWN, home).features.FEATURE_SERVICE
    declare(MINE | {"features": {"chip": {"kind": "boolean"}}}, home)

    assert "age" in told_of("mine", before).fields
    assert "age" not in told_of("mine").fields
    assert "chip" in told_of("mine").fields
