"""What serves and watches a workload, as Kubernetes objects made from the templates in `objects/`. Names in, YAML out.

Promotion points the InferenceService at a version, `serving/local` runs it on a laptop, and `manifests/workloads` holds
all of it for a cluster (`python -m run.manifests`). A template has two places: `model_name` and `workload`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template
from typing import Final

from millrace.installed import Workload
from millrace.variants.document import VARIABLE

OBJECTS: Final = Path(__file__).with_name("objects")
SERVICE: Final = "inferenceservice.yaml"
DRIFT_DETECTOR: Final = "drift-detector.yaml"
FILES: Final = {
    "kustomization.yaml": "kustomization.yaml",
    SERVICE: SERVICE,
    "cluster.patch.yaml": "cluster.patch.yaml",
    "poddisruptionbudget.yaml": "poddisruptionbudget.yaml",
    "drift-detector/kustomization.yaml": "drift-detector.kustomization.yaml",
    "drift-detector/inferenceservice.yaml": DRIFT_DETECTOR,
    "drift-detector/persistentvolumeclaim.yaml": "drift-detector-state.yaml",
    "drift-detector/service.yaml": "drift-events.yaml",
    "rollout/kustomization.yaml": "rollout.kustomization.yaml",
    "rollout/role.yaml": "rollout-role.yaml",
    "rollout/rolebinding.yaml": "rollout-rolebinding.yaml",
    "explainer/kustomization.yaml": "explainer.kustomization.yaml",
    "explainer/explainer.patch.yaml": "explainer.patch.yaml",
    "shadow/kustomization.yaml": "shadow.kustomization.yaml",
    "shadow/inferenceservice.yaml": "shadow.yaml",
    "shadow/mirror.patch.yaml": "mirror.patch.yaml",
}
"""File below `manifests/workloads/<workload>` → its template. Folders are kustomize components that an overlay adds."""


def inference_service(workload: Workload) -> str:
    """The InferenceService of both homes, without a model."""
    return rendered(SERVICE, workload)


def drift_detector(workload: Workload) -> str:
    """The drift detector's InferenceService."""
    return rendered(DRIFT_DETECTOR, workload)


def objects(workload: Workload) -> dict[str, str]:
    """Every file of FILES with its text."""
    return {name: rendered(template, workload) for name, template in FILES.items()}


def rendered(template: str, workload: Workload) -> str:
    """A template with the workload's names in it; what else looks like a place is Kubernetes' own."""
    text = (OBJECTS / template).read_text(encoding="utf-8")
    named = Template(text).safe_substitute(model_name=workload.model_name, workload=workload.name)
    return _documented(named, workload.document) if workload.document else named


def _documented(text: str, document: str) -> str:
    """Every container that is told the name of a variant is given its document: pods have no home to find it in."""
    entry = r"\1- name: MILLRACE_WORKLOAD\2\1- name: {}\n\1  value: {}\n".format(
        VARIABLE, json.dumps(document).replace("\\", r"\\")
    )
    return re.sub(r"( *)- name: MILLRACE_WORKLOAD(\n *value: .*\n)", entry, text)
