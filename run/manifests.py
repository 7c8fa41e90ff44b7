"""Write the Kubernetes objects of workloads to `manifests/workloads`: `python -m run.manifests [--check] [NAME…]`.

They are committed, so that what a cluster gets can be read and reviewed; `--check` fails on a stale one. Other files
beside them are left alone. A new workload is added to `manifests/workloads/kustomization.yaml` by hand, once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from millrace.errors import MillraceError
from millrace.installed import load, package_names
from millrace.lake.atomic import write_text
from millrace.rollout.service import objects

FOLDER: Final = Path(__file__).parents[1] / "manifests" / "workloads"


def stale(name: str, folder: Path = FOLDER) -> list[Path]:
    """Files of a workload that are not what its templates say."""
    wanted = {folder / name / file: text for file, text in objects(load(name)).items()}
    return [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def write(name: str, folder: Path = FOLDER) -> None:
    for file, text in objects(load(name)).items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def main(argv: Sequence[str] | None = None) -> int:
    """0: written, or up to date; 1: stale; 2: no such workload."""
    parser = argparse.ArgumentParser(prog="python -m run.manifests", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads (default: all that are installed)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    options = parser.parse_args(argv)
    try:
        chosen = options.names or package_names()
        if options.check:
            return _check(chosen)
        for name in chosen:
            write(name)
    except MillraceError as error:
        print(f"manifests: {error}", file=sys.stderr)
        return 2
    return 0


def _check(chosen: Sequence[str]) -> int:
    for path in (path for name in chosen for path in stale(name)):
        print(f"{path.relative_to(FOLDER.parents[1])} is stale; run `make manifests` and commit it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
