"""InferenceGraphs: the example is valid for the API server, and what the local runtime understands of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from millrace.errors import ConfigError, InvalidInput, NotFound
from serving.local.graph import holds, is_graph, read_graph

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "manifests" / "workloads" / "fraud" / "examples" / "inference-graph.yaml"
SCHEMAS = Path(os.environ.get("MILLRACE_SCHEMAS", ROOT.parent / "shared" / "schemas"))


def here(url: str) -> str:
    """Every service on a port of its own."""
    name = url.removeprefix("http://").partition(".")[0].partition("/")[0]
    return f"http://127.0.0.1:{len(name)}/{url.removeprefix('http://').partition('/')[2]}"


def test_the_example_is_accepted_by_the_full_crd():
    path = SCHEMAS / "inferencegraph-serving.kserve.io-v1alpha1.json"
    if not path.is_file():
        pytest.skip(f"no KServe schema at {path}; set MILLRACE_SCHEMAS to the folder that holds it")

    errors = jsonschema.Draft7Validator(json.loads(path.read_text())).iter_errors(yaml.safe_load(EXAMPLE.read_text()))

    assert [error.message for error in errors] == []


def test_the_first_condition_that_holds_decides():
    graph = read_graph(EXAMPLE, here)

    chosen = [
        graph.choose(json.dumps({"inputs": [], "parameters": {"segment": segment}}).encode()).name
        for segment in ("business", "travel", "retail")
    ]

    assert chosen == ["business", "travel", "everybody-else"]
    assert graph.steps[0].path == "/v2/models/fraud-detector-business/infer"
    with pytest.raises(NotFound, match="no condition"):
        graph.choose(b"{}")
    with pytest.raises(InvalidInput, match="not JSON"):
        graph.choose(b"{")


@pytest.mark.parametrize(
    ("condition", "document", "expected"),
    [
        ("a.b", {"a": {"b": 0}}, True),
        ("a.b", {"a": []}, False),
        ('[@this].#(a=="x")', {"a": "x"}, True),
        ('[@this].#(a!="x")', {"a": "y"}, True),
        ('[@this].#(a!="x")', {}, False),
        ('[@this].#(a=="x")', [1], False),
    ],
)
def test_conditions(condition, document, expected):
    assert holds(condition, document) is expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"routerType": "Ensemble"}, "a Switch"),
        ({"steps": [{"condition": "a > 1", "serviceName": "x"}]}, "condition is 'a > 1'"),
        ({"steps": [{"condition": "a", "nodeName": "x"}]}, "nodeName is not supported"),
        ({"steps": [{"condition": "a", "serviceName": "x", "serviceUrl": "http://elsewhere/"}]}, "does not run here"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str):
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["nodes"]["root"] |= change
    path = tmp_path / "graph.yaml"
    path.write_text(yaml.safe_dump(document))

    assert is_graph(path)
    with pytest.raises(ConfigError, match=message):
        read_graph(path, lambda url: url if "elsewhere" in url else here(url))
