"""Every overlay builds, and the API server would take every object: no unknown field, no warning, no wrong value."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jsonschema.protocols import Validator

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir())
WITHOUT_SCHEMA = {"security.istio.io"}
"""Groups whose schemas are not at hand; their objects are looked at by eye."""
CLUSTER_SCOPED = {"Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding"}

Object = dict[str, Any]


def name_of(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def pod_specs(items: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod that the objects lead to, with where it stands."""
    for item in items:
        where, spec = name_of(item), item.get("spec", {})
        if item["kind"] in {"Deployment", "StatefulSet"}:
            yield where, spec["template"]["spec"]
        elif item["kind"] == "CronJob":
            yield where, spec["jobTemplate"]["spec"]["template"]["spec"]
        elif item["kind"] == "InferenceService":
            for part in ("predictor", "transformer", "explainer"):
                if part in spec:
                    yield f"{where} {part}", spec[part]


@cache
def validator(api_version: str, kind: str, schemas: Path) -> Validator | None:
    group, _, version = api_version.rpartition("/")
    path = schemas / f"{kind.lower()}-{group or 'core'}-{version}.json"
    if group in WITHOUT_SCHEMA:
        return None
    assert path.is_file(), f"no schema for {api_version} {kind}"
    return jsonschema.Draft7Validator(json.loads(path.read_text()))


def complaints(items: list[Object], schemas: Path) -> list[str]:
    found = []
    for item in items:
        checks = validator(item["apiVersion"], item["kind"], schemas)
        if checks is not None:
            found += [f"{name_of(item)} {e.json_path}: {e.message[:200]}" for e in checks.iter_errors(item)]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_object_has_a_field_that_the_api_server_does_not_know(overlays, overlay, schemas):
    assert complaints(overlays[overlay], schemas) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_fits_the_base(component, build, schemas):
    assert complaints(build(component), schemas) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_object_is_there_twice_and_each_says_its_namespace(overlays, overlay):
    objects = overlays[overlay]

    assert [name for name, count in Counter(map(name_of, objects)).items() if count > 1] == []
    outside = {name_of(o) for o in objects if o["metadata"].get("namespace") != "millrace"}
    assert {name.split("/")[0] for name in outside} <= CLUSTER_SCOPED


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_fit_what_kserve_makes_of_them(overlays, overlay):
    for item in overlays[overlay]:
        if item["kind"] == "InferenceService":
            name, space = item["metadata"]["name"], item["metadata"]["namespace"]
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
            assert all(len(f"{name}-{part}-{space}") <= 63 for part in ("predictor", "transformer", "explainer"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_passes_the_restricted_pod_security_standard(overlays, overlay):
    for where, spec in pod_specs(overlays[overlay]):
        pod = spec.get("securityContext", {})
        for container in spec["containers"] + spec.get("initContainers", []):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, where
            assert own["capabilities"] == {"drop": ["ALL"]}, where
            assert own["readOnlyRootFilesystem"] is True, where
            assert (pod | own)["runAsNonRoot"] is True, where
            assert (pod | own)["runAsUser"] > 0, where
            assert (pod | own)["seccompProfile"]["type"] == "RuntimeDefault", where
        for volume in spec.get("volumes", []):
            assert volume.keys() <= {"name", "emptyDir", "configMap", "secret", "persistentVolumeClaim"}, where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_says_what_it_needs_and_how_to_ask_whether_it_is_well(overlays, overlay):
    for where, spec in pod_specs(overlays[overlay]):
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), where
            assert "memory" in container["resources"]["limits"], where
            if not where.startswith("CronJob"):
                assert {"readinessProbe", "livenessProbe"} <= container.keys(), where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_that_need_no_token_of_the_api_server_have_none(overlays, overlay):
    with_token = {where for where, spec in pod_specs(overlays[overlay]) if spec["automountServiceAccountToken"]}

    assert with_token == {"Deployment/rollout"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_knative_gets_no_field_that_it_refuses_unless_its_feature_is_switched_on(overlays, overlay):
    features = yaml.safe_load((MANIFESTS / "platform" / "knative" / "config-features.yaml").read_text())["data"]
    flags = {
        "affinity": "kubernetes.podspec-affinity",
        "nodeSelector": "kubernetes.podspec-nodeselector",
        "tolerations": "kubernetes.podspec-tolerations",
        "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
        "securityContext": "kubernetes.podspec-securitycontext",
        "initContainers": "kubernetes.podspec-init-containers",
        "priorityClassName": "kubernetes.podspec-priorityclassname",
    }
    never = {"terminationGracePeriodSeconds", "activeDeadlineSeconds", "hostname", "subdomain", "deploymentStrategy"}
    for item in overlays[overlay]:
        annotations = item["metadata"].get("annotations", {})
        if annotations.get("serving.kserve.io/deploymentMode") != "Knative":
            continue
        for where, spec in pod_specs([item]):
            assert not never & spec.keys(), where
            assert {flag for field, flag in flags.items() if field in spec and features.get(flag) != "enabled"} == set()
            for container in spec["containers"]:
                assert "lifecycle" not in container, f"{where}: the queue proxy drains; Knative refuses preStop"
                assert len(container["ports"]) == 1, where


def test_a_canary_is_only_asked_of_knative(overlays):
    for objects in overlays.values():
        for item in objects:
            if "canaryTrafficPercent" in item.get("spec", {}).get("predictor", {}):
                assert item["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"


def test_a_typo_in_a_manifest_is_found(overlays, schemas):
    service = next(copy.deepcopy(o) for o in overlays["kind"] if o["kind"] == "InferenceService")
    service["spec"]["predictor"]["minReplica"] = 1

    assert any("minReplica" in text for text in complaints([service], schemas))


def test_every_file_holds_one_object_and_is_named_after_it():
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        if path.name == "kustomization.yaml" or ".patch." in path.name or "examples" in path.parts:
            continue
        documents = [d for d in yaml.safe_load_all(path.read_text()) if d]
        assert len(documents) == 1, path
        item = documents[0]
        if "kind" in item:
            names = {
                item["kind"].lower(),
                item["metadata"]["name"],
                f"{item['kind'].lower()}-{item['metadata']['name']}",
            }
            assert path.stem in names, path


def test_every_manifest_is_listed_by_the_kustomization_beside_it():
    for path in sorted(MANIFESTS.rglob("kustomization.yaml")):
        text = path.read_text()
        for sibling in path.parent.glob("*.yaml"):
            if sibling != path and "kind" in (yaml.safe_load(sibling.read_text()) or {}):
                assert re.search(rf"[ /\[]{re.escape(sibling.name)}", text), sibling


def test_no_secret_is_written_into_a_manifest(overlays):
    for objects in overlays.values():
        assert [name_of(o) for o in objects if o["kind"] == "Secret"] == []
        for where, spec in pod_specs(objects):
            for container in spec["containers"]:
                for variable in container.get("env", []):
                    secret = re.search(r"(PASSWORD|TOKEN|SECRET|_KEY)$", variable["name"])
                    assert not secret or "value" not in variable, f"{where} {variable['name']}"
