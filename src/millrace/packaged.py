"""A workload as a package: its parts are modules, imported when they are first asked for.

A package is found by an entry point of the group `millrace.workloads`. A part is refused when it is asked for and lacks
what `millrace.workload` wants of it. Which workloads there are by name, others than packages too: `installed.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Set
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

from millrace.errors import ConfigError
from millrace.fields import Entity, View
from millrace.workload import (
    Batch,
    Drill,
    Exchange,
    Explain,
    Features,
    Judging,
    Model,
    Online,
    Package,
    Ranked,
    Schema,
    Task,
    Watch,
    World,
)

GROUP: Final = "millrace.workloads"
"""Entry point group: name of a workload → its package."""
DEFAULT_GROUP: Final = "millrace.default_workload"
"""Entry point group with one name: the workload where nothing names one."""


@dataclass(frozen=True)
class Workload:
    """A workload by name; its parts are properties."""

    name: str
    package: str

    @cached_property
    def _root(self) -> Package:
        return cast(Package, _whole(importlib.import_module(self.package), Package))

    @property
    def folder(self) -> Path:
        """The package's folder, wherever it is installed."""
        return Path(cast(str, importlib.import_module(self.package).__file__)).parent

    @property
    def title(self) -> str:
        return self._root.TITLE

    @property
    def task(self) -> Task:
        return Task(self._root.TASK)

    @property
    def model_name(self) -> str:
        return self._root.MODEL_NAME

    @property
    def event(self) -> tuple[str, str]:
        return self._root.EVENT

    @cached_property
    def schema(self) -> Schema:
        return cast(Schema, self._part("schema", Schema, {"HINTS"}))

    @cached_property
    def world(self) -> World:
        return cast(World, self._part("world", World))

    @cached_property
    def features(self) -> Features:
        return cast(Features, self._part("features", Features))

    @cached_property
    def batch(self) -> Batch:
        absent = set() if self.features.HISTORY_CHANNELS else {"history"}
        return cast(Batch, self._part("batch", Batch, absent))

    @cached_property
    def judging(self) -> Judging:
        return cast(Judging, self._part("judging", Judging))

    @cached_property
    def ranked(self) -> Ranked:
        """What `judging` has besides where a rare class is ranked."""
        return cast(Ranked, self._part("judging", Ranked))

    @cached_property
    def online(self) -> Online:
        absent = {"remembered"} if self.recent is None else set()
        return cast(Online, self._part("online", Online, absent))

    @cached_property
    def exchange(self) -> Exchange:
        return cast(Exchange, self._part("exchange", Exchange))

    @cached_property
    def explain(self) -> Explain:
        return cast(Explain, self._part("explain", Explain))

    @cached_property
    def recent(self) -> View | None:
        """The recent view, where there is one; raises ConfigError for more."""
        views = [view for view in self.features.VIEWS if view.recent]
        if len(views) > 1:
            names = ", ".join(view.name for view in views)
            raise ConfigError(f"workload {self.name!r} has recent views {names}; wanted one at most")
        return views[0] if views else None

    @property
    def refreshed(self) -> tuple[View, ...]:
        """The views that are not recent."""
        return tuple(view for view in self.features.VIEWS if not view.recent)

    @cached_property
    def watch(self) -> Watch:
        return cast(Watch, self._part("watch", Watch))

    @cached_property
    def drill(self) -> Drill:
        """Raises ConfigError where the workload has none."""
        return cast(Drill, self._part("drill", Drill))

    @cached_property
    def model(self) -> Model:
        return cast(Model, self._part("model", Model))

    def entity(self, name: str) -> Entity:
        """Raises ConfigError for one that the workload does not have."""
        for entity in self.schema.ENTITIES:
            if entity.name == name:
                return entity
        raise ConfigError(
            f"workload {self.name!r} has no entity {name!r}; it has {[e.name for e in self.schema.ENTITIES]}"
        )

    def limits(self, component: str) -> dict[str, Any]:
        """The workload's own limits of a component, `<component>.yaml` in its package; empty where it has none."""
        import yaml  # servers have no use for it

        path = self.folder / f"{component}.yaml"
        return cast(dict[str, Any], yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def profile(self, name: str) -> dict[str, Any]:
        """Changes of limits for one kind of data, `profiles/<name>.yaml` in its package: component → its keys.

        Empty for no name; raises ConfigError for one that the workload does not have.
        """
        if not name:
            return {}

        from millrace.config import read_layer

        path = self.folder / "profiles" / f"{name}.yaml"
        if not path.is_file():
            known = sorted(found.stem for found in path.parent.glob("*.yaml"))
            raise ConfigError(f"workload {self.name!r} has no profile {name!r}; wanted one of {known}, or none")
        return read_layer(path)

    @property
    def has_own(self) -> bool:
        """Whether its features are more than its package's."""
        return False

    @property
    def more_limits(self) -> dict[str, Any]:
        """Limits of evaluation beside those of `judging.LIMITS`."""
        return {}

    def files(self, *parts: str) -> list[Path]:
        """Source files of these parts, for ids that follow from code (`millrace.lake.provenance.code_of`)."""
        specs = (importlib.util.find_spec(f"{self.package}.{part}") for part in parts)
        return [Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None]

    @property
    def document(self) -> str:
        """What makes it of another workload, as JSON (`millrace.variants`); empty for one that is a package."""
        return ""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """It travels between processes by name."""
        return packaged, (self.name,)

    def _part(self, name: str, protocol: Any, absent: Set[str] = frozenset()) -> ModuleType:
        try:
            module = importlib.import_module(f"{self.package}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{self.package}.{name}":
                raise
            raise ConfigError(
                f"workload {self.name!r} has no module {self.package}.{name}; see millrace.workload"
            ) from error
        return _whole(module, protocol, absent)


def packaged(name: str) -> Workload | None:
    """The workload whose package is called so; None where none is."""
    try:
        return _packaged(name)
    except LookupError:  # not remembered: it may be installed later
        return None


def package_names() -> list[str]:
    """Workloads that are packages."""
    return sorted(point.name for point in entry_points(group=GROUP))


def packages() -> list[str]:
    """Their packages."""
    return sorted(point.value for point in entry_points(group=GROUP))


def default_name() -> str:
    """The workload where nothing names one: the installation's own choice, or the only one; empty where there is none.

    The first of two that claim to be it, in the order of their names, is taken.
    """
    chosen = sorted(point.name for point in entry_points(group=DEFAULT_GROUP))
    installed = package_names()
    only = installed if len(installed) == 1 else [""]
    return (chosen or only)[0]


@cache
def _packaged(name: str) -> Workload:
    for point in entry_points(group=GROUP):
        if point.name == name:
            return Workload(name, point.value)
    raise LookupError(name)


def _whole(module: ModuleType, protocol: Any, absent: Set[str] = frozenset()) -> ModuleType:
    """The module; raises ConfigError when it lacks what the protocol wants, but for what may be absent."""
    missing = sorted(name for name in _asked(protocol) - absent if not hasattr(module, name))
    if missing:
        raise ConfigError(f"{module.__name__} lacks {', '.join(missing)}; see {protocol.__name__} in millrace.workload")
    return module


def _asked(protocol: Any) -> set[str]:
    """What a protocol wants: its annotations and methods."""
    methods = {name for name, value in vars(protocol).items() if callable(value) and not re.match("_", name)}
    return set(protocol.__annotations__) | methods
