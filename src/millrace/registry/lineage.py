"""Where something came from: a model version, an artifact or a prediction in, the chain down to the raw source out.

Reads manifests only (the lake, the versions' own folders, the audit log), so it works without MLflow and on a copy of a
home. An ancestor that was cleaned away is shown as gone, with the id that its descendants remember.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.text import Text
from rich.tree import Tree

from millrace.errors import InvalidInput, NotFound
from millrace.lake.manifest import FOLDERS, Manifest, list_manifests
from millrace.registry.model_spec import MODEL_JSON
from millrace.registry.models import ALIASES, Registry
from millrace.settings import Settings

JUDGEMENTS: Final = ("evaluation", "skew_check", "validation")
MIN_PREFIX: Final = 4
"""Fewest digits of an id that may stand for the whole."""

FindVersion = Callable[[str], int | None]
"""Prediction id → the model version that made it."""


@dataclass(frozen=True, slots=True)
class Node:
    """One link: what it is, what is known about it, and what it came from."""

    kind: str
    id: str
    facts: dict[str, Any] = field(default_factory=dict)
    parents: list[Node] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        parents = [parent.to_dict() for parent in self.parents]
        return {"kind": self.kind, "id": self.id, "facts": self.facts, "from": parents}


def trace(name: str, settings: Settings, find_version: FindVersion | None = None) -> Node:
    """The chain of a model version (number or alias), an artifact (id, or the start of one) or a prediction.

    `find_version` looks a prediction up; without it there is no prediction log. Raises NotFound listing what there is,
    InvalidInput for the start of several ids.
    """
    lake = Lake(settings)
    number = lake.version_of(name)
    if number is not None:
        return lake.version(number)

    artifact = lake.find(name)
    if artifact is not None:
        return lake.node(artifact)

    made_by = find_version(name) if find_version is not None else None
    if made_by is not None:
        return Node("prediction", name, parents=[lake.version(made_by)])
    raise NotFound(lake.what_there_is(name, searched_predictions=find_version is not None))


class Lake:
    """The manifests of one home, read when asked for."""

    def __init__(self, settings: Settings) -> None:
        self.registry = Registry(settings)
        self.folder = settings.lake

    def aliases(self) -> dict[str, int]:
        """Alias → version, as the audit log left them."""
        given = [record["aliases"] for record in self.registry.history() if "aliases" in record]
        return dict(given[-1]) if given else {}

    def versions(self) -> list[int]:
        """Numbers of the versions that have a folder, ascending."""
        folder = self.registry.folder(0).parent
        return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.is_dir())

    def version_of(self, name: str) -> int | None:
        """The version that `name` means, if it means one: a number of a version that exists, `v3`, or an alias."""
        if name in ALIASES:
            return self.aliases().get(name)
        digits = name.removeprefix("v")
        return int(digits) if digits.isdecimal() and int(digits) in self.versions() else None

    def find(self, identity: str) -> Manifest | None:
        """The artifact whose id is, or starts with, `identity`; raises InvalidInput when several do."""
        if len(identity) < MIN_PREFIX or not identity.isalnum():
            return None
        begins = [m for kind in FOLDERS for m in list_manifests(self._folder(kind), kind) if m.id.startswith(identity)]
        exact = [manifest for manifest in begins if manifest.id == identity] or begins
        if len(exact) > 1:
            ids = sorted(manifest.id for manifest in exact)
            raise InvalidInput(f"{identity!r} is the start of {len(ids)} ids: {', '.join(ids)}. Give more of it.")
        return exact[0] if exact else None

    def version(self, number: int) -> Node:
        """A model version: the model it is a copy of, and the verdicts that let it in."""
        folder = self.registry.folder(number)
        model = Manifest.lying_in(folder, "model")
        aliases = [alias for alias, version in self.aliases().items() if version == number]
        facts = {"name": self.registry.name, "aliases": aliases, "uri": self.registry.uri(number)}
        promotions = [
            m for m in list_manifests(self._folder("promotion"), "promotion") if m.parents["model"] == model.id
        ]
        verdicts = list(self._judgements(promotions[-1])) if promotions else []
        return Node("model version", str(number), facts, [self.node(model), *verdicts])

    def node(self, manifest: Manifest) -> Node:
        """An artifact and, below it, what it was made from directly."""
        facts = {key: value for key, value in manifest.facts.items() if key not in ("tables", "source")}
        facts |= _configuration(manifest) | {"created_at": manifest.created_at, "uri": manifest.uri}
        if manifest.kind == "promotion":
            return Node("promotion", manifest.id, facts, [*self._parents(manifest), *self._judgements(manifest)])
        source = manifest.facts.get("source")
        below = [Node("source", str(source.get("hash", "")), dict(source))] if source else self._parents(manifest)
        return Node(manifest.kind, manifest.id, facts, below)

    def what_there_is(self, name: str, *, searched_predictions: bool) -> str:
        """The message for a name that means nothing here."""
        known = {kind: [m.id for m in list_manifests(self._folder(kind), kind)] for kind in FOLDERS}
        lines = [f"  {kind}: {_some(ids)}" for kind, ids in known.items() if ids]
        versions = ", ".join(map(str, self.versions())) or "none"
        note = (
            "No prediction has that id either."
            if searched_predictions
            else "Predictions are not logged yet: give the model_version that the answer names."
        )

        head = f"nothing in {self.registry.home} is called {name!r}. {note}\n  model version: {versions}"
        return "\n".join([head, *lines])

    def _folder(self, kind: str) -> Path:
        return self.folder / FOLDERS[kind]

    def _parents(self, manifest: Manifest) -> list[Node]:
        """Direct parents. Manifests name all ancestors, so those that another parent came from are left to it."""
        wanted = {kind: identity for kind, identity in manifest.parents.items() if kind not in JUDGEMENTS}
        found = {kind: self._read(kind, identity) for kind, identity in wanted.items()}
        above = {ancestor for parent in found.values() if parent is not None for ancestor in parent.parents.values()}
        return [
            Node(kind, identity, {"gone": True}) if (parent := found[kind]) is None else self.node(parent)
            for kind, identity in wanted.items()
            if identity not in above
        ]

    def _judgements(self, promotion: Manifest) -> Iterator[Node]:
        for kind in JUDGEMENTS:
            if kind in promotion.parents:
                judgement = self._read(kind, promotion.parents[kind])
                facts = (
                    {"gone": True}
                    if judgement is None
                    else {"passed": judgement.facts.get("passed"), "uri": judgement.uri}
                )
                yield Node(kind, promotion.parents[kind], facts)

    def _read(self, kind: str, identity: str) -> Manifest | None:
        return Manifest.find(self.folder, kind, identity)


def tree(node: Node) -> Tree:
    """The chain as text."""
    return _grow(node, Tree(_label(node), guide_style="dim"))


def _grow(node: Node, branch: Tree) -> Tree:
    for name, value in node.facts.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        branch.add(Text.assemble((f"{name} ", "dim"), text))
    for parent in node.parents:
        _grow(parent, branch.add(_label(parent)))
    return branch


def _label(node: Node) -> Text:
    return Text.assemble((node.kind, "bold"), " ", (node.id, "cyan"))


def _configuration(manifest: Manifest) -> dict[str, Any]:
    """The hyper-parameters and seeds in a model's `model.json`; the inputs are named by the feature set."""
    if manifest.kind != "model":
        return {}

    try:
        document = json.loads(manifest.path(MODEL_JSON).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotFound):  # cleaned away, here or in the lake's remote
        return {}

    parameters = document.get("parameters", {})
    named = ("feature_names", "history_channels")
    return {
        "parameters": {key: value for key, value in parameters.items() if key not in named},
        "seeds": document.get("seeds", {}),
    }


def _some(ids: Iterable[str], limit: int = 5) -> str:
    """The newest few."""
    ids = list(ids)
    more = f" and {len(ids) - limit} older" if len(ids) > limit else ""
    return ", ".join(reversed(ids[-limit:])) + more
