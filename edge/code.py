"""The code of an edge package: what a single row needs, copied from the project as a package named `edge`.

What `online` of the workload imports goes along, and the platform's request parser; NumPy and the standard library are
all that it may need. A workload's `features`, which say types of tables, become a module of their constants.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from millrace.errors import InvalidInput
from millrace.installed import Workload

PLATFORM: Final = ("millrace.requests", "millrace.pseudonyms")
"""What `score.py` imports beside the workload's `online`."""
NOT_CARRIED: Final = ("millrace.fields", "millrace.installed", "millrace.packaged", "millrace.workload")
"""What is said in types of tables, which a package has no use for."""
NAMED: Final = "from collections import namedtuple\n\nView = namedtuple('View', 'name entity fields recent')\n"


def copy_code(workload: Workload, folder: Path) -> None:
    """Write the package into `folder`; raises InvalidInput for a module that needs more than NumPy."""
    features = f"{workload.package}.features"
    for name in _modules(workload):
        target = folder.joinpath(*name.removeprefix("millrace.").split(".")).with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        (target.parent / "__init__.py").touch()
        text = (
            constants_of(workload)
            if name == features
            else _renamed(_source(name).read_text(encoding="utf-8"), workload.package)
        )
        target.write_text(text, encoding="utf-8")
    (folder / "__init__.py").touch()


def constants_of(workload: Workload) -> str:
    """The workload's `features` as a module of literals."""
    lines = [NAMED]
    for name, value in vars(workload.features).items():
        if name == "VIEWS":
            views = [(view.name, view.entity, tuple(view.fields), view.recent) for view in value]
            lines.append(f"VIEWS = tuple(View(*view) for view in {views!r})\n")
        elif name.isupper() and _is_literal(value):
            lines.append(f"{name} = {value!r}\n")
    return "".join(lines)


def _modules(workload: Workload) -> list[str]:
    """All that is imported, by dotted name."""
    roots = ("millrace", workload.package)
    waiting, found = [f"{workload.package}.online", *PLATFORM], []
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.append(name)
        if name in NOT_CARRIED:
            raise InvalidInput(f"{workload.package}.online imports {name}; wanted NumPy's code alone")
        if name != f"{workload.package}.features":
            waiting += _imported(_source(name), roots)
    return found


def _imported(path: Path, roots: tuple[str, ...]) -> Iterator[str]:
    """Modules of ours that a module imports when it is loaded."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom) or node.module is None or node.module.split(".")[0] not in roots:
            continue
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        modules = [name for name in names if node.module in roots and importlib.util.find_spec(name)]
        yield from modules or [node.module]


def _source(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _renamed(text: str, package: str) -> str:
    text = re.sub(r"^(\s*)from millrace\b", r"\1from edge", text, flags=re.MULTILINE)
    return re.sub(rf"^(\s*)from {package}\b", rf"\1from edge.{package}", text, flags=re.MULTILINE)


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False
