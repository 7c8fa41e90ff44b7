"""The InferenceService is valid for the API server, and says what both homes need."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from millrace.installed import load
from millrace.rollout.service import inference_service

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(os.environ.get("MILLRACE_SCHEMAS", ROOT.parent / "shared" / "schemas"))


@pytest.fixture
def service() -> dict[str, Any]:
    return yaml.safe_load(inference_service(load("fraud")))


@pytest.fixture
def schema() -> dict[str, Any]:
    path = SCHEMAS / "inferenceservice-serving.kserve.io-v1beta1.json"
    if not path.is_file():
        pytest.skip(f"no KServe schema at {path}; set MILLRACE_SCHEMAS to the folder that holds it")
    return json.loads(path.read_text())


def containers(service: dict[str, Any]) -> list[dict[str, Any]]:
    return [service["spec"][part]["containers"][0] for part in ("predictor", "transformer")]


def test_the_inference_service_is_accepted_by_the_full_crd(service, schema):
    errors = [f"{e.json_path}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(service)]

    assert errors == []


def test_the_schema_refuses_a_field_that_kserve_does_not_have(service, schema):
    service["spec"]["predictor"]["canaryPercent"] = 10

    with pytest.raises(jsonschema.ValidationError, match="canaryPercent"):
        jsonschema.validate(service, schema)


def test_the_service_runs_in_knative_mode_because_standard_mode_ignores_canaries(service):
    assert service["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"


def test_the_containers_have_the_one_name_that_kserve_accepts(service):
    assert [container["name"] for container in containers(service)] == ["kserve-container"] * 2


def test_every_container_runs_unprivileged_on_a_read_only_file_system(service):
    for container in containers(service):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_container_says_what_it_needs_and_how_to_ask_whether_it_is_ready(service):
    for container in containers(service):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/fraud-detector/ready"


def test_the_predictor_has_the_places_that_promotion_fills(service):
    names = {variable["name"] for variable in containers(service)[0]["env"]}

    assert {"STORAGE_URI", "MODEL_VERSION"} <= names
    assert "millrace.io/model-version" in service["metadata"]["annotations"]


def test_no_secret_is_written_into_the_manifest(service):
    for container in containers(service):
        for variable in container["env"]:
            assert "value" not in variable or not variable["name"].endswith(("_KEY", "_TOKEN", "_PASSWORD"))
