"""Rules and dashboards ask for metrics that exist, say what to do, and wake somebody when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "manifests" / "base" / "monitoring"
SOURCES_OF_OTHERS = {
    "revision_": ROOT / "serving" / "local" / "statistics.py",  # on a cluster: PodMonitor revisions
    "feast_": Path(str(find_spec("feast").origin)).with_name("metrics.py"),
}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool", "group_left", "group_right"}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    return [rule for group in document["spec"]["groups"] for rule in group["rules"]]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for path in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]


def metrics_of(query: str) -> set[str]:
    """Names that a query reads: identifiers that are neither functions, words nor labels."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", query)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    return {
        name
        for name in re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()(?![\w:])", bare)
        if name not in WORDS and re.search("[_:]", name)
    }


def exported() -> set[str]:
    """What our servers and those we scrape export, as Prometheus stores it."""
    from millrace.observe import telemetry

    assert telemetry.REQUESTS
    names = set()
    for metric in prometheus_client.REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        names |= {metric.name + suffix for suffix in suffixes}
    names |= {name for name, _ in telemetry.STREAM_FIGURES.values()}
    for prefix, path in SOURCES_OF_OTHERS.items():
        assert path.is_file(), path
        found = set(re.findall(rf"\"({prefix}\w+)\"", path.read_text()))
        names |= found | {name + suffix for name in found for suffix in ("_bucket", "_total")}
    return names


@pytest.mark.parametrize(("where", "query"), [(r.get("alert") or r["record"], r["expr"]) for r in rules()])
def test_a_rule_reads_metrics_that_exist(where, query):
    assert metrics_of(query) - {rule["record"] for rule in rules() if "record" in rule} - exported() == set()


@pytest.mark.parametrize(("where", "query"), list(dashboard_queries()))
def test_a_panel_reads_metrics_that_exist(where, query):
    recorded = {rule["record"] for rule in rules() if "record" in rule}

    assert metrics_of(query) <= recorded | exported()
    assert metrics_of(query), where


def test_the_names_in_a_query_are_found():
    query = (
        'histogram_quantile(0.9, sum by (le, a_b) (rate(x_y_bucket{c_d="e_f"}[5m]))) > 2 * m:n_o:p offset 5m and g_h'
    )

    assert metrics_of(query) == {"x_y_bucket", "m:n_o:p", "g_h"}


def test_every_alert_says_how_urgent_it_is_and_has_an_entry_in_the_runbook():
    runbook = (ROOT / "docs" / "runbook.md").read_text()

    for rule in rules():
        if "alert" in rule:
            name = rule["alert"]
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
            assert f"### {name}\n" in runbook, name


def test_what_the_queue_proxy_says_gets_the_names_that_the_rollout_reads():
    """Prometheus' relabelling, on samples as Knative's queue proxy gives them."""
    name = "kn_serving_invocation_duration_seconds"
    monitor = yaml.safe_load((MONITORING / "podmonitor-revisions.yaml").read_text())
    steps = monitor["spec"]["podMetricsEndpoints"][0]["metricRelabelings"]
    code = {"http_response_status_code": "503", "otel_scope_name": "queue"}
    bounds = ["0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1", "2.5", "5", "7.5", "10"]

    count = relabelled({"__name__": f"{name}_count", **code}, steps)
    buckets = [relabelled({"__name__": f"{name}_bucket", "le": bound, **code}, steps) for bound in [*bounds, "+Inf"]]

    assert count == {
        "__name__": "revision_request_count",
        "response_code_class": "5xx",
        "http_response_status_code": "503",
    }
    assert {bucket["__name__"] for bucket in buckets} == {"revision_request_latencies_bucket"}
    assert [float(bucket["le"]) for bucket in buckets] == [*(float(bound) * 1000 for bound in bounds), float("inf")]
    assert relabelled({"__name__": f"{name}_bucket", "le": "5.0", **code}, steps)["le"] == "5000"
    assert relabelled({"__name__": "kn_serving_queue_depth"}, steps) == {}


def relabelled(labels: dict[str, str], steps: list[dict[str, Any]]) -> dict[str, str]:
    for step in steps:
        regex = re.compile(f"(?:{step['regex']})$")
        if step.get("action") == "labeldrop":
            labels = {key: value for key, value in labels.items() if not regex.match(key)}
            continue
        found = regex.match(";".join(labels.get(key, "") for key in step["sourceLabels"]))
        if step.get("action") == "keep":
            labels = labels if found else {}
        elif found:
            replacement = re.sub(r"\$\{(\d)\}", lambda group, found=found: found[int(group[1])], step["replacement"])
            labels = labels | {step["targetLabel"]: replacement}
    return labels


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return found


@pytest.fixture
def plain_rules(tmp_path) -> Path:
    """The rules as Prometheus itself reads them."""
    document = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(document["spec"]))
    return path


def test_the_rules_are_good_promql(promtool, plain_rules):
    checked = subprocess.run([promtool, "check", "rules", plain_rules], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_the_alerts_fire_when_they_should_and_only_then(promtool, plain_rules):
    cases = plain_rules.with_name("tests.yaml")
    shutil.copy(Path(__file__).with_name("alerts") / "tests.yaml", cases)

    tested = subprocess.run([promtool, "test", "rules", cases], capture_output=True, text=True, check=False)

    assert tested.returncode == 0, tested.stderr + tested.stdout


def test_an_alert_with_another_limit_fails_its_test(promtool, plain_rules):
    plain_rules.write_text(plain_rules.read_text().replace("> 0.02", "> 1.02"))
    document = yaml.safe_load((Path(__file__).with_name("alerts") / "tests.yaml").read_text())
    document["tests"] = [case for case in document["tests"] if case["name"] == "the online store goes away"]
    cases = plain_rules.with_name("tests.yaml")
    cases.write_text(yaml.safe_dump(document))

    assert subprocess.run([promtool, "test", "rules", cases], capture_output=True, check=False).returncode == 1
