"""Arrows between packages point one way: run → pipelines → components → millrace ← serving; workloads → millrace."""

import ast
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WORKLOADS = {"fraud", "trips"}
STEPS = {"millrace", "components", "pipelines"}
MAY_IMPORT = {
    "src/millrace": {"millrace"} | WORKLOADS,
    "src/fraud": {"millrace", "fraud"},
    "src/trips": {"millrace", "trips"},
    "components": {"millrace", "components"} | WORKLOADS,
    "pipelines": STEPS | WORKLOADS,
    "run": STEPS | WORKLOADS | {"run"},
    "edge": STEPS | WORKLOADS | {"run", "edge"},
    "search": STEPS | WORKLOADS | {"run", "search"},
    "drill": STEPS | WORKLOADS | {"run", "drill"},
    "serving": {"millrace", "serving"} | WORKLOADS,
    "feature_repo": {"millrace", "feature_repo"} | WORKLOADS,
}
OURS = set.union(*MAY_IMPORT.values()) | {"serving", "feature_repo"}
HEAVY = {"kfp", "kserve", "feast"}


def imported_packages(path: Path) -> set[str]:
    """Top-level names of every import in a file, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))

    wrong = {
        str(f.relative_to(ROOT)): extra for f in files if (extra := (imported_packages(f) & OURS) - MAY_IMPORT[package])
    }

    assert files
    assert wrong == {}


SHARED = {"image", "feast_store"}
"""What lies beside the components: src/millrace knows neither kfp nor Feast."""


def test_a_component_does_not_import_another() -> None:
    wrong = []
    for path in sorted((ROOT / "components").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("components."):
                other = node.module.split(".")[1]
                if other not in {path.parent.name, path.relative_to(ROOT / "components").parts[0], *SHARED}:
                    wrong.append(f"{path.relative_to(ROOT)} imports {node.module}")

    assert wrong == []


def test_the_shared_package_imports_no_framework_of_a_deployable() -> None:
    wrong = {str(f): extra for f in (ROOT / "src").rglob("*.py") if (extra := imported_packages(f) & HEAVY)}

    assert wrong == {}


@pytest.mark.parametrize("verb", sorted(p.parent.name for p in (ROOT / "components").glob("*/core.py")))
def test_importing_a_core_starts_nothing_heavy(verb: str) -> None:
    heavy = HEAVY | {"mlflow", "matplotlib", "xgboost", "sklearn"}
    code = f"import sys, components.{verb}.core; print(*(set(sys.modules) & {heavy!r}))"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.split() == []


@pytest.mark.parametrize("verb", sorted(p.name for p in (ROOT / "components").iterdir() if (p / "core.py").exists()))
def test_every_component_has_its_contract_and_its_face(verb: str) -> None:
    folder = ROOT / "components" / verb

    text = (folder / "README.md").read_text().lower()

    assert (folder / "component.py").exists()
    assert all(word in text for word in ("reads", "writes", "fails when"))
    assert "from __future__ import annotations" not in (folder / "component.py").read_text()


def modules() -> dict[str, Path]:
    """Dotted name → file of every module of ours."""
    found = {}
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to((ROOT / package).parent).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported_at_the_top(path: Path, known: Collection[str]) -> set[str]:
    """Modules of ours that a file imports outside its functions, for types too."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                waiting.append(node)
    return names & set(known)


def test_no_module_is_part_of_a_circle_of_imports_not_even_for_types() -> None:
    files = modules()
    graph = {name: imported_at_the_top(path, files) - {name} for name, path in files.items()}

    # A package stands for its modules only where it imports them; what is left when all ends are cut is a circle.
    while ends := {name for name, wanted in graph.items() if not wanted & graph.keys()}:
        graph = {name: wanted for name, wanted in graph.items() if name not in ends}

    assert graph == {}
