"""A workload under another name: model, service, store and champion of its own, beside those of the one it begins from.

Parts are the base's where the document names no column, else the base's extended.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final, cast

from millrace.errors import ConfigError
from millrace.extended import Extended
from millrace.packaged import Workload, package_names, packaged
from millrace.variants import days, declared, judged, request
from millrace.variants import document as documents
from millrace.variants.document import Document
from millrace.variants.own import Own, own_of
from millrace.workload import (
    Batch,
    Exchange,
    Explain,
    Features,
    Judging,
    Model,
    Online,
    Ranked,
    Schema,
    Task,
    Watch,
)

DIGEST: Final = re.compile(r"_([0-9a-f]{8})$")
"""At the end of a feature service: which document it is of."""
LEAST_KEPT: Final = -0.25
"""Share of the average precision above chance that is kept without columns of one's own; 0 is guessing."""
WORST_GROWTH: Final = 3.0
"""Mean absolute error without them, over that with them."""


@dataclass(frozen=True)
class Variant(Workload):
    """A base under the name of its document, which is what makes two of them different."""

    text: str
    """The document, as JSON."""

    @cached_property
    def declared(self) -> Document:
        return documents.read(self.text, f"workload {self.name!r}")

    @property
    def document(self) -> str:
        return self.text

    @cached_property
    def base(self) -> Workload:
        return base_of(self.declared)

    @property
    def title(self) -> str:
        return f"{self.base.title}: {self.name}"

    @property
    def model_name(self) -> str:
        return model_name_of(self.name)

    @cached_property
    def own(self) -> Own | None:
        """What the model reads besides; None where that is nothing."""
        return own_of(self.declared, self.base) if self.declared.has_own else None

    @property
    def has_own(self) -> bool:
        return self.own is not None

    @cached_property
    def schema(self) -> Schema:
        if self.own is None:
            return self.base.schema
        columns = {name: column.column or name for name, column in self.declared.features.items()}
        return declared.schema(self.own, columns)

    @cached_property
    def features(self) -> Features:
        base = self.base.features
        return base if self.own is None else declared.features(self.own, service_of(self.declared))

    @cached_property
    def exchange(self) -> Exchange:
        return self.base.exchange if self.own is None else declared.exchange(self.own)

    @cached_property
    def watch(self) -> Watch:
        return self.base.watch if self.own is None else declared.watch(self.own)

    @cached_property
    def batch(self) -> Batch:
        return self.base.batch if self.own is None else days.batch(self.own, self.schema)

    @cached_property
    def online(self) -> Online:
        return self.base.online if self.own is None else request.online(self.own)

    @cached_property
    def explain(self) -> Explain:
        return self.base.explain if self.own is None else request.explain(self.own)

    @cached_property
    def judging(self) -> Judging:
        return self.base.judging if self.own is None else judged.judging(self.own)

    @cached_property
    def ranked(self) -> Ranked:
        return self.base.ranked if self.own is None else cast(Ranked, self.judging)

    @cached_property
    def model(self) -> Model:
        return self.base.model if self.own is None else modelled(self.own)

    @property
    def more_limits(self) -> dict[str, Any]:
        """A source that stops sending columns of one's own may cost all that they gave, and no more."""
        if self.own is None:
            return {}
        if self.task is Task.REGRESSION:
            return {"stress_ceilings": {judged.MISSING_STRESS: WORST_GROWTH}}
        return {"stress_floors": {judged.MISSING_STRESS: LEAST_KEPT}}

    def files(self, *parts: str) -> list[Path]:
        mine = Path(documents.__file__).parent if self.own is not None else None
        more = [] if mine is None else [mine, documents.kept_path(documents.home(), self.declared)]
        return [*self.base.files(*parts), *more]

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """It travels between processes with its document."""
        return variant_of, (self.text,)


@cache
def variant_of(text: str) -> Variant:
    """The workload of a document in JSON; raises ConfigError where it is none, or its base is not installed."""
    document = documents.read(text, "the variant's document")
    return Variant(document.name, base_of(document).package, document.text)


def found(name: str, service: str = "", home: Path | None = None) -> Variant | None:
    """The variant called so in a home (default: the environment's), or the one of a feature service; None for none."""
    place = home or documents.home()
    newest = documents.found(place, name)
    if newest is None:
        return None
    if service in ("", service_of(newest)):
        return variant_of(newest.text)

    digest = DIGEST.search(service)
    document = documents.found(place, name, digest[1]) if digest else bare(newest)
    return None if document is None else variant_of(document.text)


def declare(content: Mapping[str, Any], home: Path) -> Variant:
    """Check a document and make it the newest of its name in a home.

    Raises ConfigError for a name that another workload or its model has, and for a column that the base has.
    """
    document = documents.document_of(content, f"workload {content.get('name')!r}")
    taken = {name: packaged(name) for name in package_names()}
    if document.name in taken:
        raise ConfigError(f"the name {document.name!r} is a workload's that is installed; wanted another one")
    for name, workload in taken.items():
        if workload is not None and workload.model_name == model_name_of(document.name):
            raise ConfigError(f"the name {document.name!r} would be the model of {name!r}; wanted another one")

    variant = variant_of(document.text)
    _ = variant.own  # which is refused where it does not fit
    documents.keep(home, document)
    return variant


def base_of(document: Document) -> Workload:
    """Raises ConfigError for a base that is not installed."""
    base = packaged(document.base)
    if base is None:
        raise ConfigError(
            f"workload {document.name!r} begins from {document.base!r}, which is not installed; "
            f"installed are: {', '.join(package_names())}"
        )
    return base


def service_of(document: Document) -> str:
    """The feature service: the base's, or one of its own where more is read."""
    base = base_of(document).features.FEATURE_SERVICE
    return f"{base}_{document.digest}" if document.has_own else base


def bare(document: Document) -> Document:
    """The same name without columns of its own."""
    return Document(name=document.name, base=document.base)


def modelled(own: Own) -> Model:
    """`model` of a variant: the base's network and trees, which see categories as columns of levels."""
    codes = [name for one in own.columns if one.kind == "categorical" for name in one.features]
    base = own.base.model
    if not codes:
        return base

    def network(architecture: Any, feature_names: Sequence[str]) -> Any:
        levels = importlib.import_module(
            "millrace.tabular.levels"
        )  # by name, as a part: it has torch, which no server loads
        return levels.with_levels(base.network, architecture, feature_names, codes)

    return cast(Model, Extended(base, network=network))


def model_name_of(name: str) -> str:
    """What the model of a variant and its InferenceService are called; Kubernetes wants no underscores."""
    return name.replace("_", "-")
