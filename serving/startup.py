"""What a server need not import, and so does not: two thirds of a cold start. Called before kserve or feast is loaded.

kserve 0.21 loads a client of the Kubernetes API that no server calls (1.4 s of CPU, 57 MB); feast 0.67 loads torch
where it is installed, for a type that our features do not have (3 s, 190 MB). Python 3.11, compiled files in place.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

UNUSED: Final = frozenset({"torch"})
"""Top-level packages that a server behaves as if it lacked."""
CLIENT: Final = "kserve.api.kserve_client"


def skip_unused_imports() -> None:
    """Make later imports skip them; calling it again changes nothing."""
    if not any(isinstance(finder, _Absent) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Absent())
    if "kserve" not in sys.modules:
        client = ModuleType(CLIENT, "Left out: see serving.startup.")
        client.KServeClient = None  # type: ignore[attr-defined]
        sys.modules.setdefault(CLIENT, client)


class _Absent(MetaPathFinder):
    """Answers an import of an unused package as if it were not installed."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if fullname in UNUSED:
            raise ModuleNotFoundError(f"{fullname} is left out of servers (serving.startup)", name=fullname)
        return None
