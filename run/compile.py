"""Compile every pipeline to `pipelines/compiled/<name>.yaml`: `python -m run.compile [--check]`.

The compiled files are committed, so that what a cluster runs can be read and reviewed; `--check` fails on a stale one,
and on a reference in one that leads nowhere.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from run.ir import problems, read_package

PIPELINES = {
    "training": "pipelines.training:training",
    "batch_scoring": "pipelines.batch_scoring:batch_scoring",
    "monitoring": "pipelines.monitoring:monitoring",
    "retraining": "pipelines.retraining:retraining",
}
"""Name → where its pipeline function is."""
COMPILED = Path(__file__).parents[1] / "pipelines" / "compiled"


def compile_pipeline(name: str, path: Path, image: str = "") -> None:
    """Write the IR of pipeline `name` to `path`; the same bytes for the same code.

    `image` is put in the place of the pipeline's own; steps that have another one keep it.
    """
    from kfp import compiler

    from components.image import IMAGE

    module, function = PIPELINES[name].split(":")
    pipeline = copy.deepcopy(getattr(import_module(module), function))
    for executor in pipeline.pipeline_spec.deployment_spec["executors"].values():
        if executor["container"]["image"] == IMAGE:
            executor["container"]["image"] = image or IMAGE
    compiler.Compiler().compile(pipeline, str(path))


def stale(name: str) -> str:
    """A unified diff between the committed IR and what the code compiles to now; empty when equal."""
    committed = COMPILED / f"{name}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / committed.name
        compile_pipeline(name, fresh)
        old = committed.read_text(encoding="utf-8").splitlines() if committed.exists() else []
        diff = difflib.unified_diff(
            old, fresh.read_text(encoding="utf-8").splitlines(), str(committed), "compiled now", lineterm=""
        )
        return "\n".join(diff)


def main(argv: list[str] | None = None) -> int:
    """Compile all, or with --check compare all; the exit status is 1 when one is stale."""
    parser = argparse.ArgumentParser(prog="python -m run.compile", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a committed file is stale")
    arguments = parser.parse_args(argv)
    if not arguments.check:
        COMPILED.mkdir(exist_ok=True)
        for name in PIPELINES:
            compile_pipeline(name, COMPILED / f"{name}.yaml")
        return 0
    diffs = {name: diff for name in PIPELINES if (diff := stale(name))}
    sound = [name for name in PIPELINES if name not in diffs]
    dangling = [f"{name}: {one}" for name in sound for one in problems(*read_package(COMPILED / f"{name}.yaml"))]
    print("".join(f"pipelines/compiled/{line}\n" for line in dangling), end="", file=sys.stderr)
    for name, diff in diffs.items():
        print(
            f"pipelines/compiled/{name}.yaml is stale; run `make compile` and commit it.\n{diff[:4000]}",
            file=sys.stderr,
        )
    return int(bool(diffs or dangling))


if __name__ == "__main__":
    sys.exit(main())
