"""Check a compiled package: every reference in it leads somewhere. YAML in, problems out; nothing is run.

KFP's own parser refuses unknown fields but lets a dangling reference through, which a cluster shows only when the step
comes up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from millrace.errors import InvalidInput, NotFound

ARTIFACT_TYPES: Final = {
    f"system.{name}"
    for name in ("Artifact", "Dataset", "Model", "Metrics", "ClassificationMetrics", "HTML", "Markdown")
}
ROOT: Final = "root"


def read_package(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline spec and the platform spec (empty when there is none); raises NotFound and InvalidInput."""
    from google.protobuf import json_format
    from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

    if not path.is_file():
        raise NotFound(f"no compiled pipeline at {path}. Compile it: make compile")
    try:
        documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
        spec, platform = documents[0], documents[1] if len(documents) > 1 else {}
        json_format.ParseDict(spec, PipelineSpec())
        json_format.ParseDict(platform, PlatformSpec())
    except (yaml.YAMLError, IndexError, json_format.ParseError, AttributeError) as error:
        raise InvalidInput(f"{path} is not a compiled pipeline: {error}. Compile it again: make compile") from error
    return spec, platform


def problems(spec: Mapping[str, Any], platform: Mapping[str, Any]) -> list[str]:
    """What in a package leads nowhere, a sentence each; empty for a sound one."""
    executors = spec["deploymentSpec"]["executors"]
    found = [*_executors(executors), *_component(ROOT, spec["root"], spec, executors)]
    for name, component in spec["components"].items():
        found += _component(name, component, spec, executors)
    for name in platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {}):
        if name not in executors:
            found.append(f"platform settings for executor {name!r}, which is not there")
    return found


def _executors(executors: Mapping[str, Any]) -> Iterator[str]:
    for name, executor in executors.items():
        container = executor.get("container", {})
        if "importer" not in executor and not (container.get("image") and container.get("command")):
            yield f"executor {name!r} has no image or no command"
        if ":" not in container.get("image", ":").rpartition("/")[2] and "@" not in container.get("image", ""):
            yield f"image {container['image']!r} of executor {name!r} has neither tag nor digest"


def _component(
    name: str, component: Mapping[str, Any], spec: Mapping[str, Any], executors: Mapping[str, Any]
) -> Iterator[str]:
    if (label := component.get("executorLabel")) and label not in executors:
        yield f"component {name!r} names executor {label!r}, which is not there"
    for kind in ("inputDefinitions", "outputDefinitions"):
        for artifact, definition in component.get(kind, {}).get("artifacts", {}).items():
            title = definition["artifactType"].get("schemaTitle")
            if title not in ARTIFACT_TYPES:
                yield f"artifact {artifact!r} of component {name!r} has type {title!r}"
    if dag := component.get("dag"):
        yield from _dag(name, dag, component.get("inputDefinitions", {}), spec["components"])


def _dag(name: str, dag: Mapping[str, Any], inputs: Mapping[str, Any], components: Mapping[str, Any]) -> Iterator[str]:
    tasks = dag["tasks"]
    for task_name, task in tasks.items():
        where = f"task {task_name!r} of {name!r}"
        called = components.get(task["componentRef"]["name"])
        if called is None:
            yield f"{where} runs component {task['componentRef']['name']!r}, which is not there"
            continue
        yield from (f"{where} comes after {other!r}, which is not there" for other in _missing_before(task, tasks))
        for kind in ("parameters", "artifacts"):
            wanted = called.get("inputDefinitions", {}).get(kind, {})
            given = task.get("inputs", {}).get(kind, {})
            yield from (
                f"{where} gives {kind[:-1]} {extra!r}, which it does not take" for extra in given.keys() - wanted
            )
            for needed, definition in wanted.items():
                if needed not in given and not definition.get("isOptional"):
                    yield f"{where} lacks {kind[:-1]} {needed!r}"
            for source in given.values():
                yield from _source(where, source, kind, tasks, inputs, components)


def _missing_before(task: Mapping[str, Any], tasks: Mapping[str, Any]) -> list[str]:
    return [other for other in task.get("dependentTasks", []) if other not in tasks]


def _source(
    where: str,
    source: Mapping[str, Any],
    kind: str,
    tasks: Mapping[str, Any],
    inputs: Mapping[str, Any],
    components: Mapping[str, Any],
) -> Iterator[str]:
    """Problems of where one input comes from: another task's output, an input of the graph, or a constant."""
    outer = source.get("componentInputParameter") or source.get("componentInputArtifact")
    if outer and outer not in inputs.get(kind, {}):
        yield f"{where} reads {kind[:-1]} {outer!r} of its graph, which is not there"
    made = source.get("taskOutputParameter") or source.get("taskOutputArtifact")
    if made:
        producer = tasks.get(made["producerTask"])
        key = made.get("outputParameterKey") or made.get("outputArtifactKey")
        outputs = (
            components.get(producer["componentRef"]["name"], {}).get("outputDefinitions", {}).get(kind, {})
            if producer
            else {}
        )
        if key not in outputs:
            yield f"{where} reads {kind[:-1]} {key!r} of task {made['producerTask']!r}, which does not give it"
