"""A compiled package is checked before it is sent."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from millrace.errors import InvalidInput, NotFound
from run.compile import COMPILED, PIPELINES
from run.ir import problems, read_package
from run.package import Package


@pytest.fixture(scope="module")
def training():
    return read_package(COMPILED / "training.yaml")


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_every_committed_package_is_sound(name):
    assert problems(*read_package(COMPILED / f"{name}.yaml")) == []


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_every_step_carries_labels_home_and_resources(name):
    spec, platform = read_package(COMPILED / f"{name}.yaml")

    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    for executor, definition in spec["deploymentSpec"]["executors"].items():
        assert placed[executor]["pvcMount"][0]["constant"] == "millrace-home"
        assert placed[executor]["podMetadata"]["labels"]["app.kubernetes.io/part-of"] == "millrace"
        resources = definition["container"]["resources"]
        assert {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"} <= resources.keys()


def test_no_secret_is_in_a_package_by_value():
    for name in PIPELINES:
        _, platform = read_package(COMPILED / f"{name}.yaml")
        executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for placed in executors.values():
            for secret in placed["secretAsEnv"]:
                assert secret.keys() <= {"keyToEnv", "optional", "secretName", "secretNameParameter"}


def _break_component(spec):
    spec["root"]["dag"]["tasks"]["train"]["componentRef"]["name"] = "comp-trian"


def _break_executor(spec):
    spec["components"]["comp-train"]["executorLabel"] = "exec-gone"


def _break_type(spec):
    outputs = spec["components"]["comp-train"]["outputDefinitions"]["artifacts"]
    outputs["model"]["artifactType"]["schemaTitle"] = "system.Modle"


def _break_parameter(spec):
    spec["root"]["dag"]["tasks"]["ingest"]["inputs"]["parameters"]["source"] = {"componentInputParameter": "sorce"}


def _break_producer(spec):
    artifacts = spec["root"]["dag"]["tasks"]["train"]["inputs"]["artifacts"]
    artifacts["training_set"]["taskOutputArtifact"]["outputArtifactKey"] = "gone"


def _drop_input(spec):
    del spec["root"]["dag"]["tasks"]["train"]["inputs"]["artifacts"]["training_set"]


def _add_input(spec):
    spec["root"]["dag"]["tasks"]["train"]["inputs"].setdefault("parameters", {})["extra"] = {}


def _untag_image(spec):
    spec["deploymentSpec"]["executors"]["exec-train"]["container"]["image"] = "registry:5000/millrace/pipeline"


def _wait_for_nothing(spec):
    spec["root"]["dag"]["tasks"]["train"].setdefault("dependentTasks", []).append("never")


@pytest.mark.parametrize(
    ("break_", "named"),
    [
        (_break_component, "comp-trian"),
        (_break_executor, "exec-gone"),
        (_break_type, "system.Modle"),
        (_break_parameter, "sorce"),
        (_break_producer, "gone"),
        (_drop_input, "lacks artifact 'training_set'"),
        (_add_input, "'extra'"),
        (_untag_image, "neither tag nor digest"),
        (_wait_for_nothing, "never"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(training, break_, named):
    spec = copy.deepcopy(training[0])

    break_(spec)

    assert any(named in problem for problem in problems(spec, training[1]))


def test_platform_settings_of_an_unknown_executor_are_named(training):
    platform = copy.deepcopy(training[1])
    platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-ghost"] = {}

    assert problems(training[0], platform) == ["platform settings for executor 'exec-ghost', which is not there"]


@pytest.mark.parametrize("text", ["", "a: [", "hello", "pipelineInfo: {name: x}\nunknownField: 1\n"])
def test_what_is_not_a_package_is_refused(tmp_path: Path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)

    with pytest.raises(InvalidInput, match="make compile"):
        read_package(path)


def test_a_package_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(NotFound, match="make compile"):
        Package.read(tmp_path / "p.yaml")


def test_the_version_follows_the_content(tmp_path):
    one, same, other = tmp_path / "1.yaml", tmp_path / "2.yaml", tmp_path / "3.yaml"
    text = (COMPILED / "training.yaml").read_text()
    one.write_text(text)
    same.write_text(text)
    spec, platform = yaml.safe_load_all(text)
    spec["pipelineInfo"]["description"] = "another"
    other.write_text(yaml.safe_dump_all([spec, platform]))

    assert Package.read(one).version == Package.read(same).version != Package.read(other).version


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--param source="),
        ({"sorce": "x"}, "no parameter 'sorce'; it takes"),
        ({"source": "x", "train_days": "many"}, "wanted JSON for its type NUMBER_INTEGER"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_sent(given, message):
    with pytest.raises(InvalidInput, match=message):
        Package.read(COMPILED / "training.yaml").arguments(given)


def test_parameters_get_their_types():
    package = Package.read(COMPILED / "training.yaml")

    arguments = package.arguments(
        {"source": "s3://lake/x", "train_days": "56", "columns": '{"columns": {"amount": "a"}}'}
    )

    assert arguments == {"source": "s3://lake/x", "train_days": 56, "columns": {"columns": {"amount": "a"}}}
