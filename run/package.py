"""A compiled pipeline as something to send: checked, named after its content, with typed parameters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from millrace.errors import InvalidInput
from millrace.lake.atomic import sha256_text
from run.ir import problems, read_package

JSON_TYPES: Final = {"NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "STRUCT", "LIST"}


@dataclass(frozen=True, slots=True)
class Package:
    """A compiled pipeline that was checked."""

    path: Path
    name: str
    version: str
    """Of its content: the same package is the same version."""
    parameters: Mapping[str, Mapping[str, Any]]
    report_names: frozenset[str]
    """Names of outputs that hold HTML."""

    @classmethod
    def read(cls, path: Path) -> Package:
        """Raises NotFound without the file, InvalidInput when a reference in it leads nowhere."""
        spec, platform = read_package(path)
        if found := problems(spec, platform):
            raise InvalidInput(f"{path}: " + "; ".join(found) + ". Compile it again: make compile")
        return cls(
            path=path,
            name=spec["pipelineInfo"]["name"],
            version=sha256_text(path.read_text(encoding="utf-8"))[:12],
            parameters=spec["root"].get("inputDefinitions", {}).get("parameters", {}),
            report_names=frozenset(_html_outputs(spec)),
        )

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter values of a run; raises InvalidInput for one that the pipeline does not take, or lacks."""
        if unknown := sorted(given.keys() - self.parameters.keys()):
            raise InvalidInput(
                f"pipeline {self.name} has no parameter {unknown[0]!r}; it takes {', '.join(sorted(self.parameters))}"
            )
        needed = [name for name, one in self.parameters.items() if not one.get("isOptional") and name not in given]
        if needed:
            raise InvalidInput(f"pipeline {self.name} wants parameter {needed[0]!r}: --param {needed[0]}=…")
        return {name: _typed(name, value, self.parameters[name]["parameterType"]) for name, value in given.items()}


def _typed(name: str, value: str, kind: str) -> Any:
    """Text as the parameter's type; raises InvalidInput."""
    if kind not in JSON_TYPES:
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"parameter {name!r} is {value!r}; wanted JSON for its type {kind}") from error


def _html_outputs(spec: Mapping[str, Any]) -> Iterator[str]:
    for component in spec["components"].values():
        for name, artifact in component.get("outputDefinitions", {}).get("artifacts", {}).items():
            if artifact["artifactType"].get("schemaTitle") == "system.HTML":
                yield name
