"""Training jobs as Kubernetes objects: PyTorchJob (training operator v1, elastic) and TrainJob (Trainer v2).

A kind says how to write its object and how to read its state; `cluster.py` creates, follows and deletes it. Both run
`worker.py` under torchrun, whose rendezvous the operator sets in the environment (`PET_*`), on the volume of the lake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from components.train.launcher import WORKER
from components.train.torchrun import ENVIRONMENT, MAX_RESTARTS
from millrace.settings import Settings

HOME_CLAIM: Final = "millrace-home"
SETTINGS_CONFIG_MAP: Final = "millrace-settings"
SERVICE_ACCOUNT: Final = "millrace-train"
TRAIN_RUNTIME: Final = "torch-distributed"
"""ClusterTrainingRuntime that Trainer v2 installs."""
MANAGER: Final = "millrace.io/train"
LABELS: Final = {"app.kubernetes.io/part-of": "millrace", "app.kubernetes.io/name": "millrace-train"}
CPU: Final = "2"
MEMORY: Final = "4Gi"


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of training job: where its objects live, how one is written, and what ends it."""

    group: str
    version: str
    plural: str
    succeeded: str
    """Condition type of a job that ended well; `Failed` is the other end."""
    pod_label: str
    """Label of its pods, with the job's name as value."""
    manifest: Callable[[str, Path, Settings], dict[str, Any]]
    """(name, work folder, settings) → the object."""

    def ended(self, job: Mapping[str, Any]) -> tuple[bool, str] | None:
        """(well?, the operator's words), or None while it goes on."""
        for condition in (job.get("status") or {}).get("conditions") or []:
            if condition["status"] == "True" and condition["type"] in (self.succeeded, "Failed"):
                return condition["type"] == self.succeeded, condition.get("message", "")
        return None


def pytorch_job(name: str, work: Path, settings: Settings) -> dict[str, Any]:
    """Elastic: goes on with fewer pods when one is lost, and takes it in again when it is back."""
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            "nprocPerNode": str(settings.processes),
            "elasticPolicy": {
                "rdzvBackend": "c10d",
                "minReplicas": settings.train_min_nodes,
                "maxReplicas": settings.train_nodes,
                "maxRestarts": MAX_RESTARTS + settings.train_nodes,
            },
            "runPolicy": {
                "cleanPodPolicy": "None",  # the launcher reads their logs, then deletes the job
                "activeDeadlineSeconds": int(settings.train_timeout_s),
                "backoffLimit": MAX_RESTARTS + settings.train_nodes,
            },
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": settings.train_nodes,
                    "restartPolicy": "OnFailure",
                    "template": {
                        "metadata": {"labels": LABELS, "annotations": {"sidecar.istio.io/inject": "false"}},
                        "spec": _pod(settings, container="pytorch", work=work),
                    },
                }
            },
        },
    }


def train_job(name: str, work: Path, settings: Settings) -> dict[str, Any]:
    """A fixed number of pods: Trainer v2 has no elastic mode yet."""
    pod = _pod(settings, container="node", work=work)
    (container,) = pod.pop("containers")
    patched = {key: container[key] for key in ("name", "securityContext", "volumeMounts")}
    node = {"template": {"spec": {"template": {"metadata": {"labels": LABELS}, "spec": _patchable(pod, patched)}}}}

    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            "runtimeRef": {"name": TRAIN_RUNTIME},
            "activeDeadlineSeconds": int(settings.train_timeout_s),
            "trainer": {
                "image": settings.train_image,
                "command": container["command"],
                "env": container["env"],
                "numNodes": settings.train_nodes,
                "numProcPerNode": settings.processes,
                "resourcesPerNode": container["resources"],
            },
            "runtimePatches": [
                {
                    "manager": MANAGER,
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [{"name": "node", **node}]}}},
                }
            ],
        },
    }


KINDS: Final = {
    "pytorchjob": JobKind(
        "kubeflow.org", "v1", "pytorchjobs", "Succeeded", "training.kubeflow.org/job-name", pytorch_job
    ),
    "trainjob": JobKind(
        "trainer.kubeflow.org", "v1alpha1", "trainjobs", "Complete", "jobset.sigs.k8s.io/jobset-name", train_job
    ),
}


def _pod(settings: Settings, *, container: str, work: Path) -> dict[str, Any]:
    """One training pod: no rights at the API server, no secret, a read-only root."""
    home = str(settings.home)
    return {
        "serviceAccountName": SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001},
        "containers": [
            {
                "name": container,
                "image": settings.train_image,
                "command": ["python", "-m", "torch.distributed.run", "--module", WORKER, str(work)],
                "env": [{"name": key, "value": value} for key, value in _environment(home).items()],
                "resources": {"requests": {"cpu": CPU, "memory": MEMORY}, "limits": {"memory": MEMORY}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "volumeMounts": [{"name": "home", "mountPath": home}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
            }
        ],
        "volumes": [
            {"name": "home", "persistentVolumeClaim": {"claimName": HOME_CLAIM}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }


def _environment(home: str) -> dict[str, str]:
    return ENVIRONMENT | {"MILLRACE_HOME": home, "MILLRACE_LOG_FORMAT": "json"}


def _patchable(pod: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a pod that a runtime patch may change."""
    kept = {key: value for key, value in pod.items() if key in ("serviceAccountName", "securityContext", "volumes")}
    return kept | {"containers": [container]}
