"""The workloads there are, by name: installed packages, and variants of them that a home declares.

`packaged.py` is what a workload is, `variants` another one made of it by a document.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millrace.errors import ConfigError
from millrace.packaged import Workload, default_name, package_names, packaged, packages
from millrace.variants.document import home as home_of_environment
from millrace.variants.document import names_in
from millrace.variants.variant import declare, found, variant_of

__all__ = [
    "Workload",
    "declare",
    "default_name",
    "load",
    "names",
    "package_names",
    "packages",
    "workload_of",
]


def names() -> list[str]:
    """Workloads that are installed, and variants in the home that the environment names."""
    return sorted({*package_names(), *names_in(home_of_environment())})


def load(name: str, service: str = "", home: Path | None = None) -> Workload:
    """The workload called so; raises ConfigError that names those there are.

    A variant is the newest of that name in the home (default: the environment's), or with a `service`, the one whose
    features those of this feature service are.
    """
    workload = packaged(name) or found(name, service, home)
    if workload is not None:
        return workload

    known = ", ".join(names()) or "none"
    raise ConfigError(f"there is no workload {name!r}; installed are: {known}. Name one of them (MILLRACE_WORKLOAD).")


def workload_of(description: Mapping[str, Any]) -> Workload:
    """The workload of a model's description, which holds the document of a variant: a server needs no home for it."""
    document = description.get("variant")
    return load(str(description["workload"])) if document is None else variant_of(json.dumps(document))
