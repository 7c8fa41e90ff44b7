"""An InferenceService as commands to run on this machine. YAML in, `Service` out; starting is `processes.py`'s.

What a field means to a process is kept (command, args, env, storage, readiness, timeout). What only a cluster can give
(image, resources, security context, replicas) is known and has no effect here. Everything else is refused by name.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlparse

import yaml

from millrace.atomic import sha256_text
from millrace.errors import ConfigError, NotFound

MODEL_MOUNT: Final = "/mnt/models"
LOOPBACK: Final = "127.0.0.1"
VERSION_ANNOTATION: Final = "millrace.io/model-version"
LOCAL_ENV: Final = {
    "MILLRACE_ACCEPT_PSEUDONYMS": "true",  # to replay a snapshot, which holds pseudonyms only
    "MILLRACE_LOOKUP_TIMEOUT_S": "2",  # a laptop's cores are busy with other things too
}
"""Set for the servers unless the environment of `up` has them."""

USED_SPEC: Final = {"predictor", "transformer"}
USED_COMPONENT: Final = {"containers", "timeout"}
CLUSTER_COMPONENT: Final = {
    "minReplicas",
    "maxReplicas",
    "volumes",
    "serviceAccountName",
    "securityContext",
    "automountServiceAccountToken",
    "labels",
    "annotations",
    "scaleTarget",
    "scaleMetric",
}
USED_CONTAINER: Final = {"name", "command", "args", "env", "readinessProbe"}
CLUSTER_CONTAINER: Final = {
    "image",
    "imagePullPolicy",
    "ports",
    "resources",
    "livenessProbe",
    "startupProbe",
    "securityContext",
    "volumeMounts",
}
USED_ENV: Final = {"name", "value", "valueFrom"}


@dataclass(frozen=True, slots=True)
class Command:
    """One container as a process. `args` may hold `{http_port}`, `{grpc_port}` and `{predictor}` for `with_ports`."""

    role: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    readiness: str
    """Path that answers 200 when the process is ready."""

    def with_ports(self, http_port: int, grpc_port: int, predictor: str) -> list[str]:
        values = {"{http_port}": str(http_port), "{grpc_port}": str(grpc_port), "{predictor}": predictor}
        return [re.sub(r"\{\w+\}", lambda found: values.get(found[0], found[0]), arg) for arg in self.args]


@dataclass(frozen=True, slots=True)
class Service:
    """An InferenceService that can run here."""

    name: str
    model_version: str
    hash: str
    """Of the manifest's text: another hash is another thing to run."""
    predictor: Command
    transformer: Command | None
    timeout_s: float
    """What the gateway waits for an answer."""


def read_service(path: Path, home: Path) -> Service:
    """Read the manifest at `path`; raises NotFound, and ConfigError naming the field that cannot be honoured here."""
    try:
        text = path.read_text()
        document = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise NotFound(
            f"no manifest at {path}. Promote a model first (make run), or name one with --manifest."
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != "InferenceService":
        kind = document.get("kind") if isinstance(document, dict) else type(document).__name__
        raise ConfigError(f"{path} holds a {kind}; wanted one InferenceService")
    spec = document.get("spec") or {}
    _refuse(spec, USED_SPEC, set(), "spec")
    if "predictor" not in spec:
        raise ConfigError(f"{path}: spec.predictor is missing")
    name = document["metadata"]["name"]
    annotations = document["metadata"].get("annotations") or {}
    parts = {role: _command(role, spec[role], name, home) for role in ("predictor", "transformer") if role in spec}
    outer = spec.get("transformer", spec["predictor"])
    return Service(
        name=name,
        model_version=str(annotations.get(VERSION_ANNOTATION, "unset")),
        hash=sha256_text(text)[:16],
        predictor=parts["predictor"],
        transformer=parts.get("transformer"),
        timeout_s=float(outer.get("timeout", 60)),
    )


def _command(role: str, component: Mapping[str, Any], name: str, home: Path) -> Command:
    where = f"spec.{role}"
    _refuse(component, USED_COMPONENT, CLUSTER_COMPONENT, where)
    _refuse_volumes(component.get("volumes") or [], where)
    containers = component.get("containers") or []
    if len(containers) != 1:
        raise ConfigError(f"{where}.containers has {len(containers)} entries; the local runtime wants exactly 1")
    container = containers[0]
    where = f"{where}.containers[0]"
    _refuse(container, USED_CONTAINER, CLUSTER_CONTAINER, where)
    if not container.get("command"):
        raise ConfigError(f"{where}.command is missing; the local runtime starts commands, not images")
    env = _environment(container.get("env") or [], home, where)
    storage = env.pop("STORAGE_URI", None)
    words = [str(word) for word in (*container["command"], *(container.get("args") or []))]
    return Command(role, tuple(_rewrite(role, words, storage, where)), env, _readiness(container, name))


def _rewrite(role: str, words: Sequence[str], storage: str | None, where: str) -> list[str]:
    """Ports, hosts and the model's mount; nothing else of the command is touched."""
    out = [sys.executable if words[0] in ("python", "python3") else words[0]]
    for word in words[1:]:
        if word.startswith(("--http_port", "--grpc_port", "--host", "--predictor_host")):
            if "=" not in word:
                raise ConfigError(f"{where}.args: {word!r} has its value in the next argument; write --name=value")
            continue
        out.append(word.replace(MODEL_MOUNT, str(_storage_folder(storage, where))) if MODEL_MOUNT in word else word)
    out += [f"--host={LOOPBACK}", "--http_port={http_port}", "--grpc_port={grpc_port}"]
    return [*out, "--predictor_host={predictor}"] if role == "transformer" else out


def _storage_folder(uri: str | None, where: str) -> Path:
    parts = urlparse(uri or "")
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{where}.env STORAGE_URI is {uri!r}; the local runtime wants file:///path/of/a/model")
    folder = Path(unquote(parts.path))
    if not folder.is_dir():
        raise NotFound(f"{where}.env STORAGE_URI is {uri}, and there is no such folder. Promote the model again.")
    return folder


def _environment(entries: Sequence[Mapping[str, Any]], home: Path, where: str) -> dict[str, str]:
    """Values as they are; a secret comes from this process's environment, and is left out where that has none."""
    env: dict[str, str] = {}
    for entry in entries:
        name = entry.get("name", "?")
        _refuse(entry, USED_ENV, set(), f"{where}.env[{name}]")
        if "valueFrom" in entry:
            _refuse(entry["valueFrom"], {"secretKeyRef"}, set(), f"{where}.env[{name}].valueFrom")
            if name in os.environ:
                env[name] = os.environ[name]
        else:
            env[name] = str(entry.get("value", ""))
    return (
        env
        | {name: os.environ.get(name, value) for name, value in LOCAL_ENV.items()}
        | {"MILLRACE_HOME": str(home.resolve())}
    )


def _readiness(container: Mapping[str, Any], name: str) -> str:
    probe = container.get("readinessProbe") or {}
    return str((probe.get("httpGet") or {}).get("path", f"/v2/models/{name}/ready"))


def _refuse_volumes(volumes: Sequence[Mapping[str, Any]], where: str) -> None:
    for volume in volumes:
        kinds = volume.keys() - {"name", "emptyDir"}
        if kinds:
            raise ConfigError(
                f"{where}.volumes[{volume.get('name')}]: {min(kinds)} is not supported by the local runtime"
            )


def _refuse(mapping: Mapping[str, Any], used: set[str], cluster: set[str], where: str) -> None:
    unknown = sorted(mapping.keys() - used - cluster)
    if unknown:
        raise ConfigError(
            f"{where}.{unknown[0]} is not supported by the local runtime; it honours {', '.join(sorted(used))}. "
            "Remove it, or deploy to a cluster."
        )
