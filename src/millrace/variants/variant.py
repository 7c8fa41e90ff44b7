"""A workload under another name: model, service, store and champion of its own, beside those of the one it begins from.

Parts are the base's where the document names no column, else the base's extended (`parts.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

from millrace.errors import ConfigError
from millrace.packaged import Workload, package_names, packaged
from millrace.variants import document as documents
from millrace.variants.document import Document

DIGEST: Final = re.compile(r"_([0-9a-f]{8})$")
"""At the end of a feature service: which document it is of."""


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


def model_name_of(name: str) -> str:
    """What the model of a variant and its InferenceService are called; Kubernetes wants no underscores."""
    return name.replace("_", "-")
