"""What the current kube context lacks for an overlay, before anything is applied: `python check_cluster.py kind`.

Reads the overlay (kubectl kustomize) and asks the API server with kubectl alone: kinds, versions, Knative's features,
secrets, storage classes; once it is applied also what keeps a pod from starting. Prints a line for each; the status is
the number of things missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parent
VERSIONS = MANIFESTS / "platform" / "versions.yaml"
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    ok: bool
    todo: str = ""
    """What to do where it is not."""

    def __str__(self) -> str:
        return f"{'ok     ' if self.ok else 'MISSING'} {self.what}{'' if self.ok else f': {self.todo}'}"


class Cluster:
    """The API server of the current context; absent things are None."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def get(self, path: str) -> Any:
        """The object or list at `path`; None where there is none. Exits when no server answers."""
        command = ["kubectl", *self._options, "get", "--raw", path]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if answer.returncode == 0:
            return json.loads(answer.stdout)
        if "NotFound" in answer.stderr or "could not find" in answer.stderr:
            return None
        sys.exit(
            f"check-cluster: {answer.stderr.strip() or 'kubectl failed'}\n"
            "Set a context that works: kubectl config use-context …"
        )

    def items(self, path: str) -> list[Object]:
        return list((self.get(path) or {}).get("items", []))


def overlay(name: str) -> list[Object]:
    folder = MANIFESTS / "overlays" / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))
        sys.exit(f"check-cluster: no overlay {name!r}; there are {known}")
    built = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(built.stdout) if document]


def findings(cluster: Cluster, objects: list[Object]) -> Iterator[Finding]:
    yield from server_version(cluster)
    yield from kinds(cluster, objects)
    yield from platform(cluster)
    yield from knative(cluster, objects)
    yield from secrets(cluster, objects)
    yield from storage(cluster, objects)
    yield from pods(cluster)


def server_version(cluster: Cluster) -> Iterator[Finding]:
    """preStop sleeps since 1.30."""
    version = cluster.get("/version") or {}
    minor = int("".join(c for c in str(version.get("minor", "0")) if c.isdigit()) or 0)
    yield Finding(f"Kubernetes {version.get('gitVersion')}", minor >= 30, "wanted 1.30 or later (preStop sleep)")


def kinds(cluster: Cluster, objects: list[Object]) -> Iterator[Finding]:
    """Each API group and kind that the overlay uses."""
    served: dict[str, set[str]] = {}
    for group_version, kind in sorted({(item["apiVersion"], item["kind"]) for item in objects}):
        if group_version not in served:
            path = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
            served[group_version] = {item["kind"] for item in (cluster.get(path) or {}).get("resources", [])}
        yield Finding(
            f"{group_version} {kind}", kind in served[group_version], "install it: manifests/platform/install"
        )


def platform(cluster: Cluster) -> Iterator[Finding]:
    """Controllers that run, and whether they are of the versions that this was written for."""
    for name, part in yaml.safe_load(VERSIONS.read_text(encoding="utf-8")).items():
        if "deployment" not in part:
            continue
        space, deployment = part["deployment"].split("/")
        found = cluster.get(f"/apis/apps/v1/namespaces/{space}/deployments/{deployment}")
        if found is None:
            yield Finding(
                name, not part.get("required", True), f"no Deployment {part['deployment']}: manifests/platform/install"
            )
            continue
        ready = (found.get("status") or {}).get("readyReplicas", 0) > 0
        yield Finding(f"{name} runs", ready, f"kubectl -n {space} describe deployment {deployment}")


def knative(cluster: Cluster, objects: list[Object]) -> Iterator[Finding]:
    """Settings of Knative that the InferenceServices need (platform/knative)."""
    if not any(item["kind"] == "InferenceService" for item in objects):
        return
    for path in sorted((MANIFESTS / "platform" / "knative").glob("config-*.yaml")):
        wanted = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = wanted["metadata"]["name"]
        found = (cluster.get(f"/api/v1/namespaces/knative-serving/configmaps/{name}") or {}).get("data") or {}
        lacking = sorted(key for key, value in wanted["data"].items() if str(found.get(key)).lower() != value)
        yield Finding(
            f"Knative {name}",
            not lacking,
            f"{', '.join(lacking)}: kubectl apply --server-side --force-conflicts -f {path}",
        )


def secrets(cluster: Cluster, objects: list[Object]) -> Iterator[Finding]:
    """Secrets that must be there, with their keys; values are not looked at."""
    wanted: dict[str, set[str]] = {}
    for reference in references(objects, "secretKeyRef"):
        if not reference.get("optional"):
            wanted.setdefault(reference["name"], set()).add(reference["key"])
    for name, keys in sorted(wanted.items()):
        found = cluster.get(f"/api/v1/namespaces/millrace/secrets/{name}")
        lacking = sorted(keys - set((found or {}).get("data") or {}))
        yield Finding(
            f"secret {name}",
            not lacking,
            f"key {', '.join(lacking)}: python manifests/make_secrets.py | kubectl apply -f -",
        )


def storage(cluster: Cluster, objects: list[Object]) -> Iterator[Finding]:
    """A class for every claim; one for ReadWriteMany has to be named, since few defaults can do it."""
    classes = {item["metadata"]["name"]: item for item in cluster.items("/apis/storage.k8s.io/v1/storageclasses")}
    key = "storageclass.kubernetes.io/is-default-class"
    default = [n for n, item in classes.items() if (item["metadata"].get("annotations") or {}).get(key) == "true"]
    for item in objects:
        if item["kind"] == "PersistentVolumeClaim":
            name, spec = item["metadata"]["name"], item["spec"]
            wanted = spec.get("storageClassName")
            ok = wanted in classes if wanted else bool(default)
            todo = f"no StorageClass {wanted}" if wanted else "no default StorageClass"
            yield Finding(
                f"storage for {name} ({', '.join(spec['accessModes'])})",
                ok,
                f"{todo}; there are {', '.join(classes) or 'none'}",
            )


STUCK = {
    "ErrImagePull": "is the tag pushed, or loaded into the node? make images push, then images: of the overlay",
    "ImagePullBackOff": "is the tag pushed, or loaded into the node? make images push, then images: of the overlay",
    "InvalidImageName": "correct it in images: of the overlay",
    "CreateContainerConfigError": "give the secret that key; manifests/platform/secrets.example has them all",
    "CrashLoopBackOff": "kubectl -n millrace logs {pod} -c {container} --previous",
    "Unschedulable": "add nodes, or ask for less in the overlay; kubectl -n millrace describe pod {pod}",
}
"""Reason in a pod's status → what to do."""


def pods(cluster: Cluster) -> Iterator[Finding]:
    """Pods of ours that wait for something that will not come by itself; none before the overlay is applied."""
    for item in cluster.items("/api/v1/namespaces/millrace/pods"):
        pod, status = item["metadata"]["name"], item.get("status") or {}
        for entry in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            waiting = (entry.get("state") or {}).get("waiting") or {}
            if (reason := waiting.get("reason")) in STUCK:
                todo = STUCK[reason].format(pod=pod, container=entry["name"])
                said = f"{reason} ({entry['image']}) {waiting.get('message', '')}".strip()
                yield Finding(f"pod {pod}, container {entry['name']}", ok=False, todo=f"{said}: {todo}")
        for condition in status.get("conditions") or ():
            if (reason := condition.get("reason")) in STUCK:
                todo = STUCK[reason].format(pod=pod)
                yield Finding(f"pod {pod}", ok=False, todo=f"{reason}, {condition.get('message', '')}: {todo}")


def references(node: Any, key: str) -> Iterator[Object]:
    """Every value under `key`, however deep."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            else:
                yield from references(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from references(value, key)


def main() -> int:
    parser = argparse.ArgumentParser(prog="check-cluster", description=__doc__)
    parser.add_argument("overlay", nargs="?", default="kind")
    parser.add_argument("--server", help="API server, as kubectl's option; default: the current context's")
    options = parser.parse_args()
    cluster = Cluster(*(["--server", options.server] if options.server else []))
    found = list(findings(cluster, overlay(options.overlay)))
    print("\n".join(map(str, found)))
    missing = sum(not finding.ok for finding in found)
    print(f"{missing} missing" if missing else f"nothing missing: make apply OVERLAY={options.overlay}")
    return min(missing, 100)


if __name__ == "__main__":
    sys.exit(main())
