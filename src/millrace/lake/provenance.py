"""What made an artifact: the code's version, the packages it ran with, the machine it ran on.

Strings and numbers out, for manifests and for MLflow parameters. Nothing heavy is imported: versions come from package
metadata, and a GPU is named only where torch is loaded already.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import millrace
from millrace.installed import packages

CODE_VERSION_VARIABLE: Final = "MILLRACE_CODE_VERSION"
"""Set in images, where there is no git; wins over everything else."""

SOURCES: Final = (
    "millrace",
    "components",
    "pipelines",
    "run",
    "edge",
    "search",
    "drill",
    "serving",
    "feature_repo",
)
"""The packages whose files are the code, beside the workloads."""

PLUMBING: Final = frozenset(
    f"millrace/{name}.py"
    for name in (
        "__init__",
        "errors",
        "lake/__init__",
        "lake/atomic",
        "lake/manifest",
        "lake/provenance",
        "lake/remote",
        "lake/step",
        "observe/__init__",
        "observe/progress",
        "settings",
        "uris",
    )
)
"""Modules that say how a result is stored and spoken of, not what it is: an edit there changes no id."""

PACKAGES: Final = (
    "duckdb",
    "feast",
    "kfp",
    "kserve",
    "mlflow",
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "torch",
    "xgboost-cpu",
)
"""The packages that change results."""


def code_version() -> str:
    """`git:<commit>`, `git:<commit>+dirty.<hash>` or `<version>+src.<hash>`; MILLRACE_CODE_VERSION wins.

    The hash is over the sources as they are, so that two different dirty trees never share a version.
    """
    return os.environ.get(CODE_VERSION_VARIABLE) or _code_version(source_folders())


def source_folders() -> tuple[Path, ...]:
    """Where the packages in SOURCES and the workloads lie; those that are not installed are left out."""
    specs = (importlib.util.find_spec(name) for name in (*SOURCES, *packages()))
    places = (spec.submodule_search_locations for spec in specs if spec is not None)
    return tuple(Path(next(iter(place))) for place in places if place)


def hash_sources(folders: Iterable[Path]) -> str:
    """12 hex digits over the names and bytes of every Python, YAML and TOML file below `folders`."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in _sources(folder):
            digest.update(f"{folder.name}/{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


@functools.cache  # the code that runs is the code that was there when the process started
def code_of(*entries: Path) -> str:
    """12 hex digits over what decides a result: the sources below `entries` and each module of ours that they import.

    Imports are followed through the packages in SOURCES, those inside functions too, and end at PLUMBING. So a fix in
    `millrace.judge.ranking` gives a new verdict, and one in `millrace.cli` trains no model again.
    """
    roots = source_folders()
    files = code_files(*entries)
    content = sorted((_name(path, roots), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files)
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def code_files(*entries: Path) -> set[Path]:
    """The files that `code_of` hashes."""
    roots = {folder.name: folder for folder in source_folders()}
    waiting = [path for entry in entries for path in (_sources(entry) if entry.is_dir() else [entry])]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found and _name(path, roots.values()) not in PLUMBING:
            found.add(path)
            waiting += _imported(path.read_text(encoding="utf-8"), roots) if path.suffix == ".py" else ()
    return found


def package_versions() -> dict[str, str]:
    """Python's version and that of each of PACKAGES that is installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, str | int | float]:
    """Processor, usable cores, memory in GiB, system; `gpu` where a loaded torch sees one."""
    facts: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return facts


@functools.cache  # the code that runs is the code that was there when the process started
def _code_version(folders: tuple[Path, ...]) -> str:
    commit = _git("rev-parse", "HEAD") if _tracked(Path(millrace.__file__)) else None
    if commit is None:
        return f"{millrace.__version__}+src.{hash_sources(folders)}"
    changed = _git("status", "--porcelain", "--", *map(str, folders))
    return f"git:{commit}" if changed == "" else f"git:{commit}+dirty.{hash_sources(folders)}"


def _sources(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in {".py", ".yaml", ".toml"} and p.is_file())


def _name(path: Path, roots: Iterable[Path]) -> str:
    """`package/…/module.py`, the same wherever the package is installed."""
    root = next((root for root in roots if path.is_relative_to(root)), None)
    return path.name if root is None else path.relative_to(root.parent).as_posix()


_IMPORT: Final = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(?:\(([^)]*)\)|(.*))|import[ \t]+([\w.]+))", re.M
)


def _imported(text: str, roots: dict[str, Path]) -> Iterator[Path]:
    """The files of the modules of ours that a source imports; reading lines costs a tenth of parsing them."""
    for package, listed, plain, module in _IMPORT.findall(text):
        names = [part.split()[0] for part in (listed or plain).split(",") if part.split()]
        for dotted in (module or package, *(f"{package}.{name}" for name in names if package)):
            first, *rest = dotted.split(".")
            place = roots[first].joinpath(*rest) if first in roots else None
            if place is not None:
                yield from (p for p in (place.with_name(f"{place.name}.py"), place / "__init__.py") if p.is_file())


def _tracked(path: Path) -> bool:
    """An installed copy may lie in a virtual environment inside somebody else's checkout: git must know the file."""
    return _git("ls-files", "--error-unmatch", str(path)) is not None


def _git(*arguments: str) -> str | None:
    """What git prints in the folder of this package; None where there is no git, no checkout, or it fails."""
    command = ["git", "-C", str(Path(millrace.__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
