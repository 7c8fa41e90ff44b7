"""Each target of the Dockerfile has the packages that its code imports, and no others' frameworks.

`make check-images` builds the environments for real and imports the entry points; here every import that an entry
point can reach, those inside functions too, is looked up in the target's lock.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from millrace.lake.provenance import SOURCES

ROOT = Path(__file__).parents[2]
OURS = {"fraud", "trips", *SOURCES}
BY_CHOICE = {"pipeline": {"pyspark"}}
"""Engines that a setting chooses, and that an image of their own has."""


@dataclass(frozen=True)
class Target:
    name: str
    lock: Path
    code: tuple[str, ...]
    entries: tuple[str, ...]

    @property
    def locked(self) -> set[str]:
        return {normal(line.split("==")[0]) for line in self.lock.read_text().splitlines() if "==" in line}


def targets() -> list[Target]:
    found = []
    for line in (ROOT / "requirements" / "images" / "targets").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, groups, code, entries = line.split()
            lock = ROOT / "requirements" / (f"{name}.txt" if groups == "-" else f"images/{name}.txt")
            found.append(Target(name, lock, tuple(code.split(",")), tuple(entries.split(","))))
    return found


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution.split("[")[0]).lower()


def source(module: str) -> Path | None:
    """File of one of our modules."""
    base = ROOT / ("src" if module.split(".")[0] in {"millrace", "fraud", "trips"} else ".") / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def parts(module: str) -> list[str]:
    """What is run besides, when a package is started or imported."""
    names = module.split(".")
    packages = [".".join(names[:depth]) for depth in range(1, len(names) + 1)]
    return [*packages, f"{module}.__main__"]


@cache
def imports(module: str) -> frozenset[str]:
    """Dotted names that a module of ours imports, except for types and where its absence is provided for."""
    path = source(module)
    tree = ast.parse(path.read_text()) if path else ast.Module([], [])
    return frozenset(_names(tree))


def _names(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Try) and any("ImportError" in ast.unparse(h.type) for h in child.handlers if h.type):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from _names(child)


def reached(entries: tuple[str, ...]) -> set[str]:
    """Modules of ours that the entries can come to."""
    waiting, seen = [part for entry in entries for part in parts(entry)], set()
    while waiting:
        module = waiting.pop()
        if module in seen or module.split(".")[0] not in OURS or source(module) is None:
            continue
        seen.add(module)
        waiting += [part for name in imports(module) for part in parts(name)[:-1]]
    return seen


def missing(target: Target) -> dict[str, str]:
    """Packages that the target's code imports and its lock lacks → the module that imports it."""
    providers = packages_distributions()
    lacking = {}
    for module in reached(target.entries):
        packages = {name.split(".")[0] for name in imports(module)} - OURS - set(sys.stdlib_module_names)
        for name in packages - BY_CHOICE.get(target.name, set()):
            if not {normal(item) for item in providers.get(name, [name])} & target.locked:
                lacking[name] = module
    return lacking


TARGETS = targets()
STARTS_OURS = [target for target in TARGETS if source(target.entries[0])]


@pytest.mark.parametrize("target", STARTS_OURS, ids=lambda target: target.name)
def test_every_import_of_a_target_is_in_its_lock(target):
    assert missing(target) == {}


@pytest.mark.parametrize("target", STARTS_OURS, ids=lambda target: target.name)
def test_all_code_that_a_target_can_reach_is_copied_into_it(target):
    roots = {"millrace": "src"}

    outside = {
        module for module in reached(target.entries) if roots.get(top := module.split(".")[0], top) not in target.code
    }

    assert outside == set()


def test_a_forgotten_dependency_is_noticed(tmp_path):
    target = next(target for target in TARGETS if target.name == "predictor")
    lock = tmp_path / "predictor.txt"
    lock.write_text("\n".join(line for line in target.lock.read_text().splitlines() if not line.startswith("uvloop")))

    assert "uvloop" in missing(Target(target.name, lock, target.code, target.entries))


def test_no_target_has_a_framework_that_is_none_of_its_business():
    locked = {target.name: target.locked for target in TARGETS}

    assert {name for name, has in locked.items() if "torch" in has} == {"pipeline", "train", "drift-detector"}
    assert {name for name, has in locked.items() if "kfp" in has} == {"pipeline", "retraining-trigger", "spark-driver"}
    assert not {"feast", "mlflow", "kfp"} & locked["predictor"]
    assert not {"kserve", "feast", "mlflow"} & locked["prediction-log"]
    assert not {name for has in locked.values() for name in has if name.startswith("nvidia-") or name == "pytest"}


def test_what_is_shipped_is_what_was_tested():
    main = {line for line in (ROOT / "requirements" / "main.txt").read_text().splitlines() if "==" in line}
    spark = {line for path in (ROOT / "requirements").glob("spark.in") for line in path.read_text().splitlines()}

    for target in TARGETS:
        if target.lock.parent.name == "images":
            own = {line for line in target.lock.read_text().splitlines() if not line.startswith("py4j==")}  # Spark's
            assert own <= main | spark, f"{target.name}: run make lock"


def stages() -> dict[str, str]:
    """Name of a stage of the Dockerfile → what it is made from."""
    return {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)}


def test_every_target_has_a_stage_on_the_bare_runtime():
    for target in TARGETS:
        assert stages()[target.name] == "runtime"
        assert stages()[f"{target.name}-environment"] == "installer"


def test_bases_are_pinned_by_digest_and_can_be_replaced():
    text = (ROOT / "Dockerfile").read_text()

    assert set(stages().values()) - set(stages()) == {"${PYTHON_IMAGE}"}
    assert re.search(r"^ARG PYTHON_IMAGE=\S+:3\.11\S*@sha256:[0-9a-f]{64}$", text, re.M)
    assert {"PIP_INDEX_URL", "SOURCE_DATE_EPOCH"} <= set(re.findall(r"^ARG (\w+)", text, re.M))


def body(stage: str) -> str:
    """What follows a stage's FROM."""
    text = (ROOT / "Dockerfile").read_text()
    return re.split(r"^FROM ", text.split(f" AS {stage}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def known_to(stage: str) -> set[str]:
    """Variables that a stage's commands see with any engine: its own arguments, and what its parents left as ENV."""
    known = {"PATH", *re.findall(r"^ARG (\w+)", body(stage), re.M)}
    while stage in stages():
        settings = "\n".join(re.findall(r"^ENV ((?:.*\\\n)*.*)", body(stage), re.M))
        known |= set(re.findall(r"(\w+)=", settings))
        stage = stages()[stage]
    return known


def test_every_engine_can_read_the_dockerfile():
    """BuildKit has heredocs and hands arguments on to later stages; buildah and podman of Debian do not."""
    assert "<<" not in (ROOT / "Dockerfile").read_text()
    for stage in stages():
        used = set(re.findall(r"\$\{?(\w+)", "\n".join(re.findall(r"^RUN (.*(?:\\\n.*)*)", body(stage), re.M))))
        assert used <= known_to(stage), stage
    script = (ROOT / "requirements" / "install-lock").read_text()
    assert set(re.findall(r"\$(\w{2,})", script)) - {"name"} <= known_to("predictor-environment")


def test_containers_run_as_a_user_without_rights():
    runtime = (ROOT / "Dockerfile").read_text().split("AS runtime", 1)[1].split("\nFROM ", 1)[0]

    assert re.findall(r"^USER (\S+)", runtime, re.M) == ["10001:10001"]
    for name, stage in re.findall(
        r"^FROM runtime AS (\S+)\n((?:(?!^FROM ).*\n)*)", (ROOT / "Dockerfile").read_text(), re.M
    ):
        assert (re.findall(r"^USER (\S+)", stage, re.M) or ["10001:10001"])[-1] == "10001:10001", name


def test_the_build_context_has_all_that_is_copied_and_no_more():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--)(\S+) /", (ROOT / "Dockerfile").read_text(), re.M)

    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    assert all(any(path == root or path.startswith(f"{root}/") for root in kept) for path in copied)
    assert all(any(path == root or path.startswith(f"{root}/") for path in copied) for root in kept)


def test_each_image_has_a_bill_of_materials_of_just_its_lock(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        subprocess.run([sys.executable, ROOT / "requirements" / "sbom", folder], check=True, capture_output=True)

    for target in TARGETS:
        first, second = ((tmp_path / at / f"{target.name}.cdx.json").read_text() for at in "ab")
        assert {normal(item["name"]) for item in json.loads(first)["components"]} == target.locked
        assert first == second


def test_code_that_is_copied_and_not_installed_knows_its_workloads(tmp_path: Path) -> None:
    program = ROOT / "requirements" / "entry-points"
    subprocess.run([sys.executable, str(program), str(ROOT / "pyproject.toml"), str(tmp_path)], check=True)

    asked = (
        "from importlib.metadata import MetadataPathFinder as finder, DistributionFinder as wanted; import sys;"
        "found = next(iter(finder.find_distributions(wanted.Context(name='millrace', path=[sys.argv[1]]))));"
        "print(*sorted(point.name for point in found.entry_points.select(group='millrace.workloads')))"
    )
    said = subprocess.run([sys.executable, "-c", asked, str(tmp_path)], capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["fraud", "trips"]
