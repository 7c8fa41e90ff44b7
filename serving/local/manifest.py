"""An InferenceService, Deployment or StatefulSet as commands to run on this machine. YAML in, `Service` out.

What a field means to a process is kept (command, args, env, storage, readiness, timeout). What only a cluster can give
(image, resources, security context, replicas) is known and has no effect here. Everything else is refused by name
(`fields.py`).
Which of a predictor's revisions run is `revisions.py`'s business, where services find each other `addresses.py`'s.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlparse

import yaml

from millrace.errors import ConfigError, NotFound
from millrace.lake.atomic import sha256_text
from serving.local.fields import (
    CLUSTER_COMPONENT,
    CLUSTER_CONTAINER,
    CLUSTER_ENV,
    CLUSTER_POD,
    CLUSTER_PROGRAM,
    CLUSTER_PROGRAM_CONTAINER,
    USED_COMPONENT,
    USED_CONTAINER,
    USED_ENV,
    USED_LOGGER,
    USED_PROGRAM,
    USED_SPEC,
    refuse,
    refuse_volumes,
)

MODEL_MOUNT: Final = "/mnt/models"
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LOOPBACK: Final = "127.0.0.1"
VERSION_ANNOTATION: Final = "millrace.io/model-version"
ROOT: Final = Path(__file__).parents[2]
ENVIRONMENTS: Final = {"serving.drift_detector": ".venv-drift"}
"""Modules that run in an environment of their own in the checkout → its folder."""
LOCAL_ENV: Final = {
    "MILLRACE_ACCEPT_PSEUDONYMS": "true",  # to replay a snapshot, which holds pseudonyms only
    "MILLRACE_LOOKUP_TIMEOUT_S": "2",  # a laptop's cores are busy with other things too
    "MILLRACE_RETRAINING_LAUNCHER": "local",  # there is no Kubeflow Pipelines here
}
"""Set for the servers unless the environment of `up`, or the manifest, has them."""
LOGGER_MODES: Final = ("all", "request", "response")
PROGRAMS: Final = ("Deployment", "StatefulSet")


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
class Logger:
    """Where KServe's request and response events of a component go."""

    url: str
    mode: str


@dataclass(frozen=True, slots=True)
class Service:
    """An object that can run here; a Deployment or StatefulSet has a `predictor` alone."""

    kind: str
    name: str
    model_version: str
    hash: str
    """Of the manifest's text: another hash is another thing to run."""
    document: dict[str, Any]
    predictor: Command
    transformer: Command | None
    timeout_s: float
    """Longest wait of the gateway for an answer, in seconds."""
    canary_percent: int | None = None
    """Traffic of the newest revision; None: all of it, as soon as it is ready."""
    logger: Logger | None = None


Rewrite = Callable[[str], str]
"""A value of the environment with the addresses of other services in it turned into local ones."""


def read_service(path: Path, home: Path, rewrite: Rewrite = str) -> Service:
    """Read the manifest at `path`; raises NotFound, and ConfigError naming the field that cannot be honoured here."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(
            f"no manifest at {path}. Promote a model first (make run), or name one with --manifest."
        ) from error
    document = parse(text, path)
    kind, name = document["kind"], document["metadata"]["name"]
    spec = document.get("spec") or {}
    annotations = document["metadata"].get("annotations") or {}
    version = str(annotations.get(VERSION_ANNOTATION, "unset"))
    hash_ = sha256_text(text)[:16]
    if kind in PROGRAMS:
        return Service(kind, name, "", hash_, document, _program(document, home, rewrite), None, 60.0)
    refuse(spec, USED_SPEC, set(), "spec")
    if "predictor" not in spec:
        raise ConfigError(f"{path}: spec.predictor is missing")
    outer = "transformer" if "transformer" in spec else "predictor"
    transformer = component("transformer", document, home, rewrite) if "transformer" in spec else None
    return Service(
        kind,
        name,
        version,
        hash_,
        document,
        component("predictor", document, home, rewrite),
        transformer,
        timeout_s=float(spec[outer].get("timeout", 60)),
        canary_percent=_canary_percent(spec),
        logger=_logger(spec, outer, rewrite),
    )


def parse(text: str, path: Path) -> dict[str, Any]:
    """The one object in a manifest's text; raises ConfigError."""
    try:
        document = yaml.load(text, LOADER)  # noqa: S506 - both are safe loaders
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    kind = document.get("kind") if isinstance(document, dict) else type(document).__name__
    if kind not in ("InferenceService", *PROGRAMS):
        raise ConfigError(f"{path} holds a {kind}; wanted one InferenceService, Deployment or StatefulSet")
    if not isinstance(document.get("metadata"), dict) or "name" not in document["metadata"]:
        raise ConfigError(f"{path}: metadata.name is missing")
    found: dict[str, Any] = document
    return found


def component(role: str, document: Mapping[str, Any], home: Path, rewrite: Rewrite = str) -> Command:
    """The predictor or transformer of an InferenceService as a command."""
    where, name = f"spec.{role}", document["metadata"]["name"]
    found = document["spec"][role]
    refuse(found, USED_COMPONENT, CLUSTER_COMPONENT, where)
    container = _container(found, where)
    env = _environment(container.get("env") or [], home, f"{where}.containers[0]", rewrite)
    storage = env.pop("STORAGE_URI", None)
    words = _rewrite(role, _words(container), storage, f"{where}.containers[0]")
    return Command(role, tuple(words), env, _readiness(container, f"/v2/models/{name}/ready"))


def _program(document: Mapping[str, Any], home: Path, rewrite: Rewrite) -> Command:
    """The container of a Deployment or StatefulSet as a command; as our servers do, it takes --host and --http_port."""
    spec = document.get("spec") or {}
    refuse(spec, USED_PROGRAM, CLUSTER_PROGRAM, "spec")
    pod = (spec.get("template") or {}).get("spec") or {}
    where = "spec.template.spec"
    refuse(pod, {"containers"}, CLUSTER_COMPONENT | CLUSTER_POD, where)
    container = _container(pod, where, CLUSTER_CONTAINER | CLUSTER_PROGRAM_CONTAINER)
    env = _environment(container.get("env") or [], home, f"{where}.containers[0]", rewrite)
    words = _rewrite("program", _words(container), None, f"{where}.containers[0]")
    return Command("program", tuple(words), env, _readiness(container, "/healthz"))


def _container(pod: Mapping[str, Any], where: str, without_effect: set[str] = CLUSTER_CONTAINER) -> Mapping[str, Any]:
    """The only container of a pod, with nothing in it that cannot be honoured."""
    refuse_volumes(pod.get("volumes") or [], where)
    containers = pod.get("containers") or []
    if len(containers) != 1:
        raise ConfigError(f"{where}.containers has {len(containers)} entries; the local runtime wants exactly 1")
    container: Mapping[str, Any] = containers[0]
    refuse(container, USED_CONTAINER, without_effect, f"{where}.containers[0]")
    if not container.get("command"):
        raise ConfigError(f"{where}.containers[0].command is missing; the local runtime starts commands, not images")
    return container


def _words(container: Mapping[str, Any]) -> list[str]:
    return [str(word) for word in (*container["command"], *(container.get("args") or []))]


def _canary_percent(spec: Mapping[str, Any]) -> int | None:
    if "canaryTrafficPercent" in spec.get("transformer", {}):
        raise ConfigError(
            "spec.transformer.canaryTrafficPercent is not supported by the local runtime. Split the predictor."
        )
    percent = spec["predictor"].get("canaryTrafficPercent")
    if percent is not None and (type(percent) is not int or not 0 <= percent <= 100):
        raise ConfigError(f"spec.predictor.canaryTrafficPercent is {percent!r}; wanted an integer from 0 to 100")
    return percent


def _logger(spec: Mapping[str, Any], outer: str, rewrite: Rewrite) -> Logger | None:
    if outer != "predictor" and "logger" in spec["predictor"]:
        raise ConfigError("spec.predictor.logger is not supported by the local runtime; it honours spec.transformer's")
    logger = spec[outer].get("logger")
    if logger is None:
        return None
    where = f"spec.{outer}.logger"
    refuse(logger, USED_LOGGER, set(), where)
    mode = logger.get("mode", "all")
    if mode not in LOGGER_MODES or not logger.get("url"):
        raise ConfigError(f"{where} is {dict(logger)}; wanted a url and a mode of {', '.join(LOGGER_MODES)}")
    url = rewrite(str(logger["url"]))
    return Logger(url, mode) if url else None


def _rewrite(role: str, words: Sequence[str], storage: str | None, where: str) -> list[str]:
    """Ports, hosts and the model's mount; nothing else of the command is touched."""
    out = [str(interpreter(words)) if words[0] in ("python", "python3") else words[0]]
    for word in words[1:]:
        if word.startswith(("--http_port", "--grpc_port", "--host", "--predictor_host")):
            if "=" not in word:
                raise ConfigError(f"{where}.args: {word!r} has its value in the next argument; write --name=value")
            continue
        out.append(word.replace(MODEL_MOUNT, str(_storage_folder(storage, where))) if MODEL_MOUNT in word else word)
    out += [f"--host={LOOPBACK}", "--http_port={http_port}"]
    if role == "program":
        return out
    out.append("--grpc_port={grpc_port}")
    return [*out, "--predictor_host={predictor}"] if role == "transformer" else out


def interpreter(words: Sequence[str]) -> Path:
    """The Python that a command runs in here: a deployable whose pins cannot join the others has its own."""
    module = next((word for word in words[1:] if not word.startswith("-")), "")
    folder = next((ROOT / name for prefix, name in ENVIRONMENTS.items() if module.startswith(prefix)), None)
    return Path(sys.executable) if folder is None else folder / "bin" / "python"


def _storage_folder(uri: str | None, where: str) -> Path:
    parts = urlparse(uri or "")
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{where}.env STORAGE_URI is {uri!r}; the local runtime wants file:///path/of/a/model")
    folder = Path(unquote(parts.path))
    if not folder.is_dir():
        raise NotFound(f"{where}.env STORAGE_URI is {uri}, and there is no such folder. Promote the model again.")
    return folder


def _environment(entries: Sequence[Mapping[str, Any]], home: Path, where: str, rewrite: Rewrite) -> dict[str, str]:
    """Values as they are; secrets and config maps' come from this process's environment, and are left out without."""
    env: dict[str, str] = {}
    for entry in entries:
        name = entry.get("name", "?")
        refuse(entry, USED_ENV, set(), f"{where}.env[{name}]")
        if "valueFrom" in entry:
            refuse(entry["valueFrom"], {"secretKeyRef", "configMapKeyRef"}, set(), f"{where}.env[{name}].valueFrom")
            if name in os.environ:
                env[name] = os.environ[name]
        elif name not in CLUSTER_ENV:
            env[name] = rewrite(str(entry.get("value", "")))
    here = {name: rewrite(os.environ.get(name, env.get(name, value))) for name, value in LOCAL_ENV.items()}
    return env | here | {"MILLRACE_HOME": str(home.resolve())}


def _readiness(container: Mapping[str, Any], default: str) -> str:
    probe = container.get("readinessProbe") or {}
    return str((probe.get("httpGet") or {}).get("path", default))
