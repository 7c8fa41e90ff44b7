"""What one manifest says of another, or of the code, is so: images, ports, selectors, keys, addresses, settings."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.settings import Settings
from serving.drift_detector.settings import DriftSettings

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.name for path in (MANIFESTS / "overlays").iterdir())
VERSION = "0.1.0"
OF_KFP = {"ml-pipeline": {8888}}
"""Services that Kubeflow Pipelines brings into the namespace, and their ports."""
OF_KFP_ACCOUNTS = {"pipeline-runner", "default-editor"}
ELSEWHERE = {"prometheus-operated.monitoring": {9090}}

Object = dict[str, Any]
pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def named(objects: list[Object], kind: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[tuple[str, dict[str, str], Object]]:
    """Every pod that the objects lead to: where it stands, its labels, its spec."""
    for item in objects:
        where = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] in {"Deployment", "StatefulSet"}:
            template = item["spec"]["template"]
            yield where, template["metadata"]["labels"], template["spec"]
        elif item["kind"] == "CronJob":
            template = item["spec"]["jobTemplate"]["spec"]["template"]
            yield where, template["metadata"]["labels"], template["spec"]
        elif item["kind"] == "InferenceService":
            for part in ("predictor", "transformer"):
                if part in item["spec"]:
                    name = item["metadata"]["name"]
                    own = {"serving.kserve.io/inferenceservice": name, "component": part}
                    labels = item["metadata"].get("labels", {}) | own  # KServe hands the object's labels on
                    knative = item["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative"
                    extra = {"serving.knative.dev/service": f"{name}-{part}", "serving.knative.dev/revision": "any"}
                    yield f"{where} {part}", labels | (extra if knative else {}), item["spec"][part]


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for where, _, spec in pods(objects):
        yield from ((where, container) for container in spec["containers"])


def matches(selector: Object, labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for rule in selector.get("matchExpressions") or []:
        value = labels.get(rule["key"])
        if value is None or (rule["operator"] == "In" and value not in rule["values"]):
            return False
    return True


def example_secrets() -> dict[str, set[str]]:
    files = (MANIFESTS / "platform" / "secrets.example").glob("millrace-*.yaml")
    return {(found := yaml.safe_load(path.read_text()))["metadata"]["name"]: set(found["stringData"]) for path in files}


def test_every_image_of_ours_is_a_target_of_the_dockerfile_and_every_other_is_pinned(overlays, overlay):
    targets = set(re.findall(r"^FROM runtime AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M))

    for where, container in containers(overlays[overlay]):
        name, _, tag = container["image"].rpartition(":")
        if "millrace/" in name:
            assert name.rsplit("/", 1)[1] in targets, where
            assert tag == VERSION, where
        else:
            assert re.match(r"\d+\.\d+", tag), f"{where}: {container['image']}"


def test_every_reference_to_a_config_map_secret_volume_or_account_leads_somewhere(overlays, overlay):
    objects = overlays[overlay]
    config_maps, claims, accounts = (
        named(objects, k) for k in ("ConfigMap", "PersistentVolumeClaim", "ServiceAccount")
    )
    secrets = example_secrets()

    for where, _, spec in pods(objects):
        assert spec["serviceAccountName"] in accounts, where
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for volume in volumes.values():
            assert volume.get("configMap", {}).get("name", next(iter(config_maps))) in config_maps, where
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in claims, where
        for container in spec["containers"]:
            for mount in container.get("volumeMounts", []):
                templates = {"data", "home"} if where.startswith("StatefulSet") else set()
                assert mount["name"] in volumes.keys() | templates, where
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                if found := source.get("configMapKeyRef"):
                    assert found.get("optional") or found["key"] in config_maps[found["name"]]["data"], where
                if found := source.get("secretKeyRef"):
                    assert found["key"] in secrets[found["name"]], f"{where}: {found}"


def test_a_variable_is_composed_only_of_those_before_it(overlays, overlay):
    for where, container in containers(overlays[overlay]):
        known: set[str] = set()
        for variable in container.get("env", []):
            used = set(re.findall(r"\$\((\w+)\)", variable.get("value", "")))
            assert used <= known, f"{where} {variable['name']}"
            known.add(variable["name"])
        words = " ".join(container.get("args", []))
        assert set(re.findall(r"\$\((\w+)\)", words)) <= known, where


def test_every_setting_is_one_that_the_code_reads(overlays, overlay):
    known = {f"MILLRACE_{name.upper()}" for name in Settings.model_fields}
    known |= {f"MILLRACE_DRIFT_{name.upper()}" for name in DriftSettings.model_fields}

    for where, container in containers(overlays[overlay]):
        given = {variable["name"] for variable in container.get("env", []) if variable["name"].startswith("MILLRACE_")}
        assert given - known == set(), where
    assert set(named(overlays[overlay], "ConfigMap")["millrace-settings"]["data"]) <= known


def test_every_service_selects_a_pod_that_listens_on_its_port(overlays, overlay):
    objects = overlays[overlay]

    for name, service in named(objects, "Service").items():
        selected = [
            spec for _, labels, spec in pods(objects) if matches({"matchLabels": service["spec"]["selector"]}, labels)
        ]
        assert len(selected) == 1, name
        open_ports = [port for container in selected[0]["containers"] for port in container["ports"]]
        for port in service["spec"]["ports"]:
            assert any(port["targetPort"] in (item.get("name"), item["containerPort"]) for item in open_ports), name


def test_every_address_names_a_service_and_its_port(overlays, overlay):
    objects = overlays[overlay]
    known = {name: {port["port"] for port in item["spec"]["ports"]} for name, item in named(objects, "Service").items()}
    for name, item in named(objects, "InferenceService").items():
        if item["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Knative":
            known[f"{name}-predictor.millrace"] = {80}
    known |= OF_KFP | ELSEWHERE

    texts = [(w, v.get("value", "")) for w, c in containers(objects) for v in c.get("env", [])]
    texts += [
        (n, value)
        for n, item in named(objects, "ConfigMap").items()
        if n == "millrace-settings"
        for value in item["data"].values()
    ]
    texts += [("example", path.read_text()) for path in (MANIFESTS / "platform" / "secrets.example").glob("*.yaml")]
    for where, text in texts:
        for host, port in re.findall(r"(?:https?|postgresql(?:\+\w+)?)://(?:[^@/\s]+@)?([\w.-]+)(?::(\d+))?", text):
            assert host in known, f"{where}: {text}"
            assert int(port or 80) in known[host], f"{where}: {text}"


def test_every_policy_budget_and_monitor_selects_something(overlays, overlay):
    objects = overlays[overlay]
    labels = [found for _, found, _ in pods(objects)]
    made_by_others = re.compile(r"argoproj|millrace-train|application-crd-id|calls-api-server|reads-features")

    for item in objects:
        if item["kind"] in {"NetworkPolicy", "PodDisruptionBudget", "PodMonitor"}:
            selector = item["spec"].get("podSelector", item["spec"].get("selector"))
            if not made_by_others.search(str(selector)):
                assert any(matches(selector, found) for found in labels), item["metadata"]["name"]
        if item["kind"] == "NetworkPolicy":
            for rule in item["spec"].get("ingress", []):
                for peer in rule.get("from", []):
                    if "podSelector" in peer and "namespaceSelector" not in peer:
                        found = made_by_others.search(str(peer)) or any(matches(peer["podSelector"], x) for x in labels)
                        assert found, f"{item['metadata']['name']}: {peer}"
        if item["kind"] == "ServiceMonitor":
            services = named(objects, "Service").values()
            chosen = [s for s in services if matches(item["spec"]["selector"], s["metadata"]["labels"])]
            wanted = {endpoint["port"] for endpoint in item["spec"]["endpoints"]}
            assert chosen, item["metadata"]["name"]
            assert all(wanted <= {port["name"] for port in s["spec"]["ports"]} for s in chosen)


def test_whoever_may_be_called_is_let_in_by_name(overlays, overlay):
    """A pod with a Service has a policy that opens just its port."""
    objects = overlays[overlay]
    opened = [p for p in objects if p["kind"] == "NetworkPolicy" and p["metadata"]["name"].endswith("-from-clients")]

    for name, service in named(objects, "Service").items():
        _, labels, _ = next(p for p in pods(objects) if matches({"matchLabels": service["spec"]["selector"]}, p[1]))
        policies = [policy for policy in opened if matches(policy["spec"]["podSelector"], labels)]
        ports = {port["port"] for p in policies for rule in p["spec"]["ingress"] for port in rule["ports"]}
        assert service["spec"]["ports"][0]["port"] in ports, name


def test_every_binding_binds_a_role_that_exists_to_an_account_that_exists(overlays, overlay):
    objects = overlays[overlay]
    accounts = named(objects, "ServiceAccount").keys() | OF_KFP_ACCOUNTS

    for binding in named(objects, "RoleBinding").values():
        assert binding["roleRef"]["name"] in named(objects, "Role")
        assert {(s["name"] in accounts, s["namespace"]) for s in binding["subjects"]} == {(True, "millrace")}


def test_every_command_starts_a_module_that_takes_its_arguments(overlays, overlay):
    for where, container in containers(overlays[overlay]):
        words = container.get("command", []) + container.get("args", [])
        if words[:2] != ["python", "-m"] or not words[2].startswith("serving."):
            continue
        path = ROOT / words[2].replace(".", "/")
        source = next(p for p in (path.with_suffix(".py"), path / "__main__.py") if p.is_file()).read_text()
        own = (
            {"--model_name", "--http_port", "--grpc_port"}
            if "HotServer" in source or "TransformerServer" in source
            else set()
        )
        for word in words[3:]:
            option = word.split("=")[0]
            assert f'"{option}"' in source or option in own, f"{where}: {option}"


def test_what_pipeline_steps_ask_for_is_there(overlays, overlay):
    from components.image import IMAGE
    from components.train import jobs
    from pipelines import cluster

    objects, secrets = overlays[overlay], example_secrets()

    assert cluster.HOME_CLAIM in named(objects, "PersistentVolumeClaim")
    assert named(objects, "ConfigMap")[cluster.SETTINGS_CONFIG_MAP]["data"]["MILLRACE_HOME"] == cluster.HOME
    for name, keys in (cluster.REQUIRED_SECRETS | cluster.OPTIONAL_SECRETS).items():
        assert set(keys) <= secrets[name]
    assert cluster.STORAGE_CONFIG_MAP in named(objects, "ConfigMap")
    assert jobs.SERVICE_ACCOUNT in named(objects, "ServiceAccount")
    assert IMAGE.split(":") == ["millrace/pipeline", VERSION]


def test_made_secrets_are_whole_agree_with_each_other_and_never_the_same(overlay):
    make = runpy.run_path(str(MANIFESTS / "make_secrets.py"))["rendered"]

    first, second = ({d["metadata"]["name"]: d["stringData"] for d in yaml.safe_load_all(make())} for _ in range(2))

    assert first.keys() == example_secrets().keys() - {"millrace-s3"}
    assert "<" not in str(first)
    assert f":{first['millrace-prediction-log']['password']}@" in first["millrace-prediction-log"]["url"]
    assert first["millrace-pseudonym"] != second["millrace-pseudonym"]
