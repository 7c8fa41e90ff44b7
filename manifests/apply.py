"""Apply an overlay and leave the served model as it is: `python manifests/apply.py kind`; --diff only shows.

KServe's CRD takes a predictor's list of containers for one value: once the rollout controller has written the model
into it, a plain server-side apply is refused as a conflict, and a forced one would take the model out. So what the
controller wrote is read from the live object and applied again with the rest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parent
CONTROLLED = ("STORAGE_URI", "MODEL_VERSION")
"""Variables of a predictor that the rollout controller owns."""
Object = dict[str, Any]


def carried(wanted: Object, live: Object) -> Object:
    """`wanted` with the served model of `live`, and its resourceVersion: what changes meanwhile is a conflict."""
    container = wanted["spec"]["predictor"]["containers"][0]
    held = live["spec"].get("predictor", {}).get("containers", [{}])[0].get("env") or []
    served = [variable for variable in held if variable["name"] in CONTROLLED]
    own = [variable for variable in container.get("env", []) if variable["name"] not in CONTROLLED]
    predictor = {**wanted["spec"]["predictor"]}
    predictor["containers"] = [{**container, "env": [*served, *own]}, *predictor["containers"][1:]]
    metadata = {**wanted["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}
    return {**wanted, "metadata": metadata, "spec": {**wanted["spec"], "predictor": predictor}}


def main() -> int:
    """kubectl's status: 0 when all is applied; with --diff 1 when something would change."""
    parser = argparse.ArgumentParser(prog="apply", description=__doc__)
    parser.add_argument("overlay", nargs="?", default="kind")
    parser.add_argument("--diff", action="store_true", help="show what would change, apply nothing")
    options = parser.parse_args()
    folder = MANIFESTS / "overlays" / options.overlay
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in folder.parent.iterdir()))
        sys.exit(f"apply: no overlay {options.overlay!r}; there are {known}")
    built = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    objects = [_as_served(item) for item in yaml.safe_load_all(built.stdout) if item]
    verb = "diff" if options.diff else "apply"
    command = ["kubectl", verb, "--server-side", "--force-conflicts", "-f", "-"]
    return subprocess.run(
        command, input=yaml.safe_dump_all(objects, sort_keys=False), text=True, check=False
    ).returncode


def _as_served(item: Object) -> Object:
    if item["kind"] != "InferenceService" or "containers" not in item["spec"].get("predictor", {}):
        return item
    name, space = item["metadata"]["name"], item["metadata"]["namespace"]
    asked = ["kubectl", "--namespace", space, "get", "inferenceservice", name, "--ignore-not-found", "--output", "json"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(f"apply: {found.stderr.strip()}\nmake check-cluster OVERLAY=… says what the cluster lacks")
    return carried(item, json.loads(found.stdout)) if found.stdout.strip() else item


if __name__ == "__main__":
    sys.exit(main())
