"""A KServe InferenceGraph here: a Switch whose conditions look at the request's document. YAML in, a step out.

Of GJSON, in which conditions are written, what a switch by a field needs: `path.of.keys` (it is there) and
`[@this].#(path.of.keys=="text")` (it is there and equal, or with != unequal). Other routers and conditions are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from millrace.errors import ConfigError, InvalidInput, NotFound

PATH: Final = r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*"
EXISTS: Final = re.compile(PATH)
COMPARED: Final = re.compile(rf'\[@this\]\.#\((?P<path>{PATH})(?P<sign>==|!=)"(?P<value>[^"\\]*)"\)')
KIND: Final = "InferenceGraph"
USED_SPEC: Final = {"nodes"}
CLUSTER_SPEC: Final = {"resources", "minReplicas", "maxReplicas", "timeout", "affinity", "serviceAccountName"}
USED_STEP: Final = {"name", "condition", "serviceName", "serviceUrl"}


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    condition: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Graph:
    """The steps of the root, in order."""

    name: str
    steps: tuple[Step, ...]

    def choose(self, body: bytes) -> Step:
        """The first step whose condition holds; raises InvalidInput for a body that is no JSON, NotFound for none."""
        try:
            document = json.loads(body)
        except ValueError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from error
        for step in self.steps:
            if holds(step.condition, document):
                return step
        raise NotFound(f"no condition of {self.name} holds; it has {', '.join(step.condition for step in self.steps)}")


def is_graph(path: Path) -> bool:
    """Whether a file holds an InferenceGraph; one that cannot be read does not."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(document, dict) and document.get("kind") == KIND


def read_graph(path: Path, rewrite: Callable[[str], str]) -> Graph:
    """Read the graph at `path`, with local addresses for its services; raises ConfigError naming what is refused."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec = document["spec"]
    _refuse(spec, USED_SPEC | CLUSTER_SPEC, "spec")
    nodes = spec.get("nodes") or {}
    if set(nodes) != {"root"} or nodes["root"].get("routerType") != "Switch":
        raise ConfigError(f"{path}: spec.nodes is {sorted(nodes)}; the local runtime wants one node, root, a Switch")
    steps = [_step(item, f"spec.nodes.root.steps[{i}]", rewrite) for i, item in enumerate(nodes["root"]["steps"])]
    return Graph(document["metadata"]["name"], tuple(steps))


def holds(condition: str, document: Any) -> bool:
    """Whether a condition that `read_graph` let through holds for a document."""
    compared = COMPARED.fullmatch(condition)
    if compared is None:
        return _at(document, condition) is not None
    value = _at(document, compared["path"])
    return value is not None and (value == compared["value"]) == (compared["sign"] == "==")


def _step(item: Mapping[str, Any], where: str, rewrite: Callable[[str], str]) -> Step:
    _refuse(item, USED_STEP, where)
    condition = str(item.get("condition", ""))
    if not (EXISTS.fullmatch(condition) or COMPARED.fullmatch(condition)):
        raise ConfigError(f'{where}.condition is {condition!r}; wanted a.path, or [@this].#(a.path=="text")')
    name = str(item.get("serviceName", ""))
    url = rewrite(str(item.get("serviceUrl") or f"http://{name}/v1/models/{name}:predict"))
    parts = urlsplit(url)
    if parts.hostname != "127.0.0.1" or parts.port is None:
        raise ConfigError(f"{where}: {item.get('serviceUrl') or name} does not run here; put its manifest beside this")
    return Step(str(item.get("name", name)), condition, parts.port, parts.path)


def _at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _refuse(mapping: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(mapping.keys() - known)
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]} is not supported by the local runtime. Remove it, or use a cluster.")
