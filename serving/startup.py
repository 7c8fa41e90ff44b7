"""What a server need not import, and so does not: four fifths of a cold start. Called before kserve or feast is loaded.

kserve 0.21 loads a client of the Kubernetes API with its models, and pandas, of which no server of ours uses anything
(2.2 s of CPU, 100 MB); feast 0.67 loads torch where it is installed, for a type that our features do not have (3 s,
190 MB). Python 3.11, compiled files in place.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Final

UNUSED: Final = frozenset({"torch"})
"""Top-level packages that a server behaves as if it lacked."""
CLIENT: Final = "kserve.api.kserve_client"
MODELS: Final = "kserve.models"
"""Imported name by name where kserve is loaded; each name is there and is None."""


def skip_unused_imports() -> None:
    """Load kserve without what it does not need, and make later imports skip the rest; again changes nothing."""
    if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Absent())
    if "kserve" in sys.modules:
        return
    client = ModuleType(CLIENT, "Left out: see serving.startup.")
    client.KServeClient = None  # type: ignore[attr-defined]
    sys.modules.setdefault(CLIENT, client)
    _load_kserve_without_pandas()


def _load_kserve_without_pandas() -> None:
    """kserve names a data frame's type in two signatures; whoever imports pandas afterwards gets the real one."""
    stand_in = ModuleType("pandas", "Stands in while kserve is loaded: see serving.startup.")
    stand_in.DataFrame = type("DataFrame", (), {})  # type: ignore[attr-defined]
    real = sys.modules.get("pandas")
    sys.modules["pandas"] = real or stand_in
    hollow = _Hollow()
    sys.meta_path.insert(0, hollow)
    try:
        import kserve.model_server  # noqa: F401
    finally:
        sys.meta_path.remove(hollow)
        if real is None:
            del sys.modules["pandas"]


class _Absent(MetaPathFinder):
    """Answers an import of an unused package as if it were not installed."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname in UNUSED:
            raise ModuleNotFoundError(f"{fullname} is left out of servers (serving.startup)", name=fullname)
        return None


class _Hollow(MetaPathFinder, Loader):
    """Makes modules of MODELS that hold None by every public name."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname == MODELS or fullname.startswith(f"{MODELS}."):
            return spec_from_loader(fullname, self, is_package=fullname == MODELS)
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _nothing  # type: ignore[method-assign]


def _nothing(name: str) -> None:
    if name.startswith("__"):
        raise AttributeError(name)
