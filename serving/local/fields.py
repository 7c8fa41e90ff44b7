"""Which fields of a manifest mean something here, which only a cluster can honour, and the refusal of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from millrace.errors import ConfigError

USED_SPEC: Final = {"predictor", "transformer"}
USED_COMPONENT: Final = {"containers", "timeout", "logger", "canaryTrafficPercent"}
USED_LOGGER: Final = {"url", "mode"}
USED_PROGRAM: Final = {"template"}
CLUSTER_PROGRAM: Final = {
    "replicas",
    "selector",
    "strategy",
    "revisionHistoryLimit",
    "progressDeadlineSeconds",
    "serviceName",
    "updateStrategy",
    "podManagementPolicy",
    "volumeClaimTemplates",
    "persistentVolumeClaimRetentionPolicy",
}
CLUSTER_POD: Final = {"restartPolicy"}
CLUSTER_COMPONENT: Final = {
    "minReplicas",
    "maxReplicas",
    "volumes",
    "serviceAccountName",
    "securityContext",
    "automountServiceAccountToken",
    "labels",
    "annotations",
    "scaleTarget",
    "scaleMetric",
    "deploymentStrategy",
    "terminationGracePeriodSeconds",
    "affinity",
    "priorityClassName",
    "topologySpreadConstraints",
}
USED_CONTAINER: Final = {"name", "command", "args", "env", "readinessProbe"}
CLUSTER_CONTAINER: Final = {
    "image",
    "imagePullPolicy",
    "ports",
    "resources",
    "livenessProbe",
    "startupProbe",
    "securityContext",
    "volumeMounts",
}
CLUSTER_PROGRAM_CONTAINER: Final = {"lifecycle"}
CLUSTER_ENV: Final = {"HOME", "NUMBA_CACHE_DIR", "TMPDIR", "MILLRACE_STREAM_URL"}
"""A container's file system is read-only; a laptop's is not. Events stay in the home."""
USED_ENV: Final = {"name", "value", "valueFrom"}


def refuse_volumes(volumes: Sequence[Mapping[str, Any]], where: str) -> None:
    for volume in volumes:
        kinds = volume.keys() - {"name", "emptyDir", "persistentVolumeClaim"}
        if kinds:
            raise ConfigError(
                f"{where}.volumes[{volume.get('name')}]: {min(kinds)} is not supported by the local runtime"
            )


def refuse(mapping: Mapping[str, Any], used: set[str], cluster: set[str], where: str) -> None:
    unknown = sorted(mapping.keys() - used - cluster)
    if unknown:
        raise ConfigError(
            f"{where}.{unknown[0]} is not supported by the local runtime; it honours {', '.join(sorted(used))}. "
            "Remove it, or deploy to a cluster."
        )
